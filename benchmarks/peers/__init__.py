"""The same endpoint as others would build it; one folder each."""
