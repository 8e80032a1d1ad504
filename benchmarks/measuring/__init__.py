"""What a time is taken on, how it is taken, and the file that it is written to."""
