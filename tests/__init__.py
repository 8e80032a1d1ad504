"""The tests; the README says how to run them. What they share is in `support`."""
