"""Other libraries' implementations of the same operations."""
