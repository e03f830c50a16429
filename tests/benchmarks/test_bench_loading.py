"""The smallest benchmark of loading, whole: it ends, every table became active, it says what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loading_peers import PEERS
from benchmarks.loading_report import targets
from benchmarks.options import LOADING_PARTS, read_options

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_bench_loading__small_tables__ends_with_figures_and_leaves_no_data(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a benchmark needs two cores")
    command = [sys.executable, "-m", "benchmarks", "loading", "--folder", str(tmp_path), "--rows", "5000"]
    command += ["--large-rows", "6000", "--rounds", "1", "--seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What loading is to reach:" in done.stdout
    parts = json.loads((tmp_path / "loading.json").read_text())["parts"]
    assert set(parts["peers"]["figures"]["table"]) > set(PEERS.values())
    assert parts["large"]["figures"]["table"]["recsite, 4 fields, loaded again"]["drop_seconds"] > 0
    assert parts["serving"]["figures"]["right"] > 400
    assert parts["serving"]["figures"]["errors"] == 0
    assert not (tmp_path / "data").exists()


def test_options__quick__leaves_the_large_tables_out() -> None:
    options = read_options(["loading", "--quick"])
    assert (options.parts, options.rounds) == (("peers", "serving"), 1)


def test_options__none__are_three_rounds_of_everything() -> None:
    options = read_options(["loading"])
    assert (options.parts, options.rounds) == (LOADING_PARTS, 3)
    assert (options.rows, options.large_rows) == (2_000_000, 20_000_000)


def _row(**changes: float) -> dict[str, Any]:
    return {"rate": 700_000.0, "bytes_per_row": 15.0, "peak_bytes": 1.5e9} | changes


@pytest.mark.parametrize(
    ("raw_rate", "is_met", "wanted"),
    [
        (400_000.0, True, "≥ 600,000 rows/s, 1.5 × the raw client"),
        (500_000.0, False, "≥ 750,000 rows/s, 1.5 × the raw client"),
        (600_000.0, False, "≥ 800,000 rows/s, less than 1.5 × the raw client (900,000)"),
        (None, False, "≥ 800,000 rows/s"),
    ],
)
def test_targets__rate_of_four_fields__is_the_lower_of_two_and_says_which(
    raw_rate: float | None, is_met: bool, wanted: str
) -> None:
    table = {"recsite, 4 fields, first load": _row()}
    if raw_rate is not None:
        table[PEERS["raw"]] = _row(rate=raw_rate)
    rate, size = targets({"peers": {"rows": 10, "table": table}})
    assert (rate.is_met, rate.wanted) == (is_met, wanted)
    assert size.is_met


@pytest.mark.parametrize("which", ["first load", "loaded again"])
def test_targets__large_table__its_worker_has_a_limit_of_memory(which: str) -> None:
    row = _row(peak_bytes=1.6e9)
    found = targets({"large": {"rows": 10, "table": {f"recsite, 4 fields, {which}": row}}})
    assert [target.is_met for target in found] == [False, True, False]


def test_targets__list_layout__wants_a_rate_of_its_own_whatever_the_raw_client_reaches() -> None:
    table = {"recsite, demo's list layout, first load": _row(rate=240_000.0), PEERS["raw"]: _row(rate=10_000.0)}
    rate, _ = targets({"peers": {"rows": 10, "table": table}})
    assert (rate.is_met, rate.wanted) == (False, "≥ 250,000 rows/s")


def test_targets__large_table__has_memory_and_dropping_as_well() -> None:
    row = _row(peak_bytes=1.6e9, drop_seconds=10.0, stall_ms=5.1)
    found = targets({"large": {"rows": 10, "table": {"recsite, demo's list layout, loaded again": row}}})
    assert [target.is_met for target in found] == [True, True, False, True, False]


def test_targets__serving_during_a_load__is_held_against_idle() -> None:
    lanes = {
        "one": {"idle": {"p99_ms": 2.0}, "busy": {"p99_ms": 3.1}},
        "other": {"idle": {"p99_ms": 2.0}, "busy": {"p99_ms": 3.0}},
    }
    serving = {"lanes": lanes, "right": 10, "errors": 1}
    assert [target.is_met for target in targets({"serving": serving})] == [False, True, False]


def test_read_options__feast__only_where_it_is_asked_for() -> None:
    options = read_options(["loading", "--parts", "feast"])
    assert options.parts == ["feast"]
