"""From a call's arrays to launches: checks, folding, plans."""
