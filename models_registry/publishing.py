"""Database → snapshot → Redis. The database is the truth; what this puts into Redis is signed and can be made again.

A tenant is published after the commit that changed it, and again by beat when what Redis holds differs (a publication
that failed, a Redis that was flushed, an hour that passed). That snapshots still hold is signed every 15 s, in one list
of all (the roster), so that nothing is published for being old.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
from models_registry.redis_clients import is_wrong_type, publishing_client
from serving.formats import snapshot
from serving.formats.tokens import parse_master_keys
from serving.redis.clients import by_holder
from serving.reporting import former_applied_name
from tenants.models import Algorithm, Credential, Tenant

log = logging.getLogger(__name__)
AlgorithmName = Literal["HS256", "EdDSA", "ES256", "RS256"]
Row = TypeVar("Row", models.Version, models.Override)

# A write that did not say so is found by building what serving should know anew, studio after studio in turn.
CHECK_AFTER = timedelta(minutes=5)
CHECKING_SECONDS = 5.0
# Lanes of releases before 0.2 know no roster: for them each snapshot is signed anew long before it is too old.
RESIGN_AFTER = min(timedelta(hours=12), settings.SNAPSHOT_MAX_AGE / 4)
# How long a publication waits for another of the same studio; beat comes back to it.
PATIENCE_SECONDS = 2.0
_KEYS_AT_ONCE = 500
# The first half of PostgreSQL's advisory lock key, so that no other use of such locks meets this one. The second half
# is the studio's; that of going through all of them is 0.
_LOCK_CLASS = 0x5EC5
_ALL = 0


class LockHeld(RuntimeError):
    """Another process is publishing the same studio, or holds its lock and does not end."""


class NothingToSignWith(RuntimeError):
    """This process has no snapshot private key: it is no part of the control plane."""


def publish_tenant(tenant_id: int, *, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Publish a tenant's snapshot as the database has it now; say whether Redis took it.

    Call it outside any transaction. Takes a lock per tenant that is held across the SET, so that of two publications
    the later one to read is the later one to write. Redis away, or the lock not free in time: a warning in the log, and
    beat tries again.

    Cost: ten queries and five Redis commands; 2 s if Redis does not answer.
    """
    try:
        # On SQLite the lock keeps every writer out: whether Redis answers at all is found out before.
        _mend_map()
        with _tenant_lock(tenant_id, patience_seconds):
            tenant, content = _read(tenant_id)
            issued_at = timezone.now()
            revision = max(tenant.snapshot_revision + 1, int(issued_at.timestamp() * 1000))
            _push(tenant.public_id, revision, _sign(content, revision, issued_at))
            _note(
                [tenant_id],
                snapshot_revision=revision,
                snapshot_digest=digest_of(content),
                snapshot_published_at=issued_at,
                snapshot_content_revision=tenant.content_revision,
                snapshot_checked_at=issued_at,
            )
    except (redis.RedisError, LockHeld) as error:
        log.warning("publishing.failed tenant=%s problem=%s: %s", tenant_id, type(error).__name__, error)
        return False
    log.info("publishing.done tenant=%s revision=%s", tenant.slug, revision)
    return True


def publish_on_change(*, tenant_id: int, **_: Any) -> None:
    """Receive `tenants.signals.tenant_changed`."""
    publish_tenant(tenant_id)


def republish_all() -> int:
    """Sign the roster, and publish what Redis does not have as the database says it; give how many studios.

    One runs at a time; another gives up at once. It ends at a publication that fails where Redis no longer answers at
    all; one node of a cluster that is away, and a studio whose lock is held, keep nobody else waiting.

    Cost: two queries, and for Redis the map of revisions, the first bytes of each snapshot in pipelines, and the
    roster. Then ten queries for each studio that is published, and in a part of each five minutes eight for each that
    is checked.
    """
    with _alone() as is_alone:
        return _republish() if is_alone else 0


def _republish() -> int:
    try:
        held = _revisions_held()
    except redis.RedisError as error:
        log.warning("publishing.failed tenant=all problem=%s: %s", type(error).__name__, error)
        return 0
    now = timezone.now()
    tenants = list(Tenant.objects.order_by("pk"))
    _push_roster(tenants, now)
    due = _due(tenants, held, now)
    published = 0
    for tenant in due:
        try:
            if publish_tenant(tenant.pk, patience_seconds=0):
                published += 1
            else:
                _revisions_held()
        except redis.RedisError:
            return published
        except Exception:  # one studio whose rows can't be published must not keep the others waiting
            log.exception("publishing.failed tenant=%s", tenant.pk)
    is_due = {tenant.pk for tenant in due}
    return published + _check([tenant for tenant in tenants if tenant.pk not in is_due], now)


def _due(tenants: list[Tenant], held: Mapping[str, str], now: datetime) -> list[Tenant]:
    """Return those of which serving lacks something that the database says it should have. One query."""
    overlaps_ended = set(
        Credential.objects.unscoped()
        .filter(revoked_at=None, previous_until__lte=now, previous_until__gt=F("tenant__snapshot_published_at"))
        .values_list("tenant_id", flat=True)
    )
    there = _envelopes_there(tenants)
    return [
        tenant
        for tenant in tenants
        if tenant.snapshot_published_at is None
        or tenant.content_revision != tenant.snapshot_content_revision
        or held.get(tenant.public_id) != str(tenant.snapshot_revision)
        or tenant.public_id not in there
        or tenant.pk in overlaps_ended
    ]


def _check(tenants: Iterable[Tenant], now: datetime) -> int:
    """Publish those that changed without a word, or that are signed too long ago; give how many.

    The longest unchecked come first, until this run's time is up.
    """
    ends_at = time.monotonic() + CHECKING_SECONDS
    published = 0
    fine: list[int] = []
    waiting = [tenant for tenant in tenants if not _is_within(tenant.snapshot_checked_at, CHECK_AFTER, now)]
    for tenant in sorted(waiting, key=_unchecked_longest):
        try:
            is_young = _is_within(tenant.snapshot_published_at, RESIGN_AFTER, now)
            if is_young and digest_of(build_tenant(tenant)) == tenant.snapshot_digest:
                fine.append(tenant.pk)
            else:
                published += publish_tenant(tenant.pk, patience_seconds=0)
        except Exception:  # as above
            log.exception("publishing.failed tenant=%s", tenant.pk)
        if time.monotonic() >= ends_at:
            break
    if fine:
        _note(fine, snapshot_checked_at=now)
    return published


def _unchecked_longest(tenant: Tenant) -> float:
    return 0.0 if tenant.snapshot_checked_at is None else tenant.snapshot_checked_at.timestamp()


def _is_within(at: datetime | None, span: timedelta, now: datetime) -> bool:
    """Tell whether a time is no longer ago than that; nor in the future, which a clock that was ahead has left."""
    return at is not None and now - span < at <= now


def _note(tenant_ids: Sequence[int], **values: Any) -> None:
    """Write down what was published or checked, but of a studio whose row another session holds: beat comes back to it.

    Waited for it would keep a save waiting that is done, and in the background all other studios.
    """
    with transaction.atomic():
        free = Tenant.objects.select_for_update(skip_locked=True).filter(pk__in=tenant_ids).order_by("pk")
        Tenant.objects.filter(pk__in=list(free.values_list("pk", flat=True))).update(**values)


def _revisions_held() -> dict[str, str]:
    """Return the revisions that Redis holds, by tenants' public ids.

    Raises:
        redis.RedisError: it does not answer; in a cluster, the node that every publication needs.
    """
    _mend_map()
    raw: Any = publishing_client().hgetall(snapshot.revisions_name(settings.REDIS_PREFIX))
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in raw.items()}


def _mend_map() -> None:
    """Take away what stands in place of the map of revisions: no revocation would reach a lane.

    Without a map every studio is published again, which writes it anew. Raises redis.RedisError as `_revisions_held`.
    """
    client, name = publishing_client(), snapshot.revisions_name(settings.REDIS_PREFIX)
    try:
        client.hlen(name)
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        log.warning("publishing.map_replaced name=%s", name)
        client.unlink(name)


def _envelopes_there(tenants: Iterable[Tenant]) -> set[str]:
    """Return the public ids of those whose envelope Redis has, signed with the key that signs now.

    Where the node that would know is away, it may have. What another key signed is as good as none to a lane that
    starts after that key has been taken away.
    """
    key_id, _ = _private_key()
    start = snapshot.envelope_start(key_id)
    client = publishing_client()
    names = {snapshot.snapshot_name(settings.REDIS_PREFIX, tenant.public_id): tenant.public_id for tenant in tenants}
    there = set(names.values())
    with suppress(redis.RedisError):
        for held in by_holder(client, names).values():
            for first in range(0, len(held), _KEYS_AT_ONCE):
                asked = held[first : first + _KEYS_AT_ONCE]
                with suppress(redis.RedisError):
                    pipeline = client.pipeline(transaction=False)
                    for name in asked:
                        pipeline.getrange(name, 0, len(start) - 1)
                    # A key of another type is an error in place of its start.
                    found = pipeline.execute(raise_on_error=False)
                    away = [got for got in found if isinstance(got, redis.ConnectionError | redis.TimeoutError)]
                    if not away:
                        there -= {names[name] for name, got in zip(asked, found, strict=True) if got != start}
    return there


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
    """Return the keys whose tokens are good, the newest first: of the newest secret, in an overlap of the one before.

    Of each by the first two master keys: while those are replaced there are tokens of both.
    """
    master_key_ids = list(parse_master_keys(settings.TOKEN_MASTER_KEYS))[:2]
    newest = tuple(snapshot.AcceptedKey(credential.generation, key_id) for key_id in master_key_ids)
    until = credential.previous_until
    if until is None or now >= until:
        return newest
    ends_at = int(until.timestamp())
    return (*newest, *(snapshot.AcceptedKey(credential.generation - 1, key_id, ends_at) for key_id in master_key_ids))


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
            layouts=tuple(_build_layout(layouts[revision], model) for revision in sorted(layouts)),
            default=model.default_answer,
            default_revision=model.default_revision,
            max_client_age_seconds=model.max_client_age_seconds,
            salt=rollout.salt,
            phase=rollout.phase,
            allocation=bytes(rollout.allocation),
            allocation_revision=rollout.number,
            versions=tuple(_build_version(version, is_answered=not rollout.serves_default) for version in served),
            overrides={override.unit: override.version.code for override in overrides[model.pk]},
            serves_default=rollout.serves_default,
        )


def _build_layout(layout: models.Layout, model: RecommendationModel) -> snapshot.Layout:
    layout.model = model
    return snapshot.Layout(layout.revision, layout.fields, layout.default, layout.counted_default_revision)


def _build_version(version: models.Version, *, is_answered: bool) -> snapshot.Version:
    """Return a version; one without tables is answered with the default, by lanes of any release."""
    return snapshot.Version(
        name=version.name,
        code=version.code,
        layout_revision=version.layout.revision,
        active=_build_table(version.active_table) if is_answered else None,
        previous=_build_table(version.previous_table) if is_answered else None,
    )


def _build_table(table: models.Table | None) -> snapshot.Table | None:
    if table is None or table.state != TableState.READY:
        return None
    loaded_at = int(table.created_at.timestamp())
    return snapshot.Table(table.table_id, table.block_bits, table.row_count, loaded_at, table.seal_key_id)


def _by_model(rows: Iterable[Row]) -> dict[int, list[Row]]:
    grouped: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.model_id].append(row)
    return grouped


# --- One at a time, from one consistent read, signed ----------------------------------------------------------------


@contextmanager
def _alone() -> Iterator[bool]:
    """Tell whether nobody else goes through all studios; while the block lasts, nobody does."""
    if connection.vendor == "postgresql":
        with _advisory_lock(_ALL, patience_seconds=0) as is_ours:
            yield is_ours
        return
    # SQLite is one file of one machine, and so is this.
    settings.LANE_STATE_DIR.mkdir(parents=True, exist_ok=True)
    with (settings.LANE_STATE_DIR / "republish.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _tenant_lock(tenant_id: int, patience_seconds: float) -> Iterator[None]:
    """Keep every other publication of this tenant waiting until the block ends.

    PostgreSQL: an advisory lock on the connection, taken before any transaction begins, because a snapshot of the
    data that was taken while waiting for the lock would already be old. SQLite: a transaction that begins with a
    write, which no other writer can share.

    Raises:
        LockHeld: another holds it, on PostgreSQL, and goes on holding it.
    """
    if connection.vendor == "postgresql":
        with _advisory_lock(tenant_id, patience_seconds) as is_ours:
            if not is_ours:
                raise LockHeld("another process is publishing it")
            yield
        return
    with transaction.atomic(durable=True):
        Tenant.objects.filter(pk=tenant_id).update(snapshot_revision=F("snapshot_revision"))
        yield


@contextmanager
def _advisory_lock(key: int, patience_seconds: float) -> Iterator[bool]:
    """Try to take one of PostgreSQL's locks on this connection, for so long; tell whether it was to be had.

    Asked for again and again, never waited for: who waits holds a connection, and a worker, as long as whoever has it.
    """
    ends_at = time.monotonic() + patience_seconds
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [_LOCK_CLASS, key])
            [is_ours] = cursor.fetchone()
            if is_ours or time.monotonic() >= ends_at:
                break
            time.sleep(0.02)
    if not is_ours:
        yield False
        return
    try:
        yield True
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCK_CLASS, key])


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


def _push_roster(tenants: Iterable[Tenant], now: datetime) -> None:
    """Write the signed list of all tenants, of which a lane that starts must know every one before it is ready.

    It signs anew what was published and is still what the database says, by rows that were read no earlier than `now`.
    One that was never published is not on it: nobody can have it, and a studio whose rows cannot be published must not
    keep lanes from starting.
    """
    listed = tuple(
        snapshot.Listed(
            tenant.public_id,
            tenant.snapshot_revision,
            bytes.fromhex(tenant.snapshot_digest)
            if tenant.content_revision == tenant.snapshot_content_revision
            else b"",
        )
        for tenant in tenants
        if tenant.snapshot_published_at is not None
    )
    key_id, private_key = _private_key()
    envelope = snapshot.sign_roster(snapshot.Roster(int(now.timestamp()), listed), key_id, private_key)
    try:
        publishing_client().set(snapshot.roster_name(settings.REDIS_PREFIX), envelope)
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
