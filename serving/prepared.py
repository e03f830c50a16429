"""A tenant as serving looks things up in it: all that many requests share, worked out once a snapshot. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives.hmac import HMAC

from serving.formats import snapshot as published
from serving.formats.json_records import JsonRecords
from serving.formats.keys import SLOTS, digest
from serving.formats.layouts import Layout
from serving.formats.seals import TenantSeals
from serving.http import BITS, JSON, VARY, Exposure, Source, head_of
from serving.limits import Bucket

# How many tokens a second of a studio's own key may be found bad, in one process. Each takes 50 to 300 µs, and whoever
# has seen one of its players' tokens knows what to send.
BAD_TOKENS_PER_SECOND = 300
# Characters that need no percent-encoding: the raw text equals the decoded value.
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")
_SOURCES: tuple[Source, ...] = ("table", "default", "fallback", "none")


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
