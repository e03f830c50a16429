"""Who gets which version: the allocation of slots and its history."""
