"""The world: every tenant's newest snapshot, indexed so that a request finds all it needs in a few look-ups.

Pure: no clock, no socket, no file. `serving.snapshots` brings it snapshots from one thread; the engine asks it
questions, from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives.hmac import HMAC

from serving.formats import snapshot as published
from serving.formats.json_records import JsonRecords
from serving.formats.keys import SLOTS, digest
from serving.formats.layouts import Layout
from serving.formats.seals import TenantSeals
from serving.formats.tokens import (
    MAX_TOKEN_BYTES,
    BadToken,
    Claims,
    Payload,
    TokenRefusal,
    check_claims,
    check_hs256,
    check_with_pyjwt,
    derive_key,
    header_segment,
    hmac_of,
    unverified_kid,
)
from serving.http import BITS, JSON, VARY, Exposure, Source, head_of
from serving.limits import Bucket
from serving.verified import VerifiedTokens

# How many tokens a second of a studio's own key may be found bad, in one process. Each takes 50 to 300 µs, and whoever
# has seen one of its players' tokens knows what to send.
BAD_TOKENS_PER_SECOND = 300
# A caller who was refused tends to send the same token again.
MAX_REFUSED_TOKENS = 2048
# How long a token is taken as it is that names models which its credential does not have, or not yet.
_MODELS_HOLD_SECONDS = 60
# Characters that need no percent-encoding: the raw text equals the decoded value.
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")
_SOURCES: tuple[Source, ...] = ("table", "default", "fallback", "none")


class Outdated(ValueError):
    """A snapshot that is older than the one already here."""


class OverLimit(Exception):
    """A token that is not verified, because that would cost more than its credential may.

    Attributes:
        tenant_id: whose credential it is.
        reason: the limit that is reached.
        seconds: how long to wait.
    """

    def __init__(self, tenant_id: str, reason: Literal["credential", "tenant", "bad_tokens"], seconds: float) -> None:
        super().__init__(tenant_id, reason, seconds)
        self.tenant_id = tenant_id
        self.reason = reason
        self.seconds = seconds


class PreparedTable:
    """A table of a version; of a version that was never loaded, a stand-in whose `id` is "".

    Attributes:
        shift: bits to shift a key's digest, a 128-bit integer, to the right for the number of its block.
        is_sealed: whether its blocks are.
        seal: what opens them; None where they are not sealed, or with a key that is not here.
        tag_seeds: 48-bit integers that tell ETags of one key apart: of a row in JSON and in bits, of the default in
            JSON and in bits.
    """

    __slots__ = ("id", "is_sealed", "seal", "shift", "tag_seeds")

    def __init__(
        self, table: published.Table | None, version: published.Version, default_revision: int, seals: TenantSeals
    ) -> None:
        self.id = "" if table is None else table.id
        self.is_sealed = table is not None and bool(table.seal)
        self.seal = None if table is None else seals.of(table)
        self.shift = 128 - (0 if table is None else table.block_bits)
        self.tag_seeds = tuple(
            int.from_bytes(
                digest(
                    msgspec.msgpack.encode((form, origin, self.id, version.name, version.layout_revision, version.code))
                )[:6],
                "big",
            )
            for origin in ("", f"default {default_revision}")
            for form in ("", BITS)
        )


class Heads(NamedTuple):
    """The headers, but for the ETag, of answers that a client may keep: one for each value of a digest's last byte."""

    not_modified: list[str]
    json: list[str]
    bits: list[str]


class PreparedVersion:
    """A version, with everything worked out that is the same for every request."""

    __slots__ = (
        "active",
        "code",
        "default_payload",
        "default_record",
        "exposures",
        "heads",
        "item_head",
        "json_head",
        "layout",
        "name",
        "payload_width",
        "prefix",
        "previous",
        "records",
    )

    def __init__(
        self,
        version: published.Version,
        layout: published.Layout,
        model: published.Model,
        tenant_slug: str,
        records: JsonRecords,
        seals: TenantSeals,
    ) -> None:
        self.name = version.name
        self.code = version.code
        self.layout = records.layout
        self.payload_width = self.layout.payload_width
        self.records = records
        self.heads = _heads(model.max_client_age_seconds)
        default, default_revision = layout.default, layout.default_revision
        if not default_revision:
            default, default_revision = model.default, model.default_revision
        self.active = PreparedTable(version.active, version, default_revision, seals)
        self.previous = PreparedTable(version.previous, version, default_revision, seals) if version.previous else None
        self.exposures = {source: (Exposure(tenant_slug, model.slug, version.name, source),) for source in _SOURCES}
        # What stands before the record in a JSON answer: of one key, and of one of many.
        self.item_head = f'"version":{msgspec.json.encode(version.name).decode()},"recommendation":'
        self.json_head = f'{{"model":{msgspec.json.encode(model.slug).decode()},{self.item_head}'
        # What stands before a bit-packed payload.
        self.prefix = bytes([version.layout_revision, version.code])
        self.default_payload: bytes | None = None
        self.default_record = ""
        if default is not None:
            self.default_payload = payload = self.layout.pack(default)
            self.default_record = msgspec.json.encode(self.layout.unpack(payload)).decode()


class PreparedModel:
    """A model as requests need it.

    Attributes:
        records: of each layout revision, its fields as they were published and their records as JSON.
    """

    __slots__ = (
        "allocation",
        "key_fields",
        "overrides",
        "parameters",
        "records",
        "salt",
        "slug",
        "unit_field",
        "versions",
    )

    def __init__(
        self, model: published.Model, tenant_slug: str, seals: TenantSeals, before: PreparedModel | None = None
    ) -> None:
        if len(model.allocation) != SLOTS:
            raise published.BadSnapshot(f"the allocation of {model.slug} has {len(model.allocation)} slots")
        self.slug = model.slug
        self.key_fields = model.key_fields
        self.parameters = frozenset((*model.key_fields, "model", "unit"))
        self.unit_field = model.unit_field
        self.salt = model.salt
        self.allocation = model.allocation
        self.overrides = model.overrides
        known: dict[int, tuple[Any, JsonRecords]] = {} if before is None else before.records
        # An unchanged layout keeps what was worked out of it.
        self.records: dict[int, tuple[Any, JsonRecords]] = {
            layout.revision: same
            if (same := known.get(layout.revision)) is not None and same[0] == layout.fields
            else (layout.fields, JsonRecords(Layout.parse(layout.fields)))
            for layout in model.layouts
        }
        layouts = {layout.revision: layout for layout in model.layouts}
        self.versions: dict[int, PreparedVersion] = {}
        for version in model.versions:
            layout = layouts.get(version.layout_revision)
            if layout is None:
                raise published.BadSnapshot(f"{model.slug} has no layout revision {version.layout_revision}")
            _, records = self.records[layout.revision]
            self.versions[version.code] = PreparedVersion(version, layout, model, tenant_slug, records, seals)
        unknown = {*model.allocation.translate(None, bytes(self.versions)), *model.overrides.values()}
        unknown -= self.versions.keys()
        if unknown:
            raise published.BadSnapshot(
                f"{model.slug} gives players version code {min(unknown)}, but has no such version"
            )


@lru_cache(maxsize=1024)
def _heads(max_client_age_seconds: int) -> Heads:
    """Return the headers of what a client may keep.

    The age differs by ten per cent either way, fixed for a key, so that the players of one load do not all come back at
    once.
    """
    ages = [max(1, max_client_age_seconds * (900 + byte * 200 // 255) // 1000) for byte in range(256)]
    of_age = {
        age: (
            common := head_of(("cache-control", f"private, max-age={age}"), ("vary", VARY)),
            common + head_of(("content-type", JSON)),
            common + head_of(("content-type", BITS)),
        )
        for age in set(ages)
    }
    return Heads(*([of_age[age][form] for age in ages] for form in range(3)))


class PreparedCredential:
    """A credential as requests need it.

    Attributes:
        bad_tokens: how many more tokens that its public key should have signed may be found bad.
        is_live: falls to False when a newer snapshot changes or drops it.
        by_query: the model by the usual query string of players, whose key is in their token: `model=SLUG`, or nothing
            where the credential is for one model only.
        by_query_head: the same of servers, up to the key: `model=SLUG&FIELD` or `FIELD`, then `=` and a key. Both only
            for models with one key field that is also the unit field.
    """

    __slots__ = (
        "bad_tokens",
        "bucket",
        "by_query",
        "by_query_head",
        "id",
        "is_live",
        "keys",
        "models",
        "public_key",
        "published",
        "tenant_id",
    )

    def __init__(
        self, credential: published.Credential, tenant_id: str, keys: dict[bytes, tuple[HMAC, int | None]]
    ) -> None:
        self.published = credential
        self.id = credential.id
        self.tenant_id = tenant_id
        self.models = None if credential.models is None else frozenset(credential.models)
        self.bucket = Bucket(credential.requests_per_second, credential.burst)
        self.bad_tokens = Bucket(BAD_TOKENS_PER_SECOND, BAD_TOKENS_PER_SECOND)
        self.is_live = True
        self.by_query: dict[str, PreparedModel] = {}
        self.by_query_head: dict[str, PreparedModel] = {}
        self.keys = keys
        self.public_key: Any = None
        if credential.algorithm != "HS256":
            algorithm = jwt.get_algorithm_by_name(credential.algorithm)
            try:
                self.public_key = algorithm.prepare_key(credential.public_key)
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                raise published.BadSnapshot(f"the public key of {credential.id} can't be used: {error}") from None

    def know(self, models: Mapping[str, PreparedModel]) -> None:
        """Work out which of its tenant's models each of the usual query strings means."""
        mine = [model for slug, model in models.items() if self.models is None or slug in self.models]
        by_query: dict[str, PreparedModel] = {}
        by_query_head: dict[str, PreparedModel] = {}
        for model in mine:
            field = model.unit_field
            if (
                field is not None
                and model.key_fields == (field,)
                and field not in ("model", "unit")
                and _PLAIN.fullmatch(field)
                and _PLAIN.fullmatch(model.slug)
            ):
                by_query[f"model={model.slug}"] = by_query_head[f"model={model.slug}&{field}"] = model
                if len(mine) == 1:
                    by_query[""] = by_query_head[field] = model
        self.by_query, self.by_query_head = by_query, by_query_head


class PreparedTenant:
    """A tenant at its newest revision."""

    __slots__ = ("bucket", "credentials", "id", "is_ended", "issued_at", "models", "revision", "slug")

    def __init__(
        self, snapshot: published.Snapshot, seal_keys: Mapping[str, bytes], before: PreparedTenant | None = None
    ) -> None:
        tenant = snapshot.tenant
        seals = TenantSeals(seal_keys, tenant.id)
        known: Mapping[str, PreparedModel] = {} if before is None else before.models
        self.id = tenant.id
        self.slug = tenant.slug
        self.is_ended = tenant.is_ended
        self.revision = snapshot.revision
        self.issued_at = snapshot.issued_at
        self.models: dict[str, PreparedModel] = {
            model.slug: PreparedModel(model, tenant.slug, seals, known.get(model.slug)) for model in tenant.models
        }
        self.credentials: dict[str, PreparedCredential] = {}
        self.bucket = Bucket(tenant.requests_per_second, tenant.burst)


class Caller(msgspec.Struct, gc=False):
    """Who a good token says is asking.

    The garbage collector leaves it, and its claims, alone: they are in no cycle, tens of thousands of them are kept,
    and to walk them all would hold up every request of that moment.

    Attributes:
        good_until: Unix seconds; from then on the token is looked at anew.
    """

    credential: PreparedCredential
    claims: Claims
    good_until: int


class World:
    """Every tenant that serving knows. Master keys and seal keys are by id; the audience is what `aud` must be.

    Attributes:
        tenants: by id.
        missing: ids of tenants that are promised and not here.
        was_whole: all that was promised was here once; also where that was nobody.
        uses: requests so far by credential id; a batch counts once.
        first_share: of its limit that a bucket begins with, as other processes have the rest.
    """

    def __init__(
        self, master_keys: dict[str, bytes], audience: str, seal_keys: Mapping[str, bytes] | None = None
    ) -> None:
        self.tenants: dict[str, PreparedTenant] = {}
        self.missing: frozenset[str] = frozenset()
        self.was_whole = False
        self.uses: dict[str, int] = {}
        self.first_share = 1.0
        self._master_keys = master_keys
        self._seal_keys = seal_keys or {}
        self._audience = audience
        self._by_header: dict[bytes, PreparedCredential] = {}
        self._by_kid: dict[str, PreparedCredential] = {}
        self._verified: VerifiedTokens[Caller, PreparedCredential] = VerifiedTokens()
        self._refused: dict[str, tuple[PreparedCredential, TokenRefusal]] = {}

    def put(self, snapshot: published.Snapshot) -> None:
        """Replace a tenant's snapshot by a newer one. All of it is prepared before any of it is used.

        Raises:
            Outdated: the one here is newer, or as new.
            BadSnapshot, BadLayout, BadValue: it contradicts itself; the one before stays.
        """
        before = self.tenants.get(snapshot.tenant.id)
        if before is not None and snapshot.revision <= before.revision:
            raise Outdated(f"revision {snapshot.revision} is not newer than {before.revision}")
        tenant = PreparedTenant(snapshot, self._seal_keys, before)
        known = before.credentials if before is not None else {}
        for credential in snapshot.tenant.credentials:
            same = known.get(credential.id)
            # An unchanged credential keeps its bucket and its verified tokens.
            tenant.credentials[credential.id] = (
                same if same is not None and same.published == credential else self._prepare(credential, tenant.id)
            )
        if before is not None and before.bucket.is_like(tenant.bucket):
            tenant.bucket = before.bucket
        else:
            tenant.bucket.allot(self.first_share)
        # In this order no request of another thread meets a credential without its tenant, or a gap between secrets.
        self.tenants[tenant.id] = tenant
        for prepared in tenant.credentials.values():
            prepared.know(tenant.models)
            self._by_kid[prepared.published.id] = prepared
            for header in prepared.keys:
                self._by_header[header] = prepared
        for credential_id, prepared in known.items():
            if tenant.credentials.get(credential_id) is not prepared:
                self._forget(prepared)

    def buckets(self) -> dict[str, Bucket]:
        """Return every bucket by a name that is the same in all processes."""
        named: dict[str, Bucket] = {}
        for tenant in tuple(self.tenants.values()):
            named[f"t:{tenant.id}"] = tenant.bucket
            for credential_id, credential in tenant.credentials.items():
                named[f"c:{credential_id}"] = credential.bucket
        return named

    def caller(self, authorization: str | None, now: float) -> Caller:
        """Return who the token of an Authorization header (None where it is absent) speaks for; `now` in Unix seconds.

        Raises:
            BadToken: it is not accepted, for whatever reason.
            OverLimit: it was not looked at.
        """
        if authorization is None:
            raise BadToken("missing", "there is none")
        known = self._verified.callers.get(authorization)
        if known is not None and known.credential.is_live and now < known.good_until:
            return known
        token = _bearer_token(authorization)
        as_kept = f"Bearer {token}"
        if as_kept != authorization:
            return self.caller(as_kept, now)  # however it is spelled, it is kept once
        if known is not None:
            self._verified.forget(authorization, known.credential)
        caller = self._verify(authorization, token.encode(), now)
        # Whoever is over a limit is verified each time: one who has a key could fill the memory with good tokens.
        if not caller.credential.bucket.wait(now):
            self._verified.keep(authorization, caller, caller.credential)
        return caller

    def _verify(self, authorization: str, token: bytes, now: float) -> Caller:
        header = token[: token.index(b".")]
        credential = self._by_header.get(header)
        if credential is None:
            return self._verify_studios_own(authorization, token, now)
        key, until = credential.keys[header]
        if until is not None and now >= until:
            raise BadToken("revoked", "signed with a secret that was retired")
        return self._caller(credential, check_hs256(token, len(header), key), until, now)

    def _verify_studios_own(self, authorization: str, token: bytes, now: float) -> Caller:
        """Verify a token that a studio's own key signs, within what that may cost."""
        kid = unverified_kid(token)
        credential = self._by_kid.get(kid)
        if credential is None:
            raise BadToken("unknown_credential", "no credential has this id")
        if credential.public_key is None:
            raise BadToken("revoked", "no secret of its credential signs tokens with this header")
        refused = self._refused.get(authorization)
        if refused is not None and refused[0] is credential:
            raise BadToken(refused[1], "it was before")
        self._check_may_cost(credential, now)
        try:
            payload = check_with_pyjwt(token, credential.public_key, credential.published.algorithm)
            return self._caller(credential, payload, None, now)
        except BadToken as bad:
            credential.bad_tokens.take(1, now)
            # What becomes good by waiting, or by a change of the studio, is not remembered.
            if bad.reason in ("signature", "malformed", "expired"):
                if len(self._refused) >= MAX_REFUSED_TOKENS:
                    self._refused.clear()
                self._refused[authorization] = credential, bad.reason
            raise

    def _check_may_cost(self, credential: PreparedCredential, now: float) -> None:
        """Raise OverLimit where a request with this token would meet a limit, or too many of its kind were bad."""
        tenant_id = credential.tenant_id
        if wait := credential.bad_tokens.wait(now):
            raise OverLimit(tenant_id, "bad_tokens", wait)
        if wait := credential.bucket.wait(now):
            raise OverLimit(tenant_id, "credential", wait)
        if wait := self.tenants[tenant_id].bucket.wait(now):
            raise OverLimit(tenant_id, "tenant", wait)

    def _caller(self, credential: PreparedCredential, payload: Payload, until: int | None, now: float) -> Caller:
        tenant = self.tenants[credential.tenant_id]
        claims = check_claims(
            payload, now=now, audience=self._audience, issuer=credential.published.issuer, tenant_slug=tenant.slug
        )
        good_until = claims.expires_at if until is None else min(until, claims.expires_at)
        if claims.models is not None:
            # The names are the models' own, and others are not kept: a token may name hundreds.
            named = frozenset(claims.models)
            mine = tuple(model.slug for slug in named if (model := tenant.models.get(slug)) is not None)
            if len(mine) < len(named):
                good_until = min(good_until, int(now) + _MODELS_HOLD_SECONDS)
            claims = msgspec.structs.replace(claims, models=mine)
        return Caller(credential, claims, good_until)

    def _prepare(self, credential: published.Credential, tenant_id: str) -> PreparedCredential:
        keys: dict[bytes, tuple[HMAC, int | None]] = {}
        for accepted in credential.accepted:
            master_key = self._master_keys.get(accepted.master_key_id)
            # A lane that was not given this master key yet refuses its tokens, and serves everybody else.
            if master_key is not None:
                header = header_segment(credential.id, accepted.generation, accepted.master_key_id)
                key = derive_key(master_key, accepted.master_key_id, credential.id, accepted.generation)
                keys[header] = (hmac_of(key), accepted.until)
        prepared = PreparedCredential(credential, tenant_id, keys)
        prepared.bucket.allot(self.first_share)
        return prepared

    def _forget(self, credential: PreparedCredential) -> None:
        credential.is_live = False
        self._verified.forget_all(credential)
        # Verified tokens hold it for a while yet; it must not hold the models of its time.
        credential.know({})
        if self._by_kid.get(credential.published.id) is credential:
            del self._by_kid[credential.published.id]
        for header in credential.keys:
            if self._by_header.get(header) is credential:
                del self._by_header[header]


def _bearer_token(authorization: str) -> str:
    """Return the token of an Authorization header, of ASCII and three segments; raises BadToken."""
    token = authorization[7:].strip(" ")
    if authorization[:7].lower() != "bearer " or not token.isascii():
        raise BadToken("malformed", "not a bearer token")
    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken("malformed", "longer than 4 KiB")
    if token.count(".") != 2:
        raise BadToken("malformed", "not three segments")
    return token
