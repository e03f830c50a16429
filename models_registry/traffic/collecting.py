"""What players were answered, version by version, as serving counted it: collected, kept, and read for the charts.

Serving writes its counts to a stream in Redis (`serving.reporting`); `collect` moves them into the database. The
position in the stream is stored in the same transaction as the counts, so nothing is counted twice or left out,
however often a run is repeated or cut off.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import msgspec
import redis
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from models_registry.models import (
    CredentialUse,
    Traffic,
    TrafficGap,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
    Version,
)
from models_registry.redis_clients import is_wrong_type, publishing_client
from serving.redis.clients import Client
from serving.reporting import FIELD, TrafficBatch, traffic_name
from tenants.models import Credential

ENTRIES_AT_ONCE = 500
ROWS_AT_ONCE = 1000
KEEP = {
    TrafficSpan.MINUTE: timedelta(hours=3),
    TrafficSpan.FIVE_MINUTES: timedelta(hours=48),
    TrafficSpan.HOUR: timedelta(days=35),
    TrafficSpan.SIX_HOURS: timedelta(days=35),
}
# Serving sends every few seconds. A batch of a longer time waited for Redis, and is spread over that time.
SPREAD_AFTER_SECONDS = 30
# What no process says, but whoever can write to Redis may: a time so far ahead, so many of one kind at once.
MOST_AHEAD = timedelta(hours=1)
MOST_AT_ONCE = 10**10

log = logging.getLogger(__name__)
_decoder = msgspec.msgpack.Decoder(TrafficBatch)


def collect() -> int:
    """Move what serving has counted since the last time into the database; return how many batches.

    Two at once do no harm: one of them finds the position moved and gives up its batch. Redis away: nothing happens,
    and the counts wait there. Counts that were lost (Redis was emptied, or the stream cut) leave a `TrafficGap`.

    Raises:
        redis.RedisError: Redis is away.
    """
    client = publishing_client()
    name = traffic_name(settings.REDIS_PREFIX)
    _drop_what_is_no_stream(client, name)
    position, _ = TrafficPosition.objects.get_or_create(pk=1)
    entry_id = _past_what_was_lost(client, name, position)
    total = 0
    while True:
        looked_at = timezone.now()
        raw: Any = client.xrange(name, min=f"({entry_id}", count=ENTRIES_AT_ONCE)
        if not raw:
            TrafficPosition.objects.filter(pk=1, entry_id=entry_id).update(moved_at=looked_at)
            return total
        last_id = raw[-1][0].decode()
        decoded = [batch for _, fields in raw if (batch := _decoded(fields)) is not None]
        batches = [batch for batch in decoded if _is_plausible(batch, looked_at)]
        if len(batches) < len(decoded):
            log.warning("traffic.implausible batches=%d", len(decoded) - len(batches))
        with transaction.atomic():
            moved = TrafficPosition.objects.filter(pk=1, entry_id=entry_id).update(
                entry_id=last_id, moved_at=min(_sent_at(last_id), looked_at)
            )
            if not moved:
                return total
            _count_answers(batches)
            _count_uses(batches)
        client.xtrim(name, minid=last_id, approximate=False)
        entry_id = last_id
        total += len(batches)


def _drop_what_is_no_stream(client: Client, name: str) -> None:
    """Take away a key of another type, and a stream whose ids are of the future: no process could add to it."""
    try:
        stream: Any = client.xinfo_stream(name)
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            return  # there is none yet
    else:
        newest_ms, _ = _order(stream["last-generated-id"].decode())
        if newest_ms <= (timezone.now() + MOST_AHEAD).timestamp() * 1000:
            return
    log.warning("traffic.dropped name=%s", name)
    client.unlink(name)


def _is_plausible(batch: TrafficBatch, now: datetime) -> bool:
    """Tell whether a process could have sent a batch."""
    counts = [*(answers for *_, answers in batch.exposures), *batch.credentials.values()]
    is_of_time = 0 <= batch.since <= batch.at <= (now + MOST_AHEAD).timestamp()
    return is_of_time and all(0 <= count <= MOST_AT_ONCE for count in counts)


def _past_what_was_lost(client: Client, name: str, position: TrafficPosition) -> str:
    """Note the time of which counts were lost since the last run, if any; return the entry to go on after."""
    try:
        stream: Any = client.xinfo_stream(name)
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise  # a cluster that is down has lost nothing yet
        stream = {}  # there is none, yet or any more
    newest: str = stream.get("last-generated-id", b"0-0").decode()
    if _order(newest) < _order(position.entry_id):
        # Redis was emptied, or is a copy that missed the end. What it has by now was counted before.
        with transaction.atomic():
            own = TrafficPosition.objects.filter(pk=1, entry_id=position.entry_id)
            if own.update(entry_id=newest, moved_at=timezone.now()):
                _note_gap(position.moved_at, timezone.now())
        return newest
    first = stream.get("first-entry")
    # The entry at the position stays when the rest is trimmed, so a stream that begins after it is not what it was.
    if position.entry_id != "0-0" and first and _order(first[0].decode()) > _order(position.entry_id):
        _note_gap(position.moved_at, _sent_at(first[0].decode()))
    return position.entry_id


def _note_gap(starts_at: datetime, ends_at: datetime) -> None:
    TrafficGap.objects.update_or_create(starts_at=starts_at, defaults={"ends_at": max(starts_at, ends_at)})


def _order(entry_id: str) -> tuple[int, int]:
    """Return an entry's place in the stream: its millisecond, and its number in that."""
    at_ms, _, number = entry_id.partition("-")
    return int(at_ms), int(number)


def _sent_at(entry_id: str) -> datetime:
    return datetime.fromtimestamp(_order(entry_id)[0] / 1000, UTC)


def _decoded(fields: Mapping[bytes, bytes]) -> TrafficBatch | None:
    try:
        return _decoder.decode(fields[FIELD])
    except (KeyError, msgspec.DecodeError):
        return None  # not ours, or of another release: counts are worth no failure


def _count_answers(batches: Iterable[TrafficBatch]) -> None:
    """Add batches to what was counted. One query, and one more for each thousand counts.

    The position was moved in the same transaction, so nobody else counts at this moment.
    """
    # What is of one minute first is one count, of however many processes; then spans are looked at for that alone.
    at_once: Counter[tuple[tuple[str, str, str], str, int]] = Counter()
    counts: Counter[tuple[tuple[str, str, str], str, TrafficSpan, datetime]] = Counter()
    for batch in batches:
        is_short = _is_short(batch)
        minute = batch.at - batch.at % TrafficSpan.MINUTE
        for tenant, model, version, source, answers in batch.exposures:
            if is_short:
                at_once[(tenant, model, version), source, minute] += answers
                continue
            for span in TrafficSpan:
                for starts_at, part in _spread(answers, batch, span):
                    counts[(tenant, model, version), source, span, starts_at] += part
    starts = {(minute, span): span_start(minute, span) for *_, minute in at_once for span in TrafficSpan}
    for (names, source, minute), answers in at_once.items():
        for span in TrafficSpan:
            counts[names, source, span, starts[minute, span]] += answers
    versions = _versions({names for names, *_ in counts})
    _add(
        (versions[names], int(span), starts_at, source, answers)
        for (names, source, span, starts_at), answers in counts.items()
        if names in versions and source in TrafficSource.values
    )


def _add(counts: Iterable[tuple[int, int, datetime, str, int]]) -> None:
    """Add counts to the rows that are there, or make them. In SQL, as Django's upsert can set, and not add."""
    table = connection.ops.quote_name(Traffic._meta.db_table)  # noqa: SLF001 - how Django has it documented
    adapted = connection.ops.adapt_datetimefield_value
    rows = sorted((version, span, adapted(at), source, answers) for version, span, at, source, answers in counts)
    with connection.cursor() as cursor:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[first : first + ROWS_AT_ONCE]
            if connection.vendor == "postgresql":
                # Five parameters, in place of five for each row: half the time.
                new = (
                    "SELECT * FROM unnest(%s::bigint[], %s::smallint[], %s::timestamptz[], %s::varchar[], %s::bigint[])"
                )
                parameters: list[Any] = [list(column) for column in zip(*some, strict=True)]
            else:
                new = "VALUES " + ", ".join(["(%s, %s, %s, %s, %s)"] * len(some))
                parameters = list(chain.from_iterable(some))
            cursor.execute(
                f"INSERT INTO {table} AS counted (version_id, span, starts_at, source, answers) {new} "
                "ON CONFLICT (version_id, span, starts_at, source) "
                "DO UPDATE SET answers = counted.answers + EXCLUDED.answers",
                parameters,
            )


def _is_short(batch: TrafficBatch) -> bool:
    """Tell whether a batch is of so short a time that it counts at its end."""
    return not batch.since or batch.at - batch.since <= SPREAD_AFTER_SECONDS


def _spread(answers: int, batch: TrafficBatch, span: TrafficSpan) -> Iterator[tuple[datetime, int]]:
    """Yield the answers of a batch that waited by the spans that it waited through, evenly."""
    seconds = batch.at - batch.since
    oldest = batch.at - int(KEEP[span].total_seconds())
    start = max(batch.since, oldest) // span * span
    given = answers * max(0, start - batch.since) // seconds
    while start <= batch.at:
        until = answers * (min(start + span, batch.at) - batch.since) // seconds
        if until > given:
            yield datetime.fromtimestamp(start, UTC), until - given
        given, start = until, start + span


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
            counts[client_id, span_start(batch.at, TrafficSpan.HOUR)] += requests
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
    # One that somebody is changing just now is passed over: its next use says it again.
    free = Credential.objects.unscoped().filter(pk__in=credentials.values()).select_for_update(skip_locked=True)
    for client_id, pk in free.order_by("pk").values_list("client_id", "pk"):
        at = datetime.fromtimestamp(last_used[client_id], UTC)
        Credential.objects.unscoped().filter(pk=pk).exclude(last_used_at__gt=at).update(last_used_at=at)


def span_start(at: int, span: TrafficSpan) -> datetime:
    """Return the start of the span that holds an instant (Unix time in seconds)."""
    return datetime.fromtimestamp(at - at % span, UTC)


def prune(now: datetime | None = None) -> int:
    """Drop counts that are older than they are kept; return how many rows."""
    now = now or timezone.now()
    dropped = sum(
        Traffic.objects.unscoped().filter(span=span, starts_at__lt=now - keep).delete()[0]
        for span, keep in KEEP.items()
    )
    TrafficGap.objects.filter(ends_at__lt=now - max(KEEP.values())).delete()
    oldest_use = now - KEEP[TrafficSpan.HOUR]
    return dropped + CredentialUse.objects.unscoped().filter(starts_at__lt=oldest_use).delete()[0]
