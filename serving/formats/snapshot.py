"""The snapshot: all that serving must know about one tenant, in one signed document.

The envelope is MessagePack `[key_id, document, signature]`; the signature is Ed25519 over a fixed context and the
document's bytes, so that whoever can write to Redis can still not forge one. No secret is ever in a snapshot.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from serving.formats.encoding import base64url_decode

T = TypeVar("T")
FORMAT = 1
_CONTEXT = b"recsite snapshot 1\n"
_ROSTER_CONTEXT = b"recsite roster 1\n"


class BadSnapshot(ValueError):
    """An envelope that is damaged, unsigned, or signed with a key that is not trusted."""


class AcceptedKey(msgspec.Struct, frozen=True):
    """One derived key whose tokens are accepted: what to derive it from, and until when (Unix seconds)."""

    generation: int
    master_key_id: str
    until: int | None = None


class Credential(msgspec.Struct, frozen=True):
    """A credential as serving sees it. Revoked ones are not in the snapshot at all.

    Attributes:
        id: the `kid` of its tokens.
        models: slugs it may ask for; None for all of the tenant's.
        algorithm: HS256, EdDSA, ES256 or RS256: the only one its tokens may use.
        accepted: for HS256, the keys its tokens may be signed with, the newest first: of two secrets in an overlap, by
            two master keys while those are replaced.
        public_key: for the others, PEM.
        issuer: what `iss` must be.
    """

    id: str
    models: tuple[str, ...] | None
    algorithm: Literal["HS256", "EdDSA", "ES256", "RS256"]
    accepted: tuple[AcceptedKey, ...]
    public_key: str
    issuer: str
    requests_per_second: int
    burst: int


class Layout(msgspec.Struct, frozen=True):
    """One layout revision: what `serving.formats.layouts.Layout.parse` reads, and its default.

    Attributes:
        default: the record answered when a key of a version with this layout has no row; None for none.
        default_revision: grows with every change of the default; 0: the release before published this, and the default
            is the model's.
    """

    revision: int
    fields: list[dict[str, Any]]
    default: dict[str, Any] | None = None
    default_revision: int = 0


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """A table in Redis. `loaded_at` is Unix seconds; `seal` the id of the key that seals its blocks, "" without one."""

    id: str
    block_bits: int
    row_count: int
    loaded_at: int
    seal: str = ""


class Version(msgspec.Struct, frozen=True):
    """A version with its active table and the one before it; both None until its first load."""

    name: str
    code: int
    layout_revision: int
    active: Table | None
    previous: Table | None


class Model(msgspec.Struct, frozen=True):
    """A model that has an allocation (one without is not in the snapshot).

    Attributes:
        unit_field: the key field that is bucketed; None for the whole key.
        default: for lanes of the release before: a record that each of the layouts can hold; None for none.
        default_revision: grows with every change of a default.
        allocation: 10,000 version codes, one a slot.
        versions: those that a slot or an override gives, and those that have been loaded.
        layouts: those of these versions.
        overrides: version code by unit.
        serves_default: everybody gets the default, for which the versions have no tables.
    """

    slug: str
    key_fields: tuple[str, ...]
    unit_field: str | None
    layouts: tuple[Layout, ...]
    default: dict[str, Any] | None
    default_revision: int
    max_client_age_seconds: int
    salt: str
    phase: int
    allocation: bytes
    allocation_revision: int
    versions: tuple[Version, ...]
    overrides: dict[str, int]
    serves_default: bool = False


class Tenant(msgspec.Struct, frozen=True):
    """What a tenant has. A tenant that has ended is a tombstone: `is_ended` and nothing else."""

    id: str
    slug: str
    is_ended: bool
    credentials: tuple[Credential, ...]
    models: tuple[Model, ...]
    requests_per_second: int
    burst: int


class Snapshot(msgspec.Struct, frozen=True):
    """A tenant at one revision. `issued_at` is Unix seconds; `revision` only grows."""

    format: int
    revision: int
    issued_at: int
    tenant: Tenant


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """One tenant on the roster: what was published of it, where that is what the database still says.

    Attributes:
        digest: of the content of that revision (`content_digest`); empty where there is something newer to publish, so
            that nobody's word is renewed that the control plane would not give today.
    """

    id: str
    revision: int
    digest: bytes


class Roster(msgspec.Struct, frozen=True):
    """Whom there is to know: all tenants, ended ones too; none is a statement as well.

    Without it a Redis that was emptied, and is being filled again, looks like a whole one with few tenants. It also
    signs anew, at `issued_at` (Unix seconds), the snapshots that it names by revision and digest.
    """

    issued_at: int
    tenants: tuple[Listed, ...]

    @property
    def tenant_ids(self) -> tuple[str, ...]:
        """The ids alone."""
        return tuple(listed.id for listed in self.tenants)


class _ContentOf(msgspec.Struct, frozen=True):
    tenant: msgspec.Raw


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)
_content_decoder = msgspec.msgpack.Decoder(_ContentOf)
_roster_decoder = msgspec.msgpack.Decoder(Roster)
_envelope_decoder = msgspec.msgpack.Decoder(tuple[str, bytes, bytes])


def content_digest_input(tenant: Tenant) -> bytes:
    """Return bytes that are equal exactly when two tenants' contents are: what tells whether to publish again."""
    return _encoder.encode(tenant)


def content_digest(envelope: bytes) -> bytes:
    """Return the SHA-256 of the content in an envelope that was opened before, in the very bytes that were signed.

    Encoding it again would give other bytes where this release knows a field more than the one that signed.
    """
    _, document, _ = _envelope_decoder.decode(envelope)
    return hashlib.sha256(_content_decoder.decode(document).tenant).digest()


def envelope_start(key_id: str) -> bytes:
    """Return the bytes with which every envelope begins that this key signed."""
    return b"\x93" + _encoder.encode(key_id)


def sign_snapshot(snapshot: Snapshot, key_id: str, private_key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a snapshot."""
    return _signed(_CONTEXT, _encoder.encode(snapshot), key_id, private_key)


def sign_roster(roster: Roster, key_id: str, private_key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a roster."""
    return _signed(_ROSTER_CONTEXT, _encoder.encode(roster), key_id, private_key)


def _signed(context: bytes, document: bytes, key_id: str, private_key: Ed25519PrivateKey) -> bytes:
    return _encoder.encode((key_id, document, private_key.sign(context + document)))


def open_snapshot(envelope: bytes, trusted: dict[str, Ed25519PublicKey]) -> Snapshot:
    """Return the snapshot in an envelope, its signature checked before anything in it is read.

    Raises:
        BadSnapshot: see there; also a format this release does not know.
    """
    snapshot = _opened(_CONTEXT, _snapshot_decoder, envelope, trusted)
    if snapshot.format != FORMAT:
        raise BadSnapshot(f"it is of format {snapshot.format}, this release reads format {FORMAT}")
    return snapshot


def open_roster(envelope: bytes, trusted: dict[str, Ed25519PublicKey]) -> Roster:
    """Return the roster in an envelope; BadSnapshot as of snapshots."""
    return _opened(_ROSTER_CONTEXT, _roster_decoder, envelope, trusted)


def _opened(
    context: bytes, decoder: msgspec.msgpack.Decoder[T], envelope: bytes, trusted: dict[str, Ed25519PublicKey]
) -> T:
    """Return what an envelope holds, its signature checked before anything in it is read."""
    try:
        key_id, document, signature = _envelope_decoder.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadSnapshot("it is not a snapshot envelope") from None
    key = trusted.get(key_id)
    if key is None:
        raise BadSnapshot("it is signed with a key that is not trusted here")
    try:
        key.verify(signature, context + document)
    except InvalidSignature:
        raise BadSnapshot("its signature does not fit") from None
    try:
        return decoder.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSnapshot(f"its document is of another shape: {error}") from None


def parse_public_keys(setting: str) -> dict[str, Ed25519PublicKey]:
    """Read `key_id:base64url,…` (the setting RECSITE_SNAPSHOT_PUBLIC_KEYS)."""
    pairs = (item.strip().partition(":") for item in setting.split(","))
    return {key_id: Ed25519PublicKey.from_public_bytes(base64url_decode(raw)) for key_id, _, raw in pairs}


def parse_private_key(setting: str) -> tuple[str, Ed25519PrivateKey]:
    """Read `key_id:base64url` (the setting RECSITE_SNAPSHOT_PRIVATE_KEY)."""
    key_id, _, raw = setting.strip().partition(":")
    return key_id, Ed25519PrivateKey.from_private_bytes(base64url_decode(raw))


# --- Where snapshots lie in Redis ------------------------------------------------------------------------------------


def snapshot_name(prefix: str, tenant_id: str) -> str:
    """Return the Redis key (a string) of a tenant's envelope."""
    return f"{prefix}:s:{tenant_id}"


def revisions_name(prefix: str) -> str:
    """Return the Redis key (a hash: tenant id → revision, decimal) that serving polls."""
    return f"{prefix}:revisions"


def roster_name(prefix: str) -> str:
    """Return the Redis key (a string) of the roster's envelope."""
    return f"{prefix}:roster"


def announcements_name(prefix: str) -> str:
    """Return the pub/sub channel on which a tenant id is announced after its snapshot was written."""
    return f"{prefix}:announce"
