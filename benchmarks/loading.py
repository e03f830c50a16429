"""`make bench-loading`: Parquet to served by the real loader, against one key per row; serving meanwhile; dropping."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

import redis
from django.core.management import call_command

from benchmarks.contenders import NotReady
from benchmarks.load import ask_closed, ask_open
from benchmarks.loading_data import (
    FIELDS,
    KINDS,
    Kind,
    ended,
    make_models,
    make_version,
    parquet_of,
    queue_load,
    with_timestamps,
)
from benchmarks.loading_peers import PEERS, prepare
from benchmarks.loading_report import PEERS_PART, SERVING_PART, Part, report
from benchmarks.machine import Cores, Usage, describe, pinned
from benchmarks.measuring import CONNECTIONS, Checked
from benchmarks.options import FEAST_PART
from benchmarks.questions import Questions, Tokens
from benchmarks.reporting import number, stamp
from benchmarks.servers import running_lane
from benchmarks.site import ROOT, BenchSite
from benchmarks.world import WorldProblem, make_world
from models_registry.models import RecommendationModel, Version
from serving.management.commands.lane import BLOCK_CACHE_MB

# A quarter or less of what one lane can do: loads are felt as latency, not as a lower peak.
REQUESTS_PER_SECOND = 2_000
PLAYERS_SERVED = 100_000
# In production a table is dropped a minute after another took its place; the disk has what that wrote by then.
SETTLE_SECONDS = 3.0
# Feast takes a minute or more for a million.
ROWS_FOR_FEAST = 200_000
FEAST_PYTHON = ROOT / ".venv-feast" / "bin" / "python"
FEAST = "Feast, materialized into Redis"
# By the memory for blocks, in MB.
LANES = {"lane without a block cache": 0, "lane as it is by default": BLOCK_CACHE_MB}
Figures = dict[str, Any]


class StepFailed(RuntimeError):
    """A process of the benchmark ended badly; the message holds what it said."""


def run(options: Namespace, site: BenchSite, cores: Cores) -> int:
    """Run the benchmark; give the exit code: 1 where something did not work, whatever the figures are."""
    try:
        _Run(options, site, cores).go()
    except (NotReady, WorldProblem, StepFailed) as error:
        print(f"\n{error}\n(Logs: {site.logs})", flush=True)
        return 1
    finally:
        shutil.rmtree(site.data, ignore_errors=True)
    return 0


class _Run:
    def __init__(self, options: Namespace, site: BenchSite, cores: Cores) -> None:
        self.options = options
        self.site = site
        self.cores = cores
        self.client = redis.Redis(port=site.valkey.port)
        self.models: dict[str, RecommendationModel] = {}

    def go(self) -> None:
        """Prepare, measure, report."""
        _say(f"On this machine: {', '.join(f'{name} {value}' for name, value in describe().items())}.")
        call_command("migrate", verbosity=0, interactive=False)
        self.models = make_models(self.site.data)
        parts: dict[str, Callable[[], Figures]] = {
            PEERS_PART: self._compare,
            "large": self._large,
            FEAST_PART: self._compare_with_feast,
            SERVING_PART: self._serve,
        }
        found = {}
        for name in self.options.parts:
            before, children_before = self._usage()
            figures = parts[name]()
            now, children_now = self._usage()
            used = now.since(before)
            others = used.machine - used.asking - used.valkey - (children_now - children_before)
            figures["others_share"] = max(0.0, others) / used.at
            found[name] = Part(stamp=stamp(), machine=describe(), figures=figures)
        report(found, self.site.folder / "loading.json", write_docs=self.options.write_docs)

    def _usage(self) -> tuple[Usage, float]:
        """Return what was used so far, and what those processes used that this one started and that ended."""
        times = os.times()
        return Usage.now([], self.site.valkey_processes), times.children_user + times.children_system

    # --- The table ----------------------------------------------------------------------------------------------------

    def _compare(self) -> Figures:
        """Measure loader and peers in turns."""
        rows = self.options.rows
        _say(f"Making two tables of {rows:,} rows …")
        paths = {kind.name: parquet_of(self.site.data, kind, rows) for kind in KINDS}
        commands = self.site.data / "commands.resp"
        prepare(paths[FIELDS.name], commands)
        rounds: dict[str, list[Figures]] = {}
        for turn in range(self.options.rounds):
            for kind in KINDS:
                for name, figures in self._load_twice(kind, paths[kind.name], rows).items():
                    rounds.setdefault(name, []).append(figures)
                    _say(f"  round {turn + 1}: {name}: {figures['rate']:,.0f} rows/s")
            for name in PEERS:
                source = commands if name == "raw" else paths[FIELDS.name]
                figures = self._peer(name, source, rows)
                rounds.setdefault(PEERS[name], []).append(figures)
                _say(f"  round {turn + 1}: {PEERS[name]}: {figures['rate']:,.0f} rows/s")
        commands.unlink()
        return {
            "rows": rows,
            "rounds": self.options.rounds,
            "table": {name: _medians(figures) for name, figures in rounds.items()},
            "rates": {name: [each["rate"] for each in figures] for name, figures in rounds.items()},
        }

    def _large(self) -> Figures:
        """Measure the loader alone, once, with the large tables."""
        rows = self.options.large_rows
        table: Figures = {}
        for kind in KINDS:
            _say(f"Making a table of {rows:,} rows …")
            path = parquet_of(self.site.data, kind, rows)
            for name, figures in self._load_twice(kind, path, rows).items():
                table[name] = figures
                peak, drop, stall = figures["peak_bytes"], figures.get("drop_seconds"), figures.get("stall_ms")
                _say(
                    f"  {name}: {figures['rate']:,.0f} rows/s, {figures['bytes_per_row']:.1f} bytes/row, peak "
                    f"{peak / 1e6:,.0f} MB; dropped in {number(drop, '.1f')} s, stall {number(stall, '.1f')} ms"
                )
            path.unlink()
        return {"rows": rows, "rounds": 1, "table": table}

    def _load_twice(self, kind: Kind, path: Path, rows: int) -> dict[str, Figures]:
        """Load a table that is the version's first, and once more, when there is one to compare it with."""
        self._empty()
        version = make_version(self.models[kind.name], path)
        first = self._load(version, rows)
        again = self._load(version, rows)
        return {f"recsite, {kind.title}, first load": first, f"recsite, {kind.title}, loaded again": again}

    def _load(self, version: Version, rows: int) -> Figures:
        before = self._used_memory()
        load_id = queue_load(version)
        with _process("benchmarks.loading_worker") as worker:
            said = worker.go(f"load {load_id}")
        load, table = ended(load_id)
        if load.rows_written != rows or load.finished_at is None or load.started_at is None:
            raise WorldProblem(f"A load of {rows:,} rows wrote {load.rows_written:,}")
        seconds = (load.finished_at - load.started_at).total_seconds()
        figures = {
            "rate": rows / seconds,
            "seconds": seconds,
            "bytes_per_row": (self._used_memory() - before) / rows,
            "peak_bytes": said["peak_bytes"],
            "stages": {stage["name"]: stage["seconds"] for stage in load.report["stages"]},
        }
        earlier = version.tables.exclude(pk=table.pk).order_by("-pk").first()
        return figures | (self._drop(earlier.table_id, earlier.block_bits) if earlier is not None else {})

    def _drop(self, table_id: str, block_bits: int) -> Figures:
        """Drop a table while somebody looks how long Valkey takes to answer; and what Valkey itself says."""
        time.sleep(SETTLE_SECONDS)
        self.client.config_set("slowlog-log-slower-than", 100)
        self.client.slowlog_reset()
        port = str(self.site.valkey.port)
        with _process("benchmarks.loading_worker") as worker, _process("benchmarks.stalls", port) as looking:
            said = worker.go(f"drop {table_id} {block_bits}")
            stalls = looking.go("")
        slow = [entry["duration"] for entry in self.client.slowlog_get(128) if b"UNLINK" in entry["command"]]
        return {
            "drop_seconds": said["seconds"],
            "stall_ms": stalls["longest_ms"],
            "stalls_over_5_ms": stalls["over_5_ms"],
            "looks": stalls["looks"],
            "longest_unlink_ms": max(slow, default=100) / 1e3,
        }

    def _peer(self, name: str, source: Path, rows: int) -> Figures:
        self._empty()
        with _process("benchmarks.loading_peers", name, str(source), str(self.site.valkey.port)) as peer:
            return self._of_peer(peer, PEERS[name], rows)

    def _compare_with_feast(self) -> Figures:
        """Measure loader and Feast in turns, with a table that is small enough for the latter."""
        if not FEAST_PYTHON.exists():
            raise NotReady("Feast is not installed; `make bench-feast` does that first")
        rows = min(self.options.rows, ROWS_FOR_FEAST)
        path = parquet_of(self.site.data, FIELDS, rows)
        stamped = with_timestamps(path, path.with_suffix(".stamped.parquet"))
        ours = f"recsite, {FIELDS.title}, first load"
        rounds: dict[str, list[Figures]] = {ours: [], FEAST: []}
        for turn in range(self.options.rounds):
            self._empty()
            rounds[ours].append(self._load(make_version(self.models[FIELDS.name], path), rows))
            rounds[FEAST].append(self._feast(stamped, rows))
            for name, figures in rounds.items():
                _say(f"  round {turn + 1}: {name}: {figures[-1]['rate']:,.0f} rows/s")
        table = {name: _medians(figures) for name, figures in rounds.items()}
        return {"rows": rows, "rounds": self.options.rounds, "table": table}

    def _feast(self, source: Path, rows: int) -> Figures:
        self._empty()
        folder = self.site.data / "feast"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        module = "benchmarks.peers.feast.materialize"
        arguments = (str(source), str(self.site.valkey.port), str(folder))
        with _process(module, *arguments, python=FEAST_PYTHON) as feast:
            return self._of_peer(feast, FEAST, rows)

    def _of_peer(self, peer: _Process, title: str, rows: int) -> Figures:
        before = self._used_memory()
        said = peer.go("")
        if self.client.dbsize() != rows:
            raise StepFailed(f"{title} wrote {self.client.dbsize():,} keys instead of {rows:,}")
        figures = {
            "rate": rows / said["seconds"],
            "seconds": said["seconds"],
            "bytes_per_row": (self._used_memory() - before) / rows,
            "peak_bytes": said["peak_bytes"],
        }
        self._empty()
        return figures

    def _empty(self) -> None:
        """Remove all keys; wait until their memory is free, which Valkey does in the background."""
        self.client.flushall()
        while int(self.client.info("memory")["lazyfree_pending_objects"]):
            time.sleep(0.05)

    def _used_memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    # --- Serving meanwhile --------------------------------------------------------------------------------------------

    def _serve(self) -> Figures:
        """Ask lanes at a fixed rate, in turns with nothing else to do and while a table is loaded."""
        self._empty()
        rows = self.options.rows
        path = parquet_of(self.site.data, FIELDS, rows)
        _say("Serving while a table is loaded …")
        world = make_world(self.site, min(PLAYERS_SERVED, rows))
        questions = Questions(world)
        checked = Checked()
        turns: list[Figures] = []
        version = make_version(self.models[FIELDS.name], path)
        with ExitStack() as stack:
            ports = {
                name: stack.enter_context(
                    running_lane(self.site, (self.cores.server,), questions.one(), block_cache_mb=megabytes)
                ).port
                for name, megabytes in LANES.items()
            }
            for port in ports.values():
                # A table that has been served for a while is what matters, not the first seconds of one.
                with pinned(self.cores.rest):
                    outcome = ask_closed(port, questions.for_each_block(), connections=CONNECTIONS, seconds=60.0)
                checked.add(outcome)
            for turn in range(self.options.rounds):
                figures: Figures = {}
                for name, port in ports.items():
                    idle = self._ask(questions, port, checked, lambda: True, self.options.seconds)
                    busy, rate = self._ask_during_load(questions, port, checked, version)
                    figures[name] = {"idle": idle, "busy": busy, "rate": rate}
                    _say(
                        f"  round {turn + 1}, {name}: p99 {idle['p99_ms']:.2f} ms idle, {busy['p99_ms']:.2f} ms while "
                        f"{rate:,.0f} rows/s were loaded"
                    )
                turns.append(figures)
        return {
            "rows": rows,
            "rounds": self.options.rounds,
            "requests_per_second": REQUESTS_PER_SECOND,
            "lanes": _medians(turns),
            "right": checked.right,
            "errors": checked.errors,
            "examples": list(checked.examples),
        }

    def _ask_during_load(
        self, questions: Questions, port: int, checked: Checked, version: Version
    ) -> tuple[Figures, float]:
        """Ask for as long as a load takes; give its rows a second too."""
        load_id = queue_load(version)
        with _process("benchmarks.loading_worker") as worker:
            worker.begin(f"load {load_id}")
            busy = self._ask(questions, port, checked, worker.is_at_work, 120.0)
            worker.end()
        load, _ = ended(load_id)
        assert load.finished_at is not None
        assert load.started_at is not None
        return busy, self.options.rows / (load.finished_at - load.started_at).total_seconds()

    def _ask(
        self, questions: Questions, port: int, checked: Checked, goes_on: Callable[[], bool], seconds: float
    ) -> Figures:
        """Ask at the fixed rate for so long, or until it goes on no more."""
        exchanges = takewhile(lambda _: goes_on(), questions.exchanges(port, Tokens.SHARED))
        with pinned(self.cores.rest):
            outcome = ask_open(port, exchanges, rate=REQUESTS_PER_SECOND, connections=CONNECTIONS, seconds=seconds)
        checked.add(outcome)
        p50, p99 = outcome.percentile_ms(0.5), outcome.percentile_ms(0.99)
        if p50 is None or p99 is None:
            raise StepFailed(f"The lane answered nothing rightly: {'; '.join(outcome.examples)}")
        return {"p50_ms": p50, "p99_ms": p99, "longest_ms": outcome.latencies_ns[-1] / 1e6, "seconds": outcome.seconds}


class _Process:
    """A process of the benchmark that waits for a line and says what it found."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, line: str) -> None:
        """Have it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.close()

    def is_at_work(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> Figures:
        """Wait for its end; give what it found.

        Raises:
            StepFailed: it ended badly.
        """
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        if self._process.wait() != 0:
            raise StepFailed(f"{self._process.args!r} ended with {self._process.returncode}: {said}")
        found: Figures = json.loads(said)
        return found

    def go(self, line: str) -> Figures:
        """Have it begin, and wait for its end."""
        self.begin(line)
        return self.end()


@contextmanager
def _process(module: str, *arguments: str, python: Path | None = None) -> Iterator[_Process]:
    """Start a process of the benchmark, by another Python if need be, and wait until it is ready."""
    command = [str(python or sys.executable), "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if said != "ready\n":
            raise StepFailed(f"{module} did not start: {said}")
        yield _Process(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _medians(rounds: list[Figures]) -> Figures:
    """Return the median of each figure, also of those below."""
    return {
        name: _medians([each[name] for each in rounds if name in each])
        if isinstance(value, dict)
        else median(each[name] for each in rounds if name in each)
        for name, value in rounds[0].items()
    }


def _say(text: str) -> None:
    print(text, flush=True)
