"""From a source to a table in Redis: extract, check, pack, write, verify, activate."""
