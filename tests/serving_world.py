"""What serving is asked about in tests without a process: tenants, tables in a dictionary, tokens, a door's way.

Everything has a default, so that a test says only what it is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from serving import engine
from serving.engine import UNAVAILABLE, Block
from serving.formats import snapshot as published
from serving.formats.keys import block_bits_for
from serving.formats.layouts import Layout
from serving.formats.seals import seal_of
from serving.formats.tokens import derive_key, header_parameters
from serving.http import JSON, Request, Response
from serving.world import World
from tests.table_blocks import table_blocks

NOW = 1_800_000_000
PREFIX = "test"
AUDIENCE = "the-audience"
ISSUER = "the-issuer"
SEAL_KEYS = {"sk1": b"s" * 32}
MASTER_KEYS = {"mk1": b"1" * 32, "mk2": b"2" * 32}
SETTINGS = engine.Settings(PREFIX, 72 * 3600)

FIXED: list[dict[str, Any]] = [
    {"name": "offer", "type": "uint", "min": 0, "max": 1000},
    {"name": "gift", "type": "bool"},
]
VARIABLE: list[dict[str, Any]] = [
    {"name": "title", "type": "string", "max_bytes": 40},
    {"name": "items", "type": "list", "max_items": 5, "item": {"type": "uint", "min": 0, "max": 99}, "optional": True},
]
DEFAULT = {"offer": 1, "gift": False}
ANA = {"offer": 7, "gift": True}
ROWS = {"ana": ANA, "ben": {"offer": 8, "gift": False}}

SIGNING_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32)
TRUSTED = {"k1": SIGNING_KEY.public_key()}


# --- Tables ---------------------------------------------------------------------------------------------------------


class Store:
    """A Redis of blocks. `is_away` makes every read fail, as a time-out does."""

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.is_away = False

    def write(
        self,
        table_id: str,
        rows: Mapping[Any, Mapping[str, Any]],
        layout: list[dict[str, Any]] = FIXED,
        *,
        block_bits: int | None = None,
        sealed_for: str | None = None,
    ) -> published.Table:
        """Write a table, rows by key (a text or a tuple of them), and give what a snapshot says of it.

        It is sealed with the first of `SEAL_KEYS` if there is a tenant's id to seal it for.
        """
        bits = block_bits_for(len(rows)) if block_bits is None else block_bits
        by_key = {(key,) if isinstance(key, str) else key: record for key, record in rows.items()}
        key_id, seal = "", None
        if sealed_for is not None:
            key_id = next(iter(SEAL_KEYS))
            seal = seal_of(SEAL_KEYS, key_id, sealed_for, table_id)
        self.blocks |= table_blocks(PREFIX, table_id, by_key, Layout.parse(layout), bits, seal)
        return published.Table(table_id, bits, len(rows), NOW, key_id)

    def lose(self, table_id: str) -> None:
        """Forget a table's blocks."""
        for name in [name for name in self.blocks if f":t:{table_id}:" in name]:
            del self.blocks[name]

    def damage(self, table_id: str) -> None:
        """Cut a byte off each of a table's blocks."""
        for name in [name for name in self.blocks if f":t:{table_id}:" in name]:
            self.blocks[name] = self.blocks[name][:-1]

    def read(self, names: Sequence[str]) -> list[Block]:
        """Return the blocks as a door's reader does."""
        self.reads.extend(names)
        return [UNAVAILABLE if self.is_away else self.blocks.get(name) for name in names]


def table(table_id: str = "table1", *, block_bits: int = 0) -> published.Table:
    """Return what a snapshot says of a table that nobody wrote."""
    return published.Table(table_id, block_bits, 1, NOW)


# --- Snapshots ------------------------------------------------------------------------------------------------------


def version(
    active: published.Table | None = None,
    previous: published.Table | None = None,
    *,
    name: str = "2026-11-a",
    code: int = 0,
    layout_revision: int = 3,
) -> published.Version:
    """Return a version."""
    return published.Version(name, code, layout_revision, active, previous)


def model(
    *versions: published.Version,
    slug: str = "offers",
    key_fields: tuple[str, ...] = ("player_id",),
    unit_field: str | None = "player_id",
    layout: list[dict[str, Any]] = FIXED,
    layout_revisions: tuple[int, ...] = (3,),
    default: dict[str, Any] | None = None,
    default_revision: int = 1,
    max_client_age_seconds: int = 60,
    salt: str = "salt",
    allocation: bytes = bytes(10_000),
    overrides: dict[str, int] | None = None,
) -> published.Model:
    """Return a model; one never loaded version unless told otherwise."""
    return published.Model(
        slug=slug,
        key_fields=key_fields,
        unit_field=unit_field,
        layouts=tuple(published.Layout(revision, layout, default, default_revision) for revision in layout_revisions),
        default=default,
        default_revision=default_revision,
        max_client_age_seconds=max_client_age_seconds,
        salt=salt,
        phase=1,
        allocation=allocation,
        allocation_revision=1,
        versions=versions or (version(),),
        overrides=overrides or {},
    )


def credential(
    credential_id: str = "cr_one",
    *,
    models: tuple[str, ...] | None = None,
    accepted: tuple[published.AcceptedKey, ...] = (published.AcceptedKey(1, "mk1"),),
    rate: int = 1_000_000,
    burst: int = 1_000_000,
) -> published.Credential:
    """Return a credential whose tokens this service signs."""
    return published.Credential(credential_id, models, "HS256", accepted, "", ISSUER, rate, burst)


def signer(credential_id: str, algorithm: Any, private_key: Any, *, issuer: str = "the-studio") -> published.Credential:
    """Return a credential whose tokens the studio signs itself."""
    public = private_key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return published.Credential(credential_id, None, algorithm, (), pem.decode(), issuer, 1_000_000, 1_000_000)


def tenant(
    *models: published.Model,
    tenant_id: str = "t1",
    slug: str = "aurora",
    credentials: tuple[published.Credential, ...] = (credential(),),
    rate: int = 1_000_000,
    burst: int = 1_000_000,
    is_ended: bool = False,
) -> published.Tenant:
    """Return a tenant."""
    return published.Tenant(tenant_id, slug, is_ended, credentials, models, rate, burst)


def snapshot(content: published.Tenant, revision: int = 1, *, issued_at: int = NOW) -> published.Snapshot:
    """Return a snapshot of a tenant."""
    return published.Snapshot(published.FORMAT, revision, issued_at, content)


def envelope(
    content: published.Tenant,
    revision: int = 1,
    *,
    issued_at: int = NOW,
    key: ed25519.Ed25519PrivateKey = SIGNING_KEY,
    key_id: str = "k1",
) -> bytes:
    """Return a signed snapshot, with a trusted key unless told otherwise."""
    return published.sign_snapshot(snapshot(content, revision, issued_at=issued_at), key_id, key)


def world(
    *tenants: published.Tenant, master_keys: dict[str, bytes] | None = None, seal_keys: dict[str, bytes] | None = None
) -> World:
    """Return a world that knows some tenants."""
    known = World(
        MASTER_KEYS if master_keys is None else master_keys, AUDIENCE, SEAL_KEYS if seal_keys is None else seal_keys
    )
    for content in tenants:
        known.put(snapshot(content))
    return known


# --- Tokens ---------------------------------------------------------------------------------------------------------


def claims(**changes: Any) -> dict[str, Any]:
    """Return a server token's claims with some changed; `...` leaves one out."""
    good: dict[str, Any] = {"aud": AUDIENCE, "iss": ISSUER, "iat": NOW, "exp": NOW + 900}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def token(
    credential_id: str = "cr_one",
    *,
    generation: int = 1,
    master_key_id: str = "mk1",
    headers: dict[str, Any] | None = None,
    payload: Any = None,
    **changes: Any,
) -> str:
    """Return a token as the token endpoint mints it."""
    key = derive_key(MASTER_KEYS[master_key_id], master_key_id, credential_id, generation)
    own = header_parameters(credential_id, generation, master_key_id)
    return jwt.encode(
        claims(**changes) if payload is None else payload, key, algorithm="HS256", headers={**own, **(headers or {})}
    )


def studio_token(credential_id: str, algorithm: str, private_key: Any, **changes: Any) -> str:
    """Return a token as a studio's own backend signs it."""
    payload = claims(**{"iss": "the-studio", **changes})
    return jwt.encode(payload, private_key, algorithm=algorithm, headers={"kid": credential_id})


def aurora(store: Store, rows: Mapping[Any, Mapping[str, Any]] = ROWS, **changes: Any) -> World:
    """Return a world whose one model has one version over these rows."""
    return world(tenant(model(version(store.write("table1", rows)), **changes)))


# --- Asking ---------------------------------------------------------------------------------------------------------


def get(
    query: str | Mapping[str, str] = "",
    *,
    bearer: str | None = None,
    authorization: str | None = "",
    accept: str | None = None,
    if_none_match: str | None = None,
    method: str = "GET",
) -> Request:
    """Return a GET; with a server token of `cr_one` unless told otherwise."""
    if authorization == "":
        authorization = f"Bearer {token() if bearer is None else bearer}"
    text = query if isinstance(query, str) else urlencode(query)
    return Request(method, text, authorization, accept, if_none_match, None, b"")


def post(
    body: bytes,
    *,
    bearer: str | None = None,
    accept: str | None = None,
    content_type: str | None = JSON,
    query: str = "",
) -> Request:
    """Return a POST."""
    authorization = f"Bearer {token() if bearer is None else bearer}"
    return Request("POST", query, authorization, accept, None, content_type, body)


def answer(request: Request, known: World, store: Store, now: float = NOW) -> Response:
    """Return the answer, going the way that both doors go."""
    step = engine.begin(request, known, now, SETTINGS)
    while not isinstance(step, Response):
        step = step.resume([step.opened(index, block) for index, block in enumerate(store.read(step.names))])
    return step


def header(response: Response, name: str) -> str | None:
    """Return a response's header."""
    return dict(response.headers).get(name)


def problem(response: Response) -> tuple[int, str]:
    """Return an error's status and stable code, having looked at its form."""
    body = json.loads(response.body)
    assert header(response, "content-type") == "application/problem+json"
    assert header(response, "cache-control") == "no-store"
    assert body.keys() == {"type", "title", "status", "code", "detail"}
    assert body["status"] == response.status
    assert body["code"] == response.code
    return response.status, response.code
