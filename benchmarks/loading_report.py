"""What `make bench-loading` tells: tables, the targets beside the figures, JSON, and docs/performance.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.loading_data import FIELDS, LISTS
from benchmarks.loading_peers import PEERS
from benchmarks.options import FEAST_PART, LOADING_PARTS
from benchmarks.reporting import fill, number, table, write_json
from benchmarks.site import ROOT
from benchmarks.targets import Target

DOCUMENT = ROOT / "docs" / "performance.md"
PEERS_PART, LARGE_PART, SERVING_PART = LOADING_PARTS
Figures = Mapping[str, Any]

# What a quiet system uses by itself.
ALONE = 0.1
_HEAD = ("", "rows/s", "seconds", "bytes/row", "peak MB", "drop s", "stall ms", "UNLINK ms")
_STAGES = ("extract", "check", "compare", "write", "verify")
_MOST_PEAK_BYTES = 1.5e9
_WANTED_RATES = {FIELDS.name: 800_000, LISTS.name: 250_000}
# Times the limit of one key per row: what is wanted of the table that this limit is measured with, if that is lower.
_TIMES_RAW = 1.5


@dataclass(frozen=True)
class Part:
    """What one part of a run found.

    Attributes:
        stamp: when and of which commit.
        machine: where.
        figures: as measured.
    """

    stamp: Mapping[str, str]
    machine: Mapping[str, str]
    figures: Figures


def report(found: Mapping[str, Part], path: Path, *, write_docs: bool) -> None:
    """Print all parts that there are, those of earlier runs too; write them as JSON, and into the document if asked to.

    Args:
        found: the parts of this run; they replace those of the same name.
        path: of the JSON, in which earlier runs' parts are.
        write_docs: whether the document gets them.
    """
    earlier = json.loads(path.read_text())["parts"] if path.exists() else {}
    parts = {name: Part(**part) for name, part in earlier.items()} | dict(found)
    reached = targets({name: part.figures for name, part in parts.items()})
    ordered = [name for name in (PEERS_PART, LARGE_PART, FEAST_PART, SERVING_PART) if name in parts]
    texts = [*(_text(name, parts[name]) for name in ordered), *([_targets(reached)] if reached else [])]
    print("\n" + "\n\n".join(texts), flush=True)
    content = {"parts": {name: asdict(part) for name, part in parts.items()}}
    write_json(path, {**content, "targets": [asdict(target) for target in reached]})
    print(f"\nAll figures: {path}", flush=True)
    if write_docs:
        fill(DOCUMENT, "loading figures", "\n\n".join(texts))
        print(f"They are in {DOCUMENT.relative_to(ROOT)} too.", flush=True)


# --- Targets ----------------------------------------------------------------------------------------------------------


def targets(parts: Mapping[str, Figures]) -> list[Target]:
    """Hold what was found against what is to be reached."""
    found = []
    raw = parts.get(PEERS_PART, {}).get("table", {}).get(PEERS["raw"])
    for name in (PEERS_PART, LARGE_PART):
        for kind in (FIELDS, LISTS):
            for which in ("first load", "loaded again"):
                row = parts.get(name, {}).get("table", {}).get(f"recsite, {kind.title}, {which}")
                if row is not None:
                    words = f"{kind.title}, {parts[name]['rows']:,} rows, {which}"
                    found.append(_rate(words, row["rate"], None if kind is LISTS else raw, _WANTED_RATES[kind.name]))
                    found += _of_load(words, row, has_offsets=kind is LISTS, is_large=name == LARGE_PART)
    serving = parts.get(SERVING_PART)
    if serving is not None:
        for lane, found_of_it in serving["lanes"].items():
            ratio = found_of_it["busy"]["p99_ms"] / found_of_it["idle"]["p99_ms"]
            words = f"{lane}: p99 of serving during a load, against idle"
            found.append(Target(words, "≤ 1.5 ×", f"{ratio:.2f} ×", ratio <= 1.5))
        words = f"{serving['right']:,} right, {serving['errors']:,} errors"
        found.append(Target("wrong or failed answers", "none", words, not serving["errors"]))
    return found


def _rate(words: str, rate: float, raw: Figures | None, wanted: float) -> Target:
    """Hold a rate against what is wanted of its layout, or against the limit of one key per row if that is lower."""
    why = ""
    if raw is not None:
        limit = _TIMES_RAW * raw["rate"]
        why = f", less than {_TIMES_RAW} × the raw client ({limit:,.0f})"
        if limit < wanted:
            wanted, why = limit, f", {_TIMES_RAW} × the raw client"
    return Target(f"{words}: rate", f"≥ {wanted:,.0f} rows/s{why}", f"{rate:,.0f} rows/s", rate >= wanted)


def _of_load(words: str, row: Figures, *, has_offsets: bool, is_large: bool) -> list[Target]:
    size, peak = row["bytes_per_row"], row["peak_bytes"]
    # Fingerprint and offset, 10 bytes, are what the format needs before a payload of varying width.
    most = 20 if has_offsets else 15
    words_of_size = f"{words}: memory of Redis"
    found = [Target(words_of_size, f"≤ {most} bytes/row", f"{size:.1f} bytes/row", size <= most)]
    if is_large:
        is_met = peak <= _MOST_PEAK_BYTES
        found.append(Target(f"{words}: worker's peak memory", "≤ 1,500 MB", f"{peak / 1e6:,.0f} MB", is_met))
    if is_large and "drop_seconds" in row:
        seconds, stall = row["drop_seconds"], row["stall_ms"]
        found.append(Target(f"{words}: dropped", "≤ 10 s", f"{seconds:.1f} s", seconds <= 10))
        found.append(Target(f"{words}: longest stall then", "≤ 5 ms", f"{stall:.1f} ms", stall <= 5))
    return found


# --- In words and tables ----------------------------------------------------------------------------------------------


def _text(name: str, part: Part) -> str:
    figures = part.figures
    of_machine = ", ".join(f"{what} {value}" for what, value in part.machine.items())
    title = {
        PEERS_PART: "Loader and peers in turns, medians of the rounds",
        LARGE_PART: "The loader alone; peers are measured with the smaller table only",
        FEAST_PART: "Loader and Feast in turns, medians of the rounds",
        SERVING_PART: "Serving while the table of 4 fields is loaded, medians of the rounds",
    }[name]
    head = (
        f"{title} ({figures['rows']:,} rows; rounds: {figures['rounds']}). Run of {part.stamp['at']}, "
        f"commit {part.stamp['commit']}. Machine: {of_machine}. {_others(figures['others_share'])}"
    )
    return f"{head}\n\n{_serving(figures) if name == SERVING_PART else _loads(figures['table'])}"


def _others(share: float) -> str:
    words = f"Other processes used {share:.0%} of a core meanwhile"
    return f"{words}: the figures are worse than they would be alone." if share > ALONE else f"{words}."


def _loads(rows: Mapping[str, Figures]) -> str:
    lines = [
        (
            name,
            number(row["rate"]),
            number(row["seconds"], ".2f"),
            number(row["bytes_per_row"], ".1f"),
            number(row["peak_bytes"] / 1e6),
            number(row.get("drop_seconds"), ".2f"),
            number(row.get("stall_ms"), ".2f"),
            number(row.get("longest_unlink_ms"), ".2f"),
        )
        for name, row in rows.items()
    ]
    stages = [
        (name, *(number(row["stages"].get(stage), ".2f") for stage in _STAGES))
        for name, row in rows.items()
        if "stages" in row
    ]
    return f"{table(_HEAD, lines)}\n\nSeconds of each stage:\n\n{table(('', *_STAGES), stages)}"


def _serving(figures: Figures) -> str:
    lines = [
        (f"{lane}, {words}", *(number(found[what][column], ".2f") for column in ("p50_ms", "p99_ms", "longest_ms")))
        for lane, found in figures["lanes"].items()
        for what, words in (("idle", "nothing else runs"), ("busy", "a load runs"))
    ]
    examples = f" For example: {'; '.join(figures['examples'])}" if figures["examples"] else ""
    return (
        f"{table(('', 'p50 ms', 'p99 ms', 'longest ms'), lines)}\n\n"
        f"A lane was asked {figures['requests_per_second']:,} times a second; "
        f"the load went on at {median(found['rate'] for found in figures['lanes'].values()):,.0f} rows/s meanwhile. "
        f"{figures['right']:,} answers were right, {figures['errors']:,} were not.{examples}"
    )


def _targets(reached: list[Target]) -> str:
    lines = [(target.words, target.wanted, target.found or "–", "yes" if target.is_met else "no") for target in reached]
    return "What loading is to reach:\n\n" + table(("", "wanted", "found", "reached"), lines)
