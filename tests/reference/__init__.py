"""The NumPy reference, against SciPy and mpmath."""
