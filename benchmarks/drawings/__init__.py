"""What `benchmarks.pictures` draws."""
