"""What the compiler made of the kernels: registers, spills, instructions, predicted cost."""
