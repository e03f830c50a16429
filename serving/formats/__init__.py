"""The formats that must not drift: keys, slots, bits, blocks, snapshots, tokens. Pure functions and frozen structs."""
