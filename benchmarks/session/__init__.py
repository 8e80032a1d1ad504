"""A benchmark session: inputs, contenders, checks and times of one problem after another."""
