"""What players were answered, version by version, as serving counted it: collected, kept, and read for the charts.

Serving writes its counts to a stream in Redis (`serving.reporting`); `collect` moves them into the database. The
position in the stream is stored in the same transaction as the counts, so nothing is counted twice or left out,
however often a run is repeated or cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F, Sum
from django.utils import timezone

from models_registry.models import (
    CredentialUse,
    RecommendationModel,
    Traffic,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
    Version,
)
from models_registry.redis_clients import publishing_client
from serving.reporting import FIELD, TrafficBatch, applied_name, processes_name, traffic_name
from tenants.models import Credential, Tenant

ENTRIES_AT_ONCE = 500
KEEP = {TrafficSpan.FIVE_MINUTES: timedelta(hours=48), TrafficSpan.HOUR: timedelta(days=35)}
# A serving process writes each second; one that has not for this long has ended or hangs.
SILENT_AFTER = timedelta(seconds=6)
FORGET_AFTER = timedelta(hours=1)

_decoder = msgspec.msgpack.Decoder(TrafficBatch)


# --- Collecting -----------------------------------------------------------------------------------------------------


def collect() -> int:
    """Move what serving has counted since the last time into the database; give how many batches.

    Two at once do no harm: one of them finds the position moved and gives up its batch. Redis away: nothing happens,
    and the counts wait there.

    Raises:
        redis.RedisError: Redis is away.
    """
    client = publishing_client()
    name = traffic_name(settings.REDIS_PREFIX)
    total = 0
    while True:
        position, _ = TrafficPosition.objects.get_or_create(pk=1)
        raw: Any = client.xrange(name, min=f"({position.entry_id}", count=ENTRIES_AT_ONCE)
        if not raw:
            # A Redis that was emptied counts its entries from now on, which is later than any position was.
            return total
        last_id = raw[-1][0].decode()
        batches = [batch for _, fields in raw if (batch := _decoded(fields)) is not None]
        with transaction.atomic():
            moved = TrafficPosition.objects.filter(pk=1, entry_id=position.entry_id).update(
                entry_id=last_id, moved_at=timezone.now()
            )
            if not moved:
                return total
            _count_answers(batches)
            _count_uses(batches)
        client.xtrim(name, minid=last_id, approximate=False)
        total += len(batches)


def _decoded(fields: Mapping[bytes, bytes]) -> TrafficBatch | None:
    try:
        return _decoder.decode(fields[FIELD])
    except (KeyError, msgspec.DecodeError):
        return None  # not ours, or of another release: counts are worth no failure


def _count_answers(batches: Iterable[TrafficBatch]) -> None:
    counts: Counter[tuple[tuple[str, str, str], TrafficSpan, datetime, str]] = Counter()
    for batch in batches:
        for tenant, model, version, source, answers in batch.exposures:
            for span in TrafficSpan:
                counts[(tenant, model, version), span, _start(batch.at, span), source] += answers
    versions = _versions({names for names, *_ in counts})
    for (names, span, starts_at, source), answers in counts.items():
        version_id = versions.get(names)
        if version_id is None or source not in TrafficSource.values:
            continue
        rows = Traffic.objects.unscoped()
        own = {"version_id": version_id, "span": span, "starts_at": starts_at, "source": source}
        if not rows.filter(**own).update(answers=F("answers") + answers):
            Traffic.objects.create(**own, answers=answers)


def _versions(names: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    found = Version.objects.unscoped().filter(
        model__tenant__slug__in={tenant for tenant, _, _ in names}, name__in={version for _, _, version in names}
    )
    return {
        (tenant, model, name): pk
        for tenant, model, name, pk in found.values_list("model__tenant__slug", "model__slug", "name", "pk")
    }


def _count_uses(batches: Iterable[TrafficBatch]) -> None:
    counts: Counter[tuple[str, datetime]] = Counter()
    last_used: dict[str, int] = {}
    for batch in batches:
        for client_id, requests in batch.credentials.items():
            counts[client_id, _start(batch.at, TrafficSpan.HOUR)] += requests
            last_used[client_id] = max(batch.at, last_used.get(client_id, 0))
    credentials = dict(
        Credential.objects.unscoped().filter(client_id__in=last_used.keys()).values_list("client_id", "pk")
    )
    for (client_id, starts_at), requests in counts.items():
        if client_id not in credentials:
            continue
        own = {"credential_id": credentials[client_id], "starts_at": starts_at}
        if not CredentialUse.objects.unscoped().filter(**own).update(requests=F("requests") + requests):
            CredentialUse.objects.create(**own, requests=requests)
    for client_id, pk in credentials.items():
        at = datetime.fromtimestamp(last_used[client_id], UTC)
        Credential.objects.unscoped().filter(pk=pk).exclude(last_used_at__gt=at).update(last_used_at=at)


def _start(at: int, span: TrafficSpan) -> datetime:
    return datetime.fromtimestamp(at - at % span, UTC)


def prune(now: datetime | None = None) -> int:
    """Drop counts that are older than they are kept; give how many rows."""
    now = now or timezone.now()
    dropped = sum(
        Traffic.objects.unscoped().filter(span=span, starts_at__lt=now - keep).delete()[0]
        for span, keep in KEEP.items()
    )
    oldest_use = now - KEEP[TrafficSpan.HOUR]
    return dropped + CredentialUse.objects.unscoped().filter(starts_at__lt=oldest_use).delete()[0]


# --- Reading --------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What one version answered in a span of time.

    Attributes:
        answers: all of them.
        share: of the model's answers, 0 … 1; None where there were none.
        default_share: of this version's answers, how many were the default or a fallback, 0 … 1; None without answers.
    """

    answers: int
    share: float | None
    default_share: float | None


def seen(model: RecommendationModel, *, hours: int = 24, now: datetime | None = None) -> dict[int, Seen]:
    """Give what each version of a model answered in the last hours, by the version's key. One query."""
    since = (now or timezone.now()) - timedelta(hours=hours)
    rows = (
        Traffic.objects.for_tenant(model.tenant)
        .filter(version__model=model, span=TrafficSpan.FIVE_MINUTES, starts_at__gte=since)
        .values("version_id", "source")
        .annotate(total=Sum("answers"))
        .order_by()
    )
    by_version: dict[int, Counter[str]] = {}
    for row in rows:
        by_version.setdefault(row["version_id"], Counter())[row["source"]] += row["total"]
    everything = sum(counts.total() for counts in by_version.values())
    return {
        version_id: Seen(
            answers=counts.total(),
            share=counts.total() / everything if everything else None,
            default_share=(counts.total() - counts[TrafficSource.TABLE]) / counts.total() if counts.total() else None,
        )
        for version_id, counts in by_version.items()
    }


class Point(NamedTuple):
    """A version's answers in one span; `starts_at` is the span's beginning."""

    starts_at: datetime
    answers: int


def series(
    model: RecommendationModel, *, span: TrafficSpan, since: datetime, until: datetime | None = None
) -> dict[int, list[Point]]:
    """Give each version's answers over time, every span of the time listed, by the version's key. One query."""
    until = until or timezone.now()
    first = _start(int(since.timestamp()), span)
    starts = [first + timedelta(seconds=span) * n for n in range(int((until - first) / timedelta(seconds=span)) + 1)]
    rows = (
        Traffic.objects.for_tenant(model.tenant)
        .filter(version__model=model, span=span, starts_at__gte=first, starts_at__lte=until)
        .values_list("version_id", "starts_at")
        .annotate(total=Sum("answers"))
        .order_by()
    )
    counts = {(version_id, starts_at): total for version_id, starts_at, total in rows}
    return {
        version_id: [Point(start, counts.get((version_id, start), 0)) for start in starts]
        for version_id in {version_id for version_id, _ in counts}
    }


def requests_in_24_hours(credential_ids: Iterable[int], *, now: datetime | None = None) -> dict[int, int]:
    """Give each credential's requests in the last 24 hours (whole hours, and the one that runs), by its key.

    One query. The caller has narrowed the credentials to one studio.
    """
    since = (now or timezone.now()) - timedelta(hours=24)
    rows = CredentialUse.objects.unscoped().filter(credential_id__in=list(credential_ids), starts_at__gte=since)
    return dict(rows.values_list("credential_id").annotate(total=Sum("requests")).order_by())


def collected_until() -> datetime | None:
    """Give when the collector last moved on; None if it never has."""
    return TrafficPosition.objects.values_list("moved_at", flat=True).first()


# --- Propagation ----------------------------------------------------------------------------------------------------


class Propagation(NamedTuple):
    """How far a tenant's newest snapshot has come.

    Attributes:
        processes: serving processes that live.
        live_on: how many of them serve by it.
        seconds: from its publication to the last of those; None while not all do, or where there is none.
    """

    processes: int
    live_on: int
    seconds: float | None


def propagation(tenant: Tenant, *, now: datetime | None = None) -> Propagation | None:
    """Say which serving processes serve by a tenant's newest snapshot; None where Redis does not answer."""
    client = publishing_client()
    prefix = settings.REDIS_PREFIX
    try:
        pipeline = client.pipeline(transaction=False)
        pipeline.hgetall(processes_name(prefix))
        pipeline.hgetall(applied_name(prefix, tenant.public_id))
        written, applied = pipeline.execute()
    except redis.RedisError:
        return None
    now_ms = (now or timezone.now()).timestamp() * 1000
    silent_ms, forget_ms = SILENT_AFTER.total_seconds() * 1000, FORGET_AFTER.total_seconds() * 1000
    ages_ms = {process: now_ms - int(at) for process, at in written.items()}
    living = {process for process, age in ages_ms.items() if age < silent_ms}
    gone = [process for process, age in ages_ms.items() if age > forget_ms]
    if gone:
        _forget(client, tenant, gone)
    current = {
        process: int(since_ms)
        for process, (revision, since_ms) in ((p, value.split()) for p, value in applied.items())
        if process in living and int(revision) >= tenant.snapshot_revision
    }
    seconds = None
    if current and len(current) == len(living) and tenant.snapshot_published_at is not None:
        seconds = max(0.0, max(current.values()) / 1000 - tenant.snapshot_published_at.timestamp())
    return Propagation(len(living), len(current), seconds)


def _forget(client: redis.Redis, tenant: Tenant, processes: list[bytes]) -> None:
    try:
        client.hdel(processes_name(settings.REDIS_PREFIX), *processes)
        client.hdel(applied_name(settings.REDIS_PREFIX, tenant.public_id), *processes)
    except redis.RedisError:
        return  # another time
