"""Canonical keys, where a key's row lies in a table, and which slot a unit falls into."""

from collections.abc import Iterable

# Python's own MD5. OpenSSL's, which `hashlib` gives, takes 0.6 µs more to set up, and a request takes two.
try:
    from _md5 import md5  # type: ignore[import-not-found]  # typeshed does not describe it
except ImportError:
    from functools import partial
    from hashlib import md5 as _md5

    md5 = partial(_md5, usedforsecurity=False)

SEPARATOR = "\x1f"
MAX_KEY_BYTES = 256
SLOTS = 10_000
FINGERPRINT_BYTES = 6
MAX_BLOCK_BITS = 30
MEAN_ROWS_PER_BLOCK = 64


class BadKey(ValueError):
    """A key that no table can hold; the message says why in words a client's author understands."""


def canonical_key(values: Iterable[str]) -> bytes:
    """Return the key as bytes: the values in key-field order, joined by U+001F, in UTF-8.

    Raises:
        BadKey: a value is empty, holds a character below U+0020, is not Unicode text (a lone surrogate), or the whole
            is longer than 256 bytes.
    """
    parts = list(values)
    for part in parts:
        if not part:
            raise BadKey("a key value is empty")
        if min(part) < " ":
            raise BadKey("a key value holds a control character")
    try:
        key = SEPARATOR.join(parts).encode()
    except UnicodeEncodeError:
        raise BadKey("a key value is not valid Unicode text") from None
    if len(key) > MAX_KEY_BYTES:
        raise BadKey(f"the key is longer than {MAX_KEY_BYTES} bytes")
    return key


def digest(key: bytes) -> bytes:
    """Return the 16 bytes that place a canonical key."""
    hashed: bytes = md5(key).digest()
    return hashed


def locate(key_digest: bytes, block_bits: int) -> tuple[int, bytes]:
    """Return the block number (0 … 2^block_bits - 1) and the 6-byte fingerprint inside that block."""
    return int.from_bytes(key_digest[:8], "big") >> (64 - block_bits), key_digest[8:14]


def block_bits_for(rows: int) -> int:
    """Return the smallest number of block bits that keeps the mean rows per block at or below 64 (at most 30)."""
    bits = 0
    while bits < MAX_BLOCK_BITS and rows > MEAN_ROWS_PER_BLOCK << bits:
        bits += 1
    return bits


def block_name(prefix: str, table_id: str, block: int) -> str:
    """Return the Redis key of one block. No braces: they would pin a cluster slot."""
    return f"{prefix}:t:{table_id}:{block:x}"


def lost_tables_name(prefix: str) -> str:
    """Return the Redis key (a set of table ids) in which serving notes tables that it found blocks of to be lost."""
    return f"{prefix}:lost"


def slot(salt: str, unit: str) -> int:
    """Return the slot (0 … 9,999) that a unit hashes to in the phase with this salt."""
    # The first 15 of its hexadecimal digits, as `int(hexdigest[:15], 16)` would read them.
    return (int.from_bytes(md5(f"{salt}:{unit}".encode()).digest(), "big") >> 68) % SLOTS
