"""What is measured: the operations, and the problems of each suite."""
