"""Measurements of cusoftmax: the modules at the top are commands, the folders what they share."""
