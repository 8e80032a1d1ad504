"""From the arrays of a call to launches: kept calls, arguments, backends, sources."""
