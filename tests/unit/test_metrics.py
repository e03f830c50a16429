"""What is counted, how several processes' numbers become one, and that the documentation says the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from recsite.environment import BASE_DIR
from recsite.metrics import DEFINITIONS as CONTROL_PLANE
from serving import metrics
from serving.http import NO_ANSWER, NO_SUCH_MODEL, NOT_HTTP, UNAUTHORIZED_FOR, Exposure, LostBlock, Response, Source
from serving.metrics import (
    DEFINITIONS,
    OUTCOMES,
    Numbers,
    NumbersCollector,
    Reading,
    WorkerFile,
    Workers,
    as_markdown,
    combined,
    told_apart,
)

FOUND = Response(200, "", b"", "", (Exposure("aurora", "offers", "a", "table"),))


def shown(reading: Reading) -> dict[str, float]:
    """Return what Prometheus would read, by series."""
    registry = CollectorRegistry()
    registry.register(NumbersCollector(lambda: reading))
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def dead_process_id() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_observe__status_exposures_latency_and_losses() -> None:
    numbers = Numbers()
    for _ in range(3):
        numbers.observe(FOUND, 0.0004, numbers.redis)
    numbers.observe(msgspec.structs.replace(FOUND, lost=[LostBlock("recsite:t:x:0", "x")] * 2), 0.04, numbers.redis)
    numbers.observe(UNAUTHORIZED_FOR["expired"], 7.0, numbers.redis)
    numbers.refuse_snapshot("outdated")
    series = shown(numbers.reading())
    assert series['recsite_requests_total{status="200"}'] == 4
    assert series['recsite_requests_total{status="401"}'] == 1
    assert series['recsite_token_refusals_total{reason="expired"}'] == 1
    assert series['recsite_exposures_total{model="offers",source="table",tenant="aurora",version="a"}'] == 4
    assert series["recsite_lost_blocks_total"] == 2
    assert series['recsite_snapshot_refusals_total{reason="outdated"}'] == 1
    assert series['recsite_request_duration_seconds_bucket{le="0.0005",outcome="redis"}'] == 3
    assert series['recsite_request_duration_seconds_bucket{le="0.05",outcome="redis"}'] == 4
    assert series['recsite_request_duration_seconds_bucket{le="1.0",outcome="redis"}'] == 4
    assert series['recsite_request_duration_seconds_bucket{le="1.0",outcome="refused"}'] == 0
    assert series['recsite_request_duration_seconds_bucket{le="+Inf",outcome="refused"}'] == 1
    assert series['recsite_request_duration_seconds_count{outcome="redis"}'] == 4
    assert series['recsite_request_duration_seconds_sum{outcome="redis"}'] == pytest.approx(0.0412)
    assert series['recsite_request_duration_seconds_sum{outcome="refused"}'] == 7


def test_tenant_requests__every_answer_is_in_one_class() -> None:
    numbers = Numbers()
    sources: tuple[Source, ...] = get_args(Source)
    known = {source: Exposure("aurora", "offers", "a", source) for source in sources}
    answered: dict[Source, int] = {"table": 5, "default": 4, "fallback": 3, "none": 2}
    for source, times in answered.items():
        for _ in range(times):
            answer = Response(204 if source == "none" else 200, "", b"", "", (known[source],))
            numbers.observe(answer, 0.001, numbers.cached)
    unread = msgspec.structs.replace(
        NO_ANSWER, exposures=(known["fallback"],), errors=(("aurora", 503, "unavailable"),)
    )
    numbers.observe(unread, 0.06, numbers.redis)
    batch = Response(200, "", b"", "", [known["table"]] * 2, errors=[("aurora", 400, "bad_key")])
    numbers.observe(batch, 0.01, numbers.redis)
    for error in (("aurora", 404, "model_not_found"), ("aurora", 429, "tenant"), ("aurora", 429, "credential")):
        numbers.observe(msgspec.structs.replace(NO_SUCH_MODEL, status=error[1], errors=(error,)), 1, numbers.cached)
    numbers.observe(NO_ANSWER, 0.01, numbers.cached)
    numbers.refuse(NOT_HTTP)
    series = shown(numbers.reading(["aurora", "borealis"]))
    requests = {name.partition("{")[2]: n for name, n in series.items() if name.startswith("recsite_tenant_requests")}
    assert requests == {
        'class="ok",tenant="aurora"}': 7,
        'class="default",tenant="aurora"}': 4,
        'class="fallback",tenant="aurora"}': 3,
        'class="none",tenant="aurora"}': 2,
        'class="4xx",tenant="aurora"}': 2,
        'class="429",tenant="aurora"}': 2,
        'class="5xx",tenant="aurora"}': 1,
        'class="ok",tenant="borealis"}': 0,
        'class="5xx",tenant=""}': 1,
        'class="4xx",tenant=""}': 1,
    }
    assert series['recsite_rate_limited_total{limit="tenant",tenant="aurora"}'] == 1
    assert series['recsite_rate_limited_total{limit="credential",tenant="aurora"}'] == 1
    outcomes = {
        outcome: series[f'recsite_request_duration_seconds_count{{outcome="{outcome}"}}'] for outcome in OUTCOMES
    }
    assert outcomes == {"cached": 14, "redis": 1, "batch": 1, "refused": 4}


def test_label_values__that_need_it_are_escaped() -> None:
    numbers = Numbers()
    numbers.observe(
        msgspec.structs.replace(FOUND, exposures=(Exposure("a", "b", 'say "hi"\n\\', "table"),)), 0.001, numbers.redis
    )
    text = "".join(shown(numbers.reading()))
    assert r"say \"hi\"\n\\" in text


def test_every_definition__is_well_named_and_shown() -> None:
    numbers = Numbers()
    numbers.observe(UNAUTHORIZED_FOR["expired"], 0.1, numbers.redis)
    numbers.observe(FOUND, 0.1, numbers.redis)
    numbers.refuse_snapshot("unreadable")
    reading = numbers.reading()
    values = reading.values | told_apart(reading)
    for definition in DEFINITIONS:
        assert definition.name.startswith("recsite_")
        assert (definition.kind == "counter") == definition.name.endswith("_total")
        assert definition.kind == "counter" or "tenant" not in definition.labels
        assert definition.kind != "counter" or definition.name in values
    assert values.keys() <= {definition.name for definition in DEFINITIONS}


def test_combined__counters_add_up_and_gauges_as_each_is_meant() -> None:
    one, two = Numbers(), Numbers()
    for numbers, age, tenants in ((one, 5.0, 3), (two, 9.0, 2)):
        numbers.observe(FOUND, 0.1, numbers.redis)
        numbers.redis_reads = 10
        numbers.gauges.update(recsite_snapshot_age_seconds=age, recsite_tenants=tenants, recsite_requests_in_flight=4)
    series = shown(combined([one.reading(), two.reading()]))
    assert series["recsite_redis_reads_total"] == 20
    assert series['recsite_requests_total{status="200"}'] == 2
    assert series['recsite_request_duration_seconds_count{outcome="redis"}'] == 2
    assert series["recsite_snapshot_age_seconds"] == 9
    assert series["recsite_tenants"] == 2
    assert series["recsite_requests_in_flight"] == 8


def test_workers__read_what_worker_processes_leave(tmp_path: Path) -> None:
    numbers = Numbers()
    file, workers = WorkerFile(tmp_path), Workers(tmp_path)
    assert shown(workers.reading()).get("recsite_workers") is None
    numbers.observe(FOUND, 0.1, numbers.redis)
    file.write(numbers.reading())
    numbers.observe(FOUND, 0.1, numbers.redis)
    file.write(numbers.reading())
    series = shown(workers.reading())
    assert series['recsite_requests_total{status="200"}'] == 2
    assert series["recsite_workers"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_workers__one_is_replaced__counters_do_not_fall_and_its_gauges_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = Numbers()
    numbers.observe(FOUND, 0.1, numbers.redis)
    numbers.gauges["recsite_requests_in_flight"] = 4
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", dead_process_id)
        WorkerFile(tmp_path).write(numbers.reading())
        WorkerFile(tmp_path).write(numbers.reading())
    WorkerFile(tmp_path).write(numbers.reading())
    workers = Workers(tmp_path)
    for _ in range(3):
        series = shown(workers.reading())
        assert series['recsite_requests_total{status="200"}'] == 3
        assert series['recsite_request_duration_seconds_count{outcome="redis"}'] == 3
        assert series["recsite_requests_in_flight"] == 4
        assert series["recsite_workers"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_workers__one_hangs__its_gauges_are_not_believed(tmp_path: Path) -> None:
    numbers = Numbers()
    numbers.observe(FOUND, 0.1, numbers.redis)
    numbers.gauges["recsite_requests_in_flight"] = 4
    WorkerFile(tmp_path).write(numbers.reading())
    (path,) = tmp_path.iterdir()
    long_ago = time.time() - metrics.STALE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    series = shown(Workers(tmp_path).reading())
    assert series['recsite_requests_total{status="200"}'] == 1
    assert "recsite_requests_in_flight" not in series
    assert "recsite_workers" not in series


def test_workers__a_damaged_file__costs_nothing_but_its_numbers(tmp_path: Path) -> None:
    WorkerFile(tmp_path).write(Numbers().reading())
    (tmp_path / f"{os.getpid()}.1.numbers").write_bytes(b"\xc1")
    assert shown(Workers(tmp_path).reading())["recsite_workers"] == 1


def test_worker_file__folder_is_gone__says_so_and_nobody_has_numbers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WorkerFile(tmp_path / "gone").write(Numbers().reading())
    assert Workers(tmp_path / "gone").reading() == combined([Reading()])


def test_documentation__is_what_the_definitions_say() -> None:
    text = (BASE_DIR / "docs" / "metrics.md").read_text()
    assert text == as_markdown(CONTROL_PLANE), (
        "run `RECSITE_ENV_FILE=tests/test.env .venv/bin/python manage.py metrics_docs`"
    )
