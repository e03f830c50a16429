"""Why a player gets what they get: every step from the key to the answer, taken by serving's own engine.

It works from the snapshot that serving has in Redis, so it says what lanes do and not what the database means them to
do. With Redis away the steps up to the version come from the database, and there is no answer to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis
from django.conf import settings

from models_registry.models import RecommendationModel
from models_registry.publishing import build_tenant
from models_registry.redis_clients import publishing_client
from serving.engine import UNAVAILABLE, Lookup
from serving.formats import snapshot
from serving.formats.keys import SEPARATOR, BadKey, canonical_key, slot
from serving.formats.seals import TenantSeals, parse_seal_keys
from serving.formats.tokens import is_unit
from serving.http import Source
from serving.prepared import PreparedModel
from tenants.rules import RuleBroken


@dataclass(frozen=True)
class FoundAnswer:
    """What the player is answered.

    Attributes:
        source: table; default (no row); fallback (the row could not be read); none (no row and no default, a 204).
        record: the fields, None where there is nothing to answer.
        table_id: the table that was asked; None where the version was never loaded.
        is_previous_table: the newest one had lost data, so the one before it was asked.
    """

    source: Source
    record: dict[str, Any] | None
    table_id: str | None
    is_previous_table: bool


@dataclass(frozen=True)
class Explanation:
    """The steps from a player to a version, and to an answer where the whole key is known.

    Attributes:
        unit: what was hashed.
        slot: 0 … 9,999.
        is_override: a tester: the weights did not matter.
        serves_default: everybody gets the default just now.
        is_published: this is what serving has; otherwise Redis did not answer, and it is what the database says.
        answer: None where a part of the key was left out, or Redis is away.
        row_count, loaded_at: of the version's active table; None where it was never loaded.
    """

    unit: str
    slot: int
    phase: int
    revision: int
    code: int
    version: str
    is_override: bool
    serves_default: bool
    is_published: bool
    row_count: int | None
    loaded_at: datetime | None
    answer: FoundAnswer | None

    @property
    def unit_words(self) -> str:
        """Who was hashed, as a person reads it: the parts of a whole key are held apart by a character of no width."""
        return self.unit.replace(SEPARATOR, " · ")


def explain(*, model: RecommendationModel, key: Mapping[str, str], unit: str = "") -> Explanation:
    """Say what a player gets, and why.

    Cost: one read from Redis for the snapshot and one or two for the answer; eight queries if Redis is away.

    Args:
        model: one that has a version.
        key: values of key fields by name; with some left out there is no answer.
        unit: who is bucketed, where that is not the key itself or one of its fields.

    Raises:
        RuleBroken: the unit is not known from these, a value will not do, or the model has no version.
    """
    content, is_published = _content(model)
    published = next((found for found in content.models if found.slug == model.slug), None)
    if published is None:
        raise RuleBroken(f"The model “{model.slug}” has no version yet, so nobody gets a recommendation.")
    unit = _unit(published, key, unit)
    own_slot = slot(published.salt, unit)
    code = published.overrides.get(unit)
    is_override = code is not None
    if code is None:
        code = published.allocation[own_slot]
    version = next(found for found in published.versions if found.code == code)
    answer = None
    if is_published and all(key.get(field) for field in published.key_fields):
        answer = _answer(content, published, code, [key[field] for field in published.key_fields])
    return Explanation(
        unit=unit,
        slot=own_slot,
        phase=published.phase,
        revision=published.allocation_revision,
        code=code,
        version=version.name,
        is_override=is_override,
        serves_default=published.serves_default,
        is_published=is_published,
        row_count=version.active.row_count if version.active else None,
        loaded_at=datetime.fromtimestamp(version.active.loaded_at, UTC) if version.active else None,
        answer=answer,
    )


def _content(model: RecommendationModel) -> tuple[snapshot.Tenant, bool]:
    """Return what serving has of the tenant; what the database has where it can't be asked or knows no such model."""
    name = snapshot.snapshot_name(settings.REDIS_PREFIX, model.tenant.public_id)
    try:
        envelope: Any = publishing_client().get(name)
        if envelope is not None:
            opened = snapshot.open_snapshot(envelope, snapshot.parse_public_keys(settings.SNAPSHOT_PUBLIC_KEYS)).tenant
            if any(found.slug == model.slug for found in opened.models):
                return opened, True
    except (redis.RedisError, snapshot.BadSnapshot):
        pass  # said on the page: `is_published` is False
    return build_tenant(model.tenant), False


def _unit(model: snapshot.Model, key: Mapping[str, str], given: str) -> str:
    """Return who is bucketed: who was given, else the unit field's value, else the whole key."""
    if given or model.unit_field:
        field = "unit" if given else model.unit_field or ""
        unit = given or key.get(field, "")
        if not unit:
            raise RuleBroken(f"Fill in {field}: it decides the version.", field=field)
        if not is_unit(unit):
            raise RuleBroken("This is too long, or contains a character that a player id cannot have.", field=field)
        return unit
    missing = [field for field in model.key_fields if not key.get(field)]
    if missing:
        raise RuleBroken(f"Fill in {missing[0]}: the whole key decides the version.", field=missing[0])
    return _canonical([key[field] for field in model.key_fields]).decode()


def _canonical(values: list[str]) -> bytes:
    try:
        return canonical_key(values)
    except BadKey as error:
        raise RuleBroken(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


def _answer(content: snapshot.Tenant, model: snapshot.Model, code: int, values: list[str]) -> FoundAnswer | None:
    """Let the engine look the key up, block by block; None if Redis stopped answering."""
    seals = TenantSeals(parse_seal_keys(settings.SEAL_KEYS), content.id)
    version = PreparedModel(model, content.slug, seals).versions[code]
    lookup = Lookup(version, _canonical(values), settings.REDIS_PREFIX)
    found = lookup.first()
    while found is None:
        try:
            block: Any = publishing_client().get(lookup.names[0])
        except redis.RedisError:
            block = UNAVAILABLE
        found = lookup.take(lookup.opened(0, block))
    table_id = lookup.names[0].rsplit(":", 2)[1] if lookup.names else None
    return FoundAnswer(
        source=found.source,
        record=msgspec.json.decode(found.record) if found.record else None,
        table_id=table_id,
        is_previous_table=version.previous is not None and table_id == version.previous.id,
    )
