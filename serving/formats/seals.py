"""Seals: the last 8 bytes of a block, by which a reader knows that a loader wrote it, for this table and this place.

Whoever can write to Redis and no more can lose a block, not choose what it says: those who load and those who serve
hold the keys. Each studio's is derived from the installation's, so that no studio's block passes for another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serving.formats.snapshot import Table
from serving.formats.tokens import parse_master_keys

SEAL_BYTES = 8


class Seal:
    """Seals and opens the blocks of one table.

    A keyed BLAKE2b over the table's id, a zero byte, the block's number (8 bytes, big-endian) and its content.
    """

    __slots__ = ("_of_table",)

    def __init__(self, key: bytes, table_id: str) -> None:
        self._of_table = blake2b(
            table_id.encode() + b"\0", key=key, digest_size=SEAL_BYTES, person=b"recsite block", usedforsecurity=True
        )

    def of(self, number: int, content: bytes) -> bytes:
        """Return the seal of a block's content."""
        own = self._of_table.copy()
        own.update(number.to_bytes(8, "big"))
        own.update(content)
        return own.digest()

    def opened(self, number: int, block: bytes) -> bytes | None:
        """Return the content of a block whose seal is good, else None."""
        content = block[:-SEAL_BYTES]
        return content if compare_digest(self.of(number, content), block[-SEAL_BYTES:]) else None


def parse_seal_keys(setting: str | None) -> dict[str, bytes]:
    """Read `id:base64url,…` (the setting RECSITE_SEAL_KEYS), or nothing; the first seals, all open.

    Raises:
        ValueError: as of token master keys, which look alike.
    """
    return parse_master_keys(setting) if setting else {}


def seal_of(keys: Mapping[str, bytes], key_id: str, tenant_id: str, table_id: str) -> Seal:
    """Return the seal of a studio's table, made with one of some keys.

    Raises:
        KeyError: that key is not among them.
    """
    info = f"recsite seal\x00{tenant_id}\x00{key_id}".encode()
    own = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(keys[key_id])
    return Seal(own, table_id)


class TenantSeals(NamedTuple):
    """What one tenant's tables are opened with: this process's keys, by id."""

    keys: Mapping[str, bytes]
    tenant_id: str

    def of(self, table: Table) -> Seal | None:
        """Return what opens a table's blocks, if they are sealed, and with a key that is here."""
        return seal_of(self.keys, table.seal, self.tenant_id, table.id) if table.seal in self.keys else None
