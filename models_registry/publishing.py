"""Database → snapshot → Redis. The database is the truth; what this puts into Redis is signed and can be made again.

A tenant is published after the commit that changed it, and again by beat when what Redis holds differs (a publication
that failed, a Redis that was flushed, an hour that passed) or is so old that serving would begin to mistrust it.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, cast

import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, OuterRef, Subquery
from django.utils import timezone

from models_registry import models
from models_registry.catalogue.access import narrowed_slugs
from models_registry.models import RecommendationModel, RolloutRevision, TableState
from models_registry.redis_clients import publishing_client
from serving.formats import snapshot
from serving.formats.tokens import parse_master_keys
from serving.reporting import former_applied_name
from tenants.models import Algorithm, Credential, Tenant

log = logging.getLogger(__name__)
AlgorithmName = Literal["HS256", "EdDSA", "ES256", "RS256"]
Row = TypeVar("Row", models.Version, models.Override)

RESIGN_AFTER = timedelta(minutes=5)
# The first half of PostgreSQL's advisory lock key, so that no other use of such locks meets this one.
_LOCK_CLASS = 0x5EC5


class NothingToSignWith(RuntimeError):
    """This process has no snapshot private key: it is no part of the control plane."""


def publish_tenant(tenant_id: int) -> bool:
    """Publish a tenant's snapshot as the database has it now; say whether Redis took it.

    Call it outside any transaction. Takes a lock per tenant that is held across the SET, so that of two publications
    the later one to read is the later one to write. Redis away: a warning in the log, and beat tries again.

    Cost: nine queries and four Redis commands; 2 s if Redis does not answer.
    """
    try:
        # On SQLite the lock keeps every writer out: whether Redis answers at all is found out before.
        publishing_client().hlen(snapshot.revisions_name(settings.REDIS_PREFIX))
        with _tenant_lock(tenant_id):
            tenant, content = _read(tenant_id)
            issued_at = timezone.now()
            revision = max(tenant.snapshot_revision + 1, int(issued_at.timestamp() * 1000))
            _push(tenant.public_id, revision, _sign(content, revision, issued_at))
            Tenant.objects.filter(pk=tenant_id).update(
                snapshot_revision=revision, snapshot_digest=digest_of(content), snapshot_published_at=issued_at
            )
    except redis.RedisError as error:
        log.warning("publishing.failed tenant=%s problem=%s: %s", tenant_id, type(error).__name__, error)
        return False
    log.info("publishing.done tenant=%s revision=%s", tenant.slug, revision)
    return True


def publish_on_change(*, tenant_id: int, **_: Any) -> None:
    """Receive `tenants.signals.tenant_changed`."""
    publish_tenant(tenant_id)


def republish_all() -> int:
    """Publish every tenant whose content, or whose revision in Redis, is not what the database says; return how many.

    Also signs anew whatever is older than five minutes. Two of these at once do no harm. It ends at a publication that
    fails where Redis no longer answers at all; one node of a cluster that is away keeps its own tenants waiting only.

    Cost: a query and nine for each tenant; a read from Redis, a write of the list of tenants, a question for each.
    """
    try:
        held = _revisions_held()
    except redis.RedisError as error:
        log.warning("publishing.failed tenant=all problem=%s: %s", type(error).__name__, error)
        return 0
    _push_roster()
    published = 0
    for tenant in Tenant.objects.order_by("pk").iterator():
        try:
            if not _needs_publishing(tenant, held):
                continue
            if publish_tenant(tenant.pk):
                published += 1
            else:
                _revisions_held()
        except redis.RedisError:
            break
        except Exception:  # one studio whose rows can't be published must not keep the others waiting
            log.exception("publishing.failed tenant=%s", tenant.pk)
    return published


def _revisions_held() -> dict[str, str]:
    """Return the revisions that Redis holds, by tenants' public ids.

    Raises:
        redis.RedisError: it does not answer; in a cluster, the node that every publication needs.
    """
    raw: Any = publishing_client().hgetall(snapshot.revisions_name(settings.REDIS_PREFIX))
    return {key.decode(): value.decode() for key, value in raw.items()}


def _needs_publishing(tenant: Tenant, held: Mapping[str, str]) -> bool:
    """Tell whether a tenant's signature grows old, or Redis or the database holds something else than was published."""
    is_old = tenant.snapshot_published_at is None or tenant.snapshot_published_at <= timezone.now() - RESIGN_AFTER
    is_held = held.get(tenant.public_id) == str(tenant.snapshot_revision) and _is_there(tenant)
    return is_old or not is_held or digest_of(build_tenant(tenant)) != tenant.snapshot_digest


def _is_there(tenant: Tenant) -> bool:
    """Tell whether Redis has a tenant's envelope; also while the node that would know is away."""
    try:
        return bool(publishing_client().exists(snapshot.snapshot_name(settings.REDIS_PREFIX, tenant.public_id)))
    except redis.RedisError:
        return True


def digest_of(content: snapshot.Tenant) -> str:
    """Return 64 characters that differ when two tenants' contents do."""
    return hashlib.sha256(snapshot.content_digest_input(content)).hexdigest()


# --- Reading --------------------------------------------------------------------------------------------------------


def build_tenant(tenant: Tenant) -> snapshot.Tenant:
    """Return what serving must know about a tenant, as the database has it. Eight queries; a tombstone takes none."""
    if tenant.ended_at is not None:
        return snapshot.Tenant(tenant.public_id, tenant.slug, True, (), (), 1, 1)  # noqa: FBT003 - the struct's order
    return snapshot.Tenant(
        id=tenant.public_id,
        slug=tenant.slug,
        is_ended=False,
        credentials=tuple(_build_credentials(tenant)),
        models=tuple(_build_models(tenant)),
        requests_per_second=tenant.requests_per_second,
        burst=tenant.burst,
    )


def _build_credentials(tenant: Tenant) -> Iterator[snapshot.Credential]:
    rows = Credential.objects.for_tenant(tenant).filter(revoked_at=None).order_by("client_id")
    slugs = narrowed_slugs(credential.pk for credential in rows)
    for credential in rows:
        is_ours = credential.algorithm == Algorithm.HS256
        yield snapshot.Credential(
            id=credential.client_id,
            models=tuple(slugs[credential.pk]) or None,
            algorithm=cast(AlgorithmName, credential.algorithm),
            accepted=_accepted_keys(credential, timezone.now()) if is_ours else (),
            public_key=credential.public_key,
            issuer=settings.TOKEN_ISSUER if is_ours else credential.issuer,
            requests_per_second=credential.requests_per_second,
            burst=credential.burst,
        )


def _accepted_keys(credential: Credential, now: datetime) -> tuple[snapshot.AcceptedKey, ...]:
    """Return the at most two keys whose tokens are good: the newest, and during an overlap the one before it."""
    master_key_ids = list(parse_master_keys(settings.TOKEN_MASTER_KEYS))
    newest = snapshot.AcceptedKey(credential.generation, master_key_ids[0])
    until = credential.previous_until
    if until is not None and now < until:
        previous = snapshot.AcceptedKey(credential.generation - 1, master_key_ids[0], int(until.timestamp()))
        return (newest, previous)
    return (newest, *(snapshot.AcceptedKey(credential.generation, key_id) for key_id in master_key_ids[1:2]))


def _build_models(tenant: Tenant) -> Iterator[snapshot.Model]:
    newest = RolloutRevision.objects.unscoped().filter(model=OuterRef("pk")).order_by("-number")
    rows = RecommendationModel.objects.for_tenant(tenant).order_by("slug")
    found = list(rows.annotate(rollout_id=Subquery(newest.values("pk")[:1])).exclude(rollout_id=None))
    rollouts = RolloutRevision.objects.for_tenant(tenant).in_bulk([model.rollout_id for model in found])
    versions = _by_model(
        models.Version.objects.for_tenant(tenant)
        .select_related("layout", "active_table", "previous_table")
        .order_by("code")
    )
    overrides = _by_model(models.Override.objects.for_tenant(tenant).select_related("version").order_by("unit"))
    for model in found:
        rollout = rollouts[model.rollout_id]
        # Only a slot or a tester leads to a version. One without either that was never loaded is left out, as lanes
        # prepare each version and each layout that they are given.
        codes = {*bytes(rollout.allocation), *(override.version.code for override in overrides[model.pk])}
        served = [v for v in versions[model.pk] if v.code in codes or v.active_table_id or v.previous_table_id]
        layouts = {version.layout.revision: version.layout for version in served}
        yield snapshot.Model(
            slug=model.slug,
            key_fields=tuple(model.key_fields),
            unit_field=model.unit_field or None,
            layouts=tuple(snapshot.Layout(revision, layouts[revision].fields) for revision in sorted(layouts)),
            default=model.default_answer,
            default_revision=model.default_revision,
            max_client_age_seconds=model.max_client_age_seconds,
            salt=rollout.salt,
            phase=rollout.phase,
            allocation=bytes(rollout.allocation),
            allocation_revision=rollout.number,
            versions=tuple(_build_version(version) for version in served),
            overrides={override.unit: override.version.code for override in overrides[model.pk]},
        )


def _build_version(version: models.Version) -> snapshot.Version:
    return snapshot.Version(
        name=version.name,
        code=version.code,
        layout_revision=version.layout.revision,
        active=_build_table(version.active_table),
        previous=_build_table(version.previous_table),
    )


def _build_table(table: models.Table | None) -> snapshot.Table | None:
    if table is None or table.state != TableState.READY:
        return None
    return snapshot.Table(table.table_id, table.block_bits, table.row_count, int(table.created_at.timestamp()))


def _by_model(rows: Iterable[Row]) -> dict[int, list[Row]]:
    grouped: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.model_id].append(row)
    return grouped


# --- One at a time, from one consistent read, signed ----------------------------------------------------------------


@contextmanager
def _tenant_lock(tenant_id: int) -> Iterator[None]:
    """Keep every other publication of this tenant waiting until the block ends.

    PostgreSQL: an advisory lock on the connection, taken before any transaction begins, because a snapshot of the
    data that was taken while waiting for the lock would already be old. SQLite: a transaction that begins with a
    write, which no other writer can share.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", [_LOCK_CLASS, tenant_id])
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCK_CLASS, tenant_id])
        return
    with transaction.atomic(durable=True):
        Tenant.objects.filter(pk=tenant_id).update(snapshot_revision=F("snapshot_revision"))
        yield


def _read(tenant_id: int) -> tuple[Tenant, snapshot.Tenant]:
    """Return a tenant's row and its content from one consistent read of the database."""
    if connection.vendor != "postgresql":
        tenant = Tenant.objects.get(pk=tenant_id)
        return tenant, build_tenant(tenant)
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tenant = Tenant.objects.get(pk=tenant_id)
        return tenant, build_tenant(tenant)


def _private_key() -> tuple[str, Ed25519PrivateKey]:
    if settings.SNAPSHOT_PRIVATE_KEY is None:
        raise NothingToSignWith("RECSITE_SNAPSHOT_PRIVATE_KEY is not set")
    return snapshot.parse_private_key(settings.SNAPSHOT_PRIVATE_KEY)


def _sign(content: snapshot.Tenant, revision: int, issued_at: datetime) -> bytes:
    key_id, private_key = _private_key()
    document = snapshot.Snapshot(snapshot.FORMAT, revision, int(issued_at.timestamp()), content)
    return snapshot.sign_snapshot(document, key_id, private_key)


def _push_roster() -> None:
    """Write the signed list of all tenants, of which a lane that starts must know every one before it is ready.

    One that was never published is not on it: nobody can have it, and a studio whose rows cannot be published must not
    keep lanes from starting.
    """
    ids = tuple(Tenant.objects.exclude(snapshot_published_at=None).order_by("pk").values_list("public_id", flat=True))
    key_id, private_key = _private_key()
    roster = snapshot.Roster(int(timezone.now().timestamp()), ids)
    try:
        publishing_client().set(
            snapshot.roster_name(settings.REDIS_PREFIX), snapshot.sign_roster(roster, key_id, private_key)
        )
    except redis.RedisError as error:
        log.warning("publishing.failed tenant=all problem=%s: %s", type(error).__name__, error)


def _push(tenant_id: str, revision: int, envelope: bytes) -> None:
    """Write the envelope, then the revision that lanes poll, then wake those that listen."""
    client = publishing_client()
    client.set(snapshot.snapshot_name(settings.REDIS_PREFIX, tenant_id), envelope)
    client.hset(snapshot.revisions_name(settings.REDIS_PREFIX), tenant_id, str(revision))
    client.publish(snapshot.announcements_name(settings.REDIS_PREFIX), tenant_id)
    # What lanes of earlier releases said of the revision before: it would stay for ever, and all say it anew now.
    client.unlink(former_applied_name(settings.REDIS_PREFIX, tenant_id))
