"""From a plan to launches: sources, backends, arguments."""
