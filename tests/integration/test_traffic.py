"""From the counts of serving, through a real Redis stream, to what the pages show."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import redis
from django.conf import settings as project_settings

from models_registry.models import (
    CredentialUse,
    Traffic,
    TrafficGap,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
    Version,
)
from models_registry.publishing import publish_tenant
from models_registry.traffic import collecting, propagation, reading
from serving.http import Exposure, Response
from serving.metrics import Numbers
from serving.reporting import FIELD, FORGET_MS, Reporter, TrafficBatch, process_name, processes_name, traffic_name
from serving.world import World
from tests.factories import CredentialFactory, VersionFactory

pytestmark = pytest.mark.django_db(transaction=True)


class Process:
    """A serving process as far as its reports go."""

    def __init__(self, client: redis.Redis, kind: Any = "lane") -> None:
        self.numbers = Numbers()
        self.world = World({}, "recsite")
        self.reporter = Reporter(kind, client, project_settings.REDIS_PREFIX, self.world, self.numbers)

    def answer(self, version: Version, source: Any = "table", *, times: int = 1) -> None:
        model = version.model
        exposure = Exposure(model.tenant.slug, model.slug, version.name, source)
        for _ in range(times):
            self.numbers.observe(Response(200, "", b"", "", (exposure,)), 0.001, self.numbers.redis)


@pytest.fixture
def version(db: None) -> Version:
    return VersionFactory.create()


def totals(version: Version, span: TrafficSpan = TrafficSpan.FIVE_MINUTES) -> dict[str, int]:
    rows = Traffic.objects.for_tenant(version.model.tenant).filter(version=version, span=span)
    return {row.source: row.answers for row in rows}


def test_collect__two_processes_counted__sums_by_version_and_source(valkey: redis.Redis, version: Version) -> None:
    one, two = Process(valkey), Process(valkey)
    one.answer(version, times=3)
    two.answer(version, times=4)
    two.answer(version, "default")
    one.reporter.send_traffic()
    two.reporter.send_traffic()
    assert collecting.collect() == 2
    for span in TrafficSpan:
        assert totals(version, span) == {"table": 7, "default": 1}
    seen = reading.seen(version.model)[version.pk]
    assert (seen.answers, seen.share, seen.default_share) == (8, 1.0, 1 / 8)


def test_collect__again__counts_nothing_twice(valkey: redis.Redis, version: Version) -> None:
    process = Process(valkey)
    process.answer(version, times=5)
    process.reporter.send_traffic()
    kept: Any = valkey.xrange(traffic_name(project_settings.REDIS_PREFIX))
    collecting.collect()
    for entry_id, fields in kept:  # a trim that failed leaves the stream as it was
        valkey.delete(traffic_name(project_settings.REDIS_PREFIX))
        valkey.xadd(traffic_name(project_settings.REDIS_PREFIX), fields, id=entry_id)
    assert collecting.collect() == 0
    process.answer(version, times=2)
    process.reporter.send_traffic()
    collecting.collect()
    assert totals(version) == {"table": 7}


def test_collect__more_counts_than_one_statement_takes__adds_to_the_old_and_makes_the_new(
    valkey: redis.Redis, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "ROWS_AT_ONCE", 3)
    others = VersionFactory.create_batch(3, model=version.model)
    at = 1_790_000_030
    for second, versions in ((at, [version]), (at + 5, [version, *others])):
        names = [(one.model.tenant.slug, one.model.slug, one.name, "table", 5) for one in versions]
        for _ in range(2):
            send(valkey, TrafficBatch(second, names, {}, second - 5))
        collecting.collect()
    for span in TrafficSpan:
        assert totals(version, span) == {"table": 20}
        assert [totals(other, span) for other in others] == [{"table": 10}] * 3


def test_collect__fails_in_the_middle__counts_all_of_it_the_next_time(
    valkey: redis.Redis, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(valkey)
    process.answer(version, times=5)
    process.reporter.send_traffic()
    with monkeypatch.context() as patched:
        patched.setattr(collecting, "_count_uses", raiser(RuntimeError("the power failed")))
        with pytest.raises(RuntimeError, match="power"):
            collecting.collect()
    assert totals(version) == {}
    assert TrafficPosition.objects.get().entry_id == "0-0"
    collecting.collect()
    assert totals(version) == {"table": 5}


def test_collect__entry_of_another_release_and_unknown_names__passed_over(
    valkey: redis.Redis, version: Version
) -> None:
    name = traffic_name(project_settings.REDIS_PREFIX)
    valkey.xadd(name, {"b": b"\xff not ours"})
    valkey.xadd(name, {"other": b"field"})
    process = Process(valkey)
    process.answer(version)
    exposures = (Exposure("nobody", "offers", "one", "table"),)
    process.numbers.observe(Response(200, "", b"", "", exposures), 0.001, process.numbers.redis)
    process.reporter.send_traffic()
    collecting.collect()
    assert totals(version) == {"table": 1}
    assert Traffic.objects.unscoped().count() == len(TrafficSpan)


def test_collect__same_slugs_in_two_studios__kept_apart(valkey: redis.Redis, version: Version) -> None:
    other = VersionFactory.create(name=version.name, model__slug=version.model.slug)
    process = Process(valkey)
    process.answer(version, times=2)
    process.answer(other, times=3)
    process.reporter.send_traffic()
    collecting.collect()
    assert (totals(version), totals(other)) == ({"table": 2}, {"table": 3})
    assert list(reading.seen(version.model)) == [version.pk]


def test_collect__credentials_used__requests_and_last_use(valkey: redis.Redis, version: Version) -> None:
    credential = CredentialFactory.create(tenant=version.model.tenant)
    process = Process(valkey)
    process.world.uses = {credential.client_id: 3, "cr_unknown": 5}
    process.reporter.send_traffic()
    process.world.uses[credential.client_id] += 4
    process.reporter.send_traffic()
    collecting.collect()
    assert reading.requests_in_24_hours([credential.pk]) == {credential.pk: 7}
    credential.refresh_from_db()
    assert credential.last_used_at is not None
    assert abs(credential.last_used_at.timestamp() - time.time()) < 60


def test_collect__nothing_was_asked__says_that_it_has_looked(valkey: redis.Redis, version: Version) -> None:
    collecting.collect()
    first = reading.collected_until()
    collecting.collect()
    last = reading.collected_until()
    assert first is not None
    assert last is not None
    assert first < last


def test_collect__batch_waited_for_redis__is_spread_over_the_time_it_covers(
    valkey: redis.Redis, version: Version
) -> None:
    model = version.model
    at = datetime(2026, 11, 20, 12, 3, 30, tzinfo=UTC)
    exposures = [(model.tenant.slug, model.slug, version.name, "table", 100)]
    send(valkey, TrafficBatch(int(at.timestamp()), exposures, {}, int(at.timestamp()) - 150))
    collecting.collect()
    rows = Traffic.objects.for_tenant(model.tenant).filter(version=version)
    by_minute = {row.starts_at.minute: row.answers for row in rows.filter(span=60)}
    assert by_minute == {1: 40, 2: 40, 3: 20}
    assert [row.answers for row in rows.filter(span=3600)] == [100]
    assert [row.answers for row in rows.filter(span=21_600)] == [100]


def test_collect__batch_older_than_its_short_spans_are_kept__counts_all_of_it_where_it_is_kept(
    valkey: redis.Redis, version: Version
) -> None:
    at = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp())
    exposures = [(version.model.tenant.slug, version.model.slug, version.name, "table", 2400)]
    send(valkey, TrafficBatch(at, exposures, {}, at - 24 * 3600))
    collecting.collect()
    rows = Traffic.objects.for_tenant(version.model.tenant).filter(version=version)
    assert sum(row.answers for row in rows.filter(span=3600)) == 2400
    assert {row.answers for row in rows.filter(span=3600)} == {100}
    assert sum(row.answers for row in rows.filter(span=60)) == 300


def test_collect__what_no_process_would_say__is_passed_over_and_the_rest_counts(
    valkey: redis.Redis, version: Version
) -> None:
    names = version.model.tenant.slug, version.model.slug, version.name, "table"
    now = int(time.time())
    for batch in (
        TrafficBatch(2**60, [(*names, 1)], {}),
        TrafficBatch(now, [(*names, 2**62)], {}),
        TrafficBatch(now, [(*names, -5)], {}),
        TrafficBatch(now, [], {"cr_any": 2**62}),
        TrafficBatch(now, [(*names, 1)], {}, now + 10),
        TrafficBatch(-1, [(*names, 1)], {}),
        TrafficBatch(now, [(*names, 3)], {}, now - 5),
    ):
        send(valkey, batch)
    assert collecting.collect() == 1
    assert totals(version) == {"table": 3}


@pytest.mark.parametrize("how", ["another type", "an id of the future"])
def test_collect__a_stream_that_nobody_can_add_to__is_begun_anew(
    how: str, valkey: redis.Redis, version: Version
) -> None:
    name = traffic_name(project_settings.REDIS_PREFIX)
    if how == "another type":
        valkey.set(name, "x")
    else:
        valkey.xadd(name, {"x": "y"}, id=f"{2**63}-0")
    collecting.collect()
    process = Process(valkey)
    process.answer(version, times=4)
    process.reporter.send_traffic()
    collecting.collect()
    assert totals(version) == {"table": 4}


def test_collect__redis_was_emptied__leaves_one_gap_and_goes_on(valkey: redis.Redis, version: Version) -> None:
    process = Process(valkey)
    process.answer(version)
    process.reporter.send_traffic()
    collecting.collect()
    before = reading.collected_until()
    process.answer(version, times=10)
    process.reporter.send_traffic()
    valkey.flushall()
    for _ in range(3):
        collecting.collect()
    gap = TrafficGap.objects.get()
    assert gap.starts_at == before
    assert gap.ends_at > gap.starts_at
    process.answer(version, times=5)
    process.reporter.send_traffic()
    collecting.collect()
    assert totals(version) == {"table": 6}
    assert TrafficGap.objects.count() == 1


def test_collect__redis_was_emptied_and_written_again__leaves_a_gap(valkey: redis.Redis, version: Version) -> None:
    process = Process(valkey)
    process.answer(version)
    process.reporter.send_traffic()
    collecting.collect()
    process.answer(version, times=10)
    process.reporter.send_traffic()
    valkey.flushall()
    process.answer(version, times=5)
    process.reporter.send_traffic()
    collecting.collect()
    collecting.collect()
    assert totals(version) == {"table": 6}
    assert TrafficGap.objects.count() == 1


def test_collect__stream_was_cut_before_it_was_read__leaves_a_gap(valkey: redis.Redis, version: Version) -> None:
    process = Process(valkey)
    process.answer(version)
    process.reporter.send_traffic()
    collecting.collect()
    name = traffic_name(project_settings.REDIS_PREFIX)
    for _ in range(3):
        process.answer(version)
        process.reporter.send_traffic()
    valkey.xtrim(name, maxlen=1, approximate=False)
    collecting.collect()
    collecting.collect()
    gap = TrafficGap.objects.get()
    assert gap.ends_at >= gap.starts_at
    assert totals(version) == {"table": 2}


def test_report__redis_away__counts_wait_for_it(valkey: redis.Redis, version: Version) -> None:
    away = redis.Redis(port=1, socket_connect_timeout=0.2)
    process = Process(away)
    process.answer(version, times=6)
    with pytest.raises(redis.ConnectionError):
        process.reporter.report()
    process.reporter._client = valkey
    process.reporter.report()
    collecting.collect()
    assert totals(version) == {"table": 6}


def test_prune__old_counts__go_and_others_stay(version: Version) -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)

    def count(span: TrafficSpan, age: timedelta) -> None:
        Traffic.objects.create(version=version, span=span, starts_at=now - age, source=TrafficSource.TABLE, answers=1)

    count(TrafficSpan.FIVE_MINUTES, timedelta(hours=49))
    count(TrafficSpan.FIVE_MINUTES, timedelta(hours=47))
    count(TrafficSpan.HOUR, timedelta(days=36))
    count(TrafficSpan.HOUR, timedelta(days=34))
    credential = CredentialFactory.create(tenant=version.model.tenant)
    CredentialUse.objects.create(credential=credential, starts_at=now - timedelta(days=36), requests=1)
    assert collecting.prune(now) == 3
    assert Traffic.objects.unscoped().count() == 2


def test_series__gaps_in_the_counts__are_zeroes(version: Version) -> None:
    now = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
    for hours in (1, 3):
        Traffic.objects.create(
            version=version,
            span=3600,
            starts_at=now.replace(minute=0) - timedelta(hours=hours),
            source="table",
            answers=hours,
        )
    points = reading.series(version.model, span=TrafficSpan.HOUR, since=now - timedelta(hours=4), until=now)
    assert [point.answers for point in points[version.pk]] == [0, 3, 0, 1, 0]


def test_propagation__processes_apply_a_revision__live_on_all_of_them(valkey: redis.Redis, version: Version) -> None:
    tenant = version.model.tenant
    assert publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    one, two = Process(valkey), Process(valkey, "door")
    two.reporter.process += "-other"
    at = time.time()
    for process, revision in ((one, tenant.snapshot_revision), (two, tenant.snapshot_revision - 1)):
        process.world.tenants = {tenant.public_id: applied(tenant.public_id, revision)}
        process.reporter.report()
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.processes, seen.silent, seen.live_on, seen.seconds) == (2, 0, 1, None)
    assert [(process.is_lane, process.silent_seconds) for process in seen.behind] == [(False, None)]
    assert (seen.lanes, seen.live_lanes) == (1, 1)

    time.sleep(0.002)
    two.world.tenants = {tenant.public_id: applied(tenant.public_id, tenant.snapshot_revision)}
    two.reporter.report()
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.processes, seen.live_on) == (2, 2)
    assert seen.seconds is not None
    assert 0 <= seen.seconds < time.time() - at + 60


def be_silent(client: redis.Redis, process: Process, for_ms: int) -> None:
    """Let a process have said its last word so long ago."""
    client.pexpire(process_name(project_settings.REDIS_PREFIX, process.reporter.process), FORGET_MS - for_ms)


def test_propagation__a_lane_is_silent__stays_one_of_those_that_are_waited_for(
    valkey: redis.Redis, version: Version
) -> None:
    tenant = version.model.tenant
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    one, two = Process(valkey), Process(valkey)
    two.reporter.process += "-other"
    for process, revision in ((one, tenant.snapshot_revision), (two, tenant.snapshot_revision - 1)):
        process.world.tenants = {tenant.public_id: applied(tenant.public_id, revision)}
        process.reporter.report()
    be_silent(valkey, two, 1_800_000)
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.processes, seen.silent, seen.live_on, seen.seconds) == (2, 1, 1, None)
    (silent,) = seen.behind
    assert silent.place == f"{socket.gethostname()}, process {os.getpid()}-other"
    assert silent.silent_seconds == pytest.approx(1800, abs=5)
    be_silent(valkey, two, FORGET_MS - 1)
    time.sleep(0.01)
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.silent, seen.live_on) == (0, 1)


def test_propagation__a_lane_ends__is_not_waited_for(valkey: redis.Redis, version: Version) -> None:
    process = Process(valkey)
    process.world.tenants = {"t1": applied("t1", 7)}
    process.reporter.report()
    process.reporter.end()
    seen = propagation.propagation(version.model.tenant)
    assert seen is not None
    assert (seen.all, seen.is_served) == ((), False)
    assert valkey.dbsize() == 0


def test_propagation__a_silent_lane_that_had_the_newest__is_not_vouched_for(
    valkey: redis.Redis, version: Version
) -> None:
    tenant = version.model.tenant
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    process = Process(valkey)
    process.world.tenants = {tenant.public_id: applied(tenant.public_id, tenant.snapshot_revision)}
    process.reporter.report()
    be_silent(valkey, process, 60_000)
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.live_on, len(seen.behind), seen.is_served) == (1, 1, False)


def test_propagation__a_lane_starts_later__does_not_make_the_change_a_slow_one(
    valkey: redis.Redis, version: Version
) -> None:
    tenant = version.model.tenant
    one, late = Process(valkey), Process(valkey)
    late.reporter.process += "-late"
    one.reporter.report()
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    time.sleep(0.002)
    one.world.tenants = {tenant.public_id: applied(tenant.public_id, tenant.snapshot_revision)}
    one.reporter.report()
    time.sleep(0.5)
    late.world.tenants = one.world.tenants
    late.reporter.report()
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.live_on, seen.behind) == (2, [])
    assert seen.seconds is not None
    assert seen.seconds < 0.5


def test_propagation__clock_of_a_lane_is_an_hour_off__does_not_matter(
    valkey: redis.Redis, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = version.model.tenant
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    for number, off_seconds in enumerate((-3600, 3600)):
        process = Process(valkey)
        process.reporter.process += f"-{number}"
        with monkeypatch.context() as patched:
            patched.setattr("serving.reporting.time.time", lambda off=off_seconds, real=time.time: real() + off)
            process.reporter.report()
            process.world.tenants = {tenant.public_id: applied(tenant.public_id, tenant.snapshot_revision)}
            time.sleep(0.002)
            process.reporter.report()
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert (seen.processes, seen.silent, seen.live_on) == (2, 0, 2)
    assert seen.seconds is not None
    assert seen.seconds < 60


def test_report__processes_come_and_go_without_a_word__leave_nothing(valkey: redis.Redis, version: Version) -> None:
    for number in range(30):
        process = Process(valkey)
        process.reporter.process += f"-{number}"
        process.world.tenants = {f"t{tenant}": applied(f"t{tenant}", 7) for tenant in range(3)}
        process.reporter.report()
        valkey.pexpire(process_name(project_settings.REDIS_PREFIX, process.reporter.process), 1)
        time.sleep(0.005)
    last = Process(valkey)
    last.reporter.report()
    names: Any = valkey.keys("*")
    prefix = project_settings.REDIS_PREFIX
    own = process_name(prefix, last.reporter.process)
    assert {name.decode() for name in names} == {processes_name(prefix), own}
    assert valkey.hkeys(processes_name(prefix)) == [last.reporter.process.encode()]


def test_report__redis_was_emptied__what_is_applied_is_said_again(valkey: redis.Redis, version: Version) -> None:
    tenant = version.model.tenant
    process = Process(valkey)
    process.world.tenants = {tenant.public_id: applied(tenant.public_id, 5)}
    process.reporter.report()
    valkey.flushall()
    process.reporter.report()
    process.reporter.report()
    seen = propagation.propagation(tenant)
    assert seen is not None
    assert seen.live_on == 1


def send(client: redis.Redis, batch: TrafficBatch) -> None:
    client.xadd(traffic_name(project_settings.REDIS_PREFIX), {FIELD: msgspec.msgpack.encode(batch)})


def applied(tenant_id: str, revision: int) -> Any:
    """Return as much of a prepared tenant as a report looks at."""

    class Applied:
        pass

    prepared = Applied()
    prepared.id, prepared.revision = tenant_id, revision  # type: ignore[attr-defined]  # made of nothing
    return prepared


def raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail
