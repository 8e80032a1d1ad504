"""What is learned without running a kernel: plans, compiled code, calls that launch nothing."""
