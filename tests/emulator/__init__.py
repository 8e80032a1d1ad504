"""The emulator: what it finds wrong with kernels, and what it counts."""
