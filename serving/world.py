"""The world: every tenant's newest snapshot, indexed so that a request finds all it needs in a few look-ups.

Pure: no clock, no socket, no file. `serving.snapshots` brings it snapshots from one thread; the engine asks it
questions, from any thread.
"""

from __future__ import annotations

from typing import Any

import jwt
import msgspec

from serving.formats import snapshot as published
from serving.formats.keys import SLOTS
from serving.formats.layouts import Layout
from serving.formats.tokens import (
    MAX_TOKEN_BYTES,
    BadToken,
    Claims,
    check_claims,
    check_hs256,
    check_with_pyjwt,
    derive_key,
    header_segment,
    unverified_kid,
)
from serving.limits import Bucket

# Verified tokens kept: about 1 KB each.
MAX_VERIFIED_TOKENS = 65_536


class Outdated(ValueError):
    """A snapshot that is older than the one already here."""


class PreparedVersion:
    """A version with everything that does not change from request to request worked out."""

    __slots__ = ("active", "code", "default_bits", "default_json", "json_head", "layout", "name", "prefix", "previous")

    def __init__(self, version: published.Version, model: published.Model, layout: Layout) -> None:
        layout_revision = version.layout_revision
        self.name = version.name
        self.code = version.code
        self.layout = layout
        self.active = version.active
        self.previous = version.previous
        names = msgspec.json.encode({"model": model.slug, "version": version.name})
        self.json_head = names[:-1] + b',"recommendation":'
        # What stands before a bit-packed payload, and before the key in what an ETag is the hash of.
        self.prefix = bytes([layout_revision, version.code])
        self.default_bits: bytes | None = None
        self.default_json: bytes | None = None
        if model.default is not None:
            payload = layout.pack(model.default)
            self.default_bits = self.prefix + payload
            self.default_json = self.json_head + msgspec.json.encode(layout.unpack(payload)) + b"}"


class PreparedModel:
    """A model as requests need it."""

    __slots__ = (
        "allocation",
        "default_revision",
        "key_fields",
        "max_client_age_seconds",
        "overrides",
        "parameters",
        "salt",
        "slug",
        "unit_field",
        "versions",
    )

    def __init__(self, model: published.Model) -> None:
        if len(model.allocation) != SLOTS:
            raise published.BadSnapshot(f"the allocation of {model.slug} has {len(model.allocation)} slots")
        self.slug = model.slug
        self.key_fields = model.key_fields
        self.parameters = frozenset((*model.key_fields, "model", "unit"))
        self.unit_field = model.unit_field
        self.default_revision = model.default_revision
        self.max_client_age_seconds = model.max_client_age_seconds
        self.salt = model.salt
        self.allocation = model.allocation
        self.overrides = model.overrides
        layouts = {layout.revision: Layout.parse(layout.fields) for layout in model.layouts}
        for version in model.versions:
            if version.layout_revision not in layouts:
                raise published.BadSnapshot(f"{model.slug} has no layout revision {version.layout_revision}")
        self.versions = {
            version.code: PreparedVersion(version, model, layouts[version.layout_revision])
            for version in model.versions
        }
        unknown = (set(model.allocation) | set(model.overrides.values())) - self.versions.keys()
        if unknown:
            raise published.BadSnapshot(f"{model.slug} gives players version code {min(unknown)}, which it has not")


class PreparedCredential:
    """A credential as requests need it. `is_live` falls to False when a newer snapshot changes or drops it."""

    __slots__ = ("bucket", "is_live", "keys", "models", "public_key", "published", "tenant_id")

    def __init__(
        self, credential: published.Credential, tenant_id: str, keys: dict[bytes, tuple[bytes, int | None]]
    ) -> None:
        self.published = credential
        self.tenant_id = tenant_id
        self.models = None if credential.models is None else frozenset(credential.models)
        self.bucket = Bucket(credential.requests_per_second, credential.burst)
        self.is_live = True
        self.keys = keys
        self.public_key: Any = None
        if credential.algorithm != "HS256":
            algorithm = jwt.get_algorithm_by_name(credential.algorithm)
            try:
                self.public_key = algorithm.prepare_key(credential.public_key)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                raise published.BadSnapshot(f"the public key of {credential.id} is none: {error}") from None


class PreparedTenant:
    """A tenant at its newest revision."""

    __slots__ = ("bucket", "credentials", "id", "is_ended", "issued_at", "models", "revision", "slug")

    def __init__(self, snapshot: published.Snapshot) -> None:
        tenant = snapshot.tenant
        self.id = tenant.id
        self.slug = tenant.slug
        self.is_ended = tenant.is_ended
        self.revision = snapshot.revision
        self.issued_at = snapshot.issued_at
        self.models = {model.slug: PreparedModel(model) for model in tenant.models}
        self.credentials: dict[str, PreparedCredential] = {}
        self.bucket = Bucket(tenant.requests_per_second, tenant.burst)


class Caller:
    """Who a good token says is asking."""

    __slots__ = ("claims", "credential", "header")

    def __init__(self, credential: PreparedCredential, claims: Claims, header: bytes | None) -> None:
        self.credential = credential
        self.claims = claims
        self.header = header


class World:
    """Every tenant that serving knows.

    Args:
        master_keys: token master keys by id.
        audience: what `aud` must be.

    Attributes:
        tenants: by id.
        uses: requests so far by credential id; a batch counts once.
    """

    def __init__(self, master_keys: dict[str, bytes], audience: str) -> None:
        self.tenants: dict[str, PreparedTenant] = {}
        self.uses: dict[str, int] = {}
        self._master_keys = master_keys
        self._audience = audience
        self._by_header: dict[bytes, PreparedCredential] = {}
        self._by_kid: dict[str, PreparedCredential] = {}
        self._verified: dict[bytes, Caller] = {}

    def put(self, snapshot: published.Snapshot) -> None:
        """Take a tenant's newer snapshot in the place of the one before. All of it is prepared before any of it shows.

        Raises:
            Outdated: the one here is newer, or as new.
            BadSnapshot, BadLayout, BadValue: it contradicts itself; the one before stays.
        """
        before = self.tenants.get(snapshot.tenant.id)
        if before is not None and snapshot.revision <= before.revision:
            raise Outdated(f"revision {snapshot.revision} is not newer than {before.revision}")
        tenant = PreparedTenant(snapshot)
        known = before.credentials if before is not None else {}
        for credential in snapshot.tenant.credentials:
            same = known.get(credential.id)
            # An unchanged credential keeps its bucket and its verified tokens.
            tenant.credentials[credential.id] = (
                same if same is not None and same.published == credential else self._prepare(credential, tenant.id)
            )
        if before is not None and before.bucket.is_like(tenant.bucket):
            tenant.bucket = before.bucket
        # In this order no request of another thread meets a credential without its tenant, or a gap between secrets.
        self.tenants[tenant.id] = tenant
        for prepared in tenant.credentials.values():
            self._by_kid[prepared.published.id] = prepared
            for header in prepared.keys:
                self._by_header[header] = prepared
        for credential_id, prepared in known.items():
            if tenant.credentials.get(credential_id) is not prepared:
                self._forget(prepared)

    def caller(self, token: bytes, now: float) -> Caller:
        """Give who a token speaks for.

        Args:
            token: the bytes after `Bearer `.
            now: Unix seconds.

        Raises:
            BadToken: it is not accepted, for whatever reason.
        """
        known = self._verified.get(token)
        if known is not None:
            if known.credential.is_live and now < known.claims.expires_at and self._header_lives(known, now):
                return known
            self._verified.pop(token, None)
        if len(token) > MAX_TOKEN_BYTES:
            raise BadToken("longer than 4 KiB")
        if token.count(b".") != 2:
            raise BadToken("not three segments")
        caller = self._verify(token, now)
        if len(self._verified) >= MAX_VERIFIED_TOKENS:
            # The oldest go first; they are also the likeliest to have expired.
            for oldest in list(self._verified)[: MAX_VERIFIED_TOKENS // 8]:
                self._verified.pop(oldest, None)
        self._verified[token] = caller
        return caller

    def _verify(self, token: bytes, now: float) -> Caller:
        header = token[: token.index(b".")]
        credential = self._by_header.get(header)
        if credential is not None:
            key, until = credential.keys[header]
            if until is not None and now >= until:
                raise BadToken("signed with a secret that was retired")
            payload = check_hs256(token, len(header), key)
        else:
            kid = unverified_kid(token)
            credential = self._by_kid.get(kid)
            if credential is None or credential.public_key is None:
                raise BadToken("no credential signs tokens with this header")
            header = b""
            payload = check_with_pyjwt(token, credential.public_key, credential.published.algorithm)
        claims = check_claims(
            payload,
            now=now,
            audience=self._audience,
            issuer=credential.published.issuer,
            tenant_slug=self.tenants[credential.tenant_id].slug,
        )
        return Caller(credential, claims, header or None)

    def _header_lives(self, caller: Caller, now: float) -> bool:
        if caller.header is None:
            return True
        until = caller.credential.keys[caller.header][1]
        return until is None or now < until

    def _prepare(self, credential: published.Credential, tenant_id: str) -> PreparedCredential:
        keys: dict[bytes, tuple[bytes, int | None]] = {}
        for accepted in credential.accepted:
            master_key = self._master_keys.get(accepted.master_key_id)
            # A lane that was not given this master key yet refuses its tokens, and serves everybody else.
            if master_key is not None:
                header = header_segment(credential.id, accepted.generation, accepted.master_key_id)
                key = derive_key(master_key, accepted.master_key_id, credential.id, accepted.generation)
                keys[header] = (key, accepted.until)
        return PreparedCredential(credential, tenant_id, keys)

    def _forget(self, credential: PreparedCredential) -> None:
        credential.is_live = False
        if self._by_kid.get(credential.published.id) is credential:
            del self._by_kid[credential.published.id]
        for header in credential.keys:
            if self._by_header.get(header) is credential:
                del self._by_header[header]
