"""The table of operations, and the rules for dtypes."""
