"""What is known of each operation outside its kernel, and the rules for dtypes."""
