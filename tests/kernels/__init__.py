"""What holds of the kernels of any operation: same bits, traffic, large arrays, few blocks."""
