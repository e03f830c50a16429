"""Examples: the generator behind the demo's data."""
