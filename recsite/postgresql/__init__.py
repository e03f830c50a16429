"""Django's PostgreSQL backend, which here waits for no answer without end: `limits.py` says how long."""
