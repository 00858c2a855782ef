"""The checks, by subject; each registers itself in `registry`."""
