"""The public functions: they resolve options, name the operation and launch it."""
