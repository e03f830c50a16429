"""Redis as serving sees it: addresses, clients, topology, and the reader of blocks."""
