"""What the compiler made of the kernels, and what that is predicted to cost."""
