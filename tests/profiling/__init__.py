"""`cusoftmax profile`: its readers of what profilers print."""
