"""Measurements that anyone can repeat: `make bench-…`. What they found is in docs/performance.md."""
