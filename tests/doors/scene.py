"""What both doors are asked about: tenants, tables in every condition, credentials of every kind, and their tokens.

Written straight to Redis in the published formats: no database, no loader, so that what is compared is serving alone.
"""

from __future__ import annotations

import time
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from django.conf import settings

from serving.formats import snapshot as published
from serving.formats.keys import block_bits_for, block_name, digest
from serving.formats.layouts import Layout
from serving.formats.seals import parse_seal_keys, seal_of
from serving.formats.tokens import derive_key, header_parameters, parse_master_keys
from serving.redis.clients import Client
from tests.table_blocks import table_blocks

PLAYERS = 400
OFFER_LAYOUT: list[dict[str, Any]] = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "discount", "type": "decimal", "min": 0, "max": 1, "step": 0.01},
    {"name": "segment", "type": "enum", "values": ["new", "loyal", "sleeping"]},
    {"name": "items", "type": "list", "max_items": 5, "item": {"type": "uint", "min": 0, "max": 999}},
    {"name": "title", "type": "string", "max_bytes": 24, "optional": True},
]
LEVEL_LAYOUT: list[dict[str, Any]] = [
    {"name": "difficulty", "type": "uint", "min": 1, "max": 10},
    {"name": "boost", "type": "bool"},
]
OFFER_DEFAULT = {"offer_id": 1, "discount": 0.05, "segment": "new", "items": [7], "title": "Willkommen ☀"}
LEVEL_DEFAULT = {"difficulty": 5, "boost": False}
COUNTRIES = ["DE", "日本", "BR"]


def player(number: int) -> str:
    """Return a player id."""
    return f"p{number:04d}"


def offer(tenant: str, version: str, number: int) -> dict[str, Any]:
    """Return the offer that a tenant's version has for a player."""
    seed = int.from_bytes(digest(f"{tenant}/{version}/{number}".encode())[:6], "big")
    return {
        "offer_id": seed % 4096,
        "discount": seed % 101 / 100,
        "segment": ("new", "loyal", "sleeping")[seed % 3],
        "items": [(seed >> shift) % 1000 for shift in range(seed % 6)],
        "title": None if seed % 4 == 0 else f"Angebot {seed % 97} é",
    }


def level(country: str, band: int) -> dict[str, Any]:
    """Return the difficulty of a country and level band."""
    return {"difficulty": 1 + (len(country.encode()) + band) % 10, "boost": band % 2 == 0}


# Which tables say that they are sealed, and with which key.
SEALED = {"tab-sealed": "test1", "tab-swapped": "test1", "tab-strange": "nobodys"}


class Scene:
    """Everything that is published and stored for one comparison of the doors.

    Args:
        client: the Redis both doors read.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.now = int(time.time())
        self.revision = self.now * 1000
        self.ed25519 = ed25519.Ed25519PrivateKey.generate()
        self.es256 = ec.generate_private_key(ec.SECP256R1())
        self.rs256 = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        self.master_keys = parse_master_keys(settings.TOKEN_MASTER_KEYS)
        self.master_key_id = next(iter(self.master_keys))
        self.seal_keys = parse_seal_keys(settings.SEAL_KEYS)

    # --- Tables -----------------------------------------------------------------------------------------------------

    def write_all(self) -> None:
        """Write every table and publish every tenant."""
        offers, levels = Layout.parse(OFFER_LAYOUT), Layout.parse(LEVEL_LAYOUT)
        for tenant, table, version in (
            ("aurora", "tab-a", "one"),
            ("aurora", "tab-b", "two"),
            ("aurora", "tab-prev", "one"),
            ("borealis", "tab-x", "one"),
        ):
            self._write(table, offers, {(player(n),): offer(tenant, version, n) for n in range(PLAYERS)})
        self._write("tab-bare", levels, {(player(n),): level("DE", n) for n in range(PLAYERS)})
        self._write("tab-level", levels, {(c, str(b)): level(c, b) for c in COUNTRIES for b in range(20)})
        for block in range(1 << block_bits_for(PLAYERS)):
            self.client.set(block_name(settings.REDIS_PREFIX, "tab-damaged", block), b"\x00\x05not a block")
        self._write("tab-sealed", offers, {(player(n),): offer("aurora", "one", n) for n in range(PLAYERS)})
        # Blocks of another table, seals and all, as whoever can write to Redis would put them there.
        for block in range(1 << block_bits_for(PLAYERS)):
            taken = cast(bytes, self.client.get(block_name(settings.REDIS_PREFIX, "tab-sealed", block)))
            for place in ("tab-swapped", "tab-strange"):
                self.client.set(block_name(settings.REDIS_PREFIX, place, block), taken)
        self.publish()

    def _write(self, table_id: str, layout: Layout, rows: dict[tuple[str, ...], dict[str, Any]]) -> None:
        seal = seal_of(self.seal_keys, SEALED[table_id], "t-aurora", table_id) if table_id in SEALED else None
        blocks = table_blocks(settings.REDIS_PREFIX, table_id, rows, layout, block_bits_for(len(rows)), seal)
        for name, block in blocks.items():
            self.client.set(name, block)

    # --- Snapshots --------------------------------------------------------------------------------------------------

    def publish(self, *, issued_at: int | None = None) -> None:
        """Publish every tenant anew."""
        for tenant in (self._aurora(), self._borealis(), self._gone(), self._crowded()):
            self.put(tenant, issued_at=issued_at)

    def put(self, tenant: published.Tenant, *, issued_at: int | None = None) -> None:
        """Publish one tenant."""
        self.revision += 1
        snapshot = published.Snapshot(published.FORMAT, self.revision, issued_at or self.now, tenant)
        key_id, key = published.parse_private_key(settings.SNAPSHOT_PRIVATE_KEY or "")
        prefix = settings.REDIS_PREFIX
        self.client.set(published.snapshot_name(prefix, tenant.id), published.sign_snapshot(snapshot, key_id, key))
        self.client.hset(published.revisions_name(prefix), tenant.id, str(self.revision))
        self.client.publish(published.announcements_name(prefix), tenant.id)

    def _aurora(self) -> published.Tenant:
        rows = PLAYERS
        halves = bytes(number % 2 for number in range(10_000))
        return self._tenant(
            "t-aurora",
            "aurora",
            credentials=(
                self._credential("cr_all"),
                self._credential("cr_narrow", models=("offers",)),
                self._credential("cr_two", models=("offers", "difficulty")),
                self._credential("cr_slow", rate=1, burst=3),
                self._credential(
                    "cr_rotated",
                    accepted=(
                        published.AcceptedKey(2, self.master_key_id),
                        published.AcceptedKey(1, self.master_key_id, self.now + 3600),
                    ),
                ),
                self._credential(
                    "cr_lapsed",
                    accepted=(
                        published.AcceptedKey(2, self.master_key_id),
                        published.AcceptedKey(1, self.master_key_id, self.now - 5),
                    ),
                ),
                self._signer("cr_ed", "EdDSA", self.ed25519),
                self._signer("cr_es", "ES256", self.es256),
                self._signer("cr_rs", "RS256", self.rs256),
            ),
            models=(
                self._model(
                    "offers",
                    ("one", "tab-a", None, rows),
                    ("two", "tab-b", None, rows),
                    allocation=halves,
                    default=OFFER_DEFAULT,
                    overrides={"tester": 1},
                ),
                self._model("bare", ("one", "tab-bare", None, rows), layout=LEVEL_LAYOUT),
                self._model(
                    "difficulty",
                    ("one", "tab-level", None, 60),
                    layout=LEVEL_LAYOUT,
                    key_fields=("country", "level_band"),
                    unit_field=None,
                    default=LEVEL_DEFAULT,
                ),
                self._model("fresh", ("one", None, None, 0), default=OFFER_DEFAULT),
                self._model("fresh-bare", ("one", None, None, 0)),
                self._model("restored", ("one", "tab-lost", "tab-prev", rows), default=OFFER_DEFAULT),
                self._model("lost", ("one", "tab-lost", None, rows), default=OFFER_DEFAULT),
                self._model("lost-twice", ("one", "tab-lost", "tab-lost-too", rows), default=OFFER_DEFAULT),
                self._model("lost-bare", ("one", "tab-lost", None, rows)),
                self._model("damaged", ("one", "tab-damaged", None, rows), default=OFFER_DEFAULT),
                self._model("sealed", ("one", "tab-sealed", None, rows), default=OFFER_DEFAULT),
                self._model("swapped", ("one", "tab-swapped", "tab-prev", rows), default=OFFER_DEFAULT),
                self._model("strange", ("one", "tab-strange", None, rows), default=OFFER_DEFAULT),
            ),
        )

    def _borealis(self) -> published.Tenant:
        return self._tenant(
            "t-borealis",
            "borealis",
            credentials=(self._credential("cr_other"),),
            models=(
                self._model("offers", ("one", "tab-x", None, PLAYERS), default=OFFER_DEFAULT),
                self._model("secret-plans", ("one", "tab-x", None, PLAYERS)),
            ),
        )

    def _crowded(self) -> published.Tenant:
        return self._tenant(
            "t-crowded",
            "crowded",
            credentials=(self._credential("cr_crowded"),),
            models=(self._model("offers", ("one", "tab-x", None, PLAYERS)),),
            rate=1,
            burst=3,
        )

    def _gone(self) -> published.Tenant:
        return published.Tenant("t-gone", "gone", True, (), (), 1, 1)

    def _tenant(
        self,
        tenant_id: str,
        slug: str,
        *,
        credentials: tuple[published.Credential, ...],
        models: tuple[published.Model, ...],
        rate: int = 1_000_000,
        burst: int = 1_000_000,
    ) -> published.Tenant:
        return published.Tenant(tenant_id, slug, False, credentials, models, rate, burst)

    def _model(
        self,
        slug: str,
        *versions: tuple[str, str | None, str | None, int],
        layout: list[dict[str, Any]] = OFFER_LAYOUT,
        key_fields: tuple[str, ...] = ("player_id",),
        unit_field: str | None = "player_id",
        allocation: bytes = bytes(10_000),
        default: dict[str, Any] | None = None,
        overrides: dict[str, int] | None = None,
    ) -> published.Model:
        def table(table_id: str | None, rows: int) -> published.Table | None:
            if table_id is None:
                return None
            return published.Table(table_id, block_bits_for(rows), rows, self.now, SEALED.get(table_id, ""))

        return published.Model(
            slug=slug,
            key_fields=key_fields,
            unit_field=unit_field,
            layouts=(published.Layout(3, layout),),
            default=default,
            default_revision=2,
            max_client_age_seconds=60,
            salt="91b7584a2265b1f5",
            phase=1,
            allocation=allocation,
            allocation_revision=1,
            versions=tuple(
                published.Version(name, code, 3, table(active, rows), table(previous, rows))
                for code, (name, active, previous, rows) in enumerate(versions)
            ),
            overrides=overrides or {},
        )

    # --- Credentials and tokens -------------------------------------------------------------------------------------

    def _credential(
        self,
        credential_id: str,
        *,
        models: tuple[str, ...] | None = None,
        accepted: tuple[published.AcceptedKey, ...] | None = None,
        rate: int = 1_000_000,
        burst: int = 1_000_000,
    ) -> published.Credential:
        return published.Credential(
            id=credential_id,
            models=models,
            algorithm="HS256",
            accepted=accepted or (published.AcceptedKey(1, self.master_key_id),),
            public_key="",
            issuer=settings.TOKEN_ISSUER,
            requests_per_second=rate,
            burst=burst,
        )

    def _signer(self, credential_id: str, algorithm: Any, key: Any) -> published.Credential:
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return published.Credential(
            credential_id, None, algorithm, (), pem.decode(), "https://backend.aurora.example", 1_000_000, 1_000_000
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims of a server token with some changed; a change to `...` leaves that claim out."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "aud": settings.TOKEN_AUDIENCE,
            "iss": settings.TOKEN_ISSUER,
            "iat": now,
            "exp": now + 900,
        }
        claims.update(changes)
        return {name: value for name, value in claims.items() if value is not ...}

    def token(
        self,
        credential_id: str = "cr_all",
        *,
        generation: int = 1,
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """Return a token signed with a credential's derived key."""
        key = derive_key(self.master_keys[self.master_key_id], self.master_key_id, credential_id, generation)
        own = header_parameters(credential_id, generation, self.master_key_id)
        return jwt.encode(self.claims(**claims), key, algorithm="HS256", headers={**own, **(headers or {})})

    def studio_token(self, credential_id: str, algorithm: str, key: Any, **claims: Any) -> str:
        """Return a token that a studio's own backend signed."""
        payload = self.claims(iss="https://backend.aurora.example") | claims
        return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": credential_id})
