"""Template libraries for every surface."""
