"""What `make bench-serving` tells: a table, the targets beside the figures, JSON, and docs/performance.md."""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.contenders import CONTENDERS, REDIS_BENCHMARK
from benchmarks.machine import describe
from benchmarks.measuring import CONNECTIONS, Checked, Measurement
from benchmarks.questions import Tokens
from benchmarks.reporting import fill, number, stamp, table, write_json
from benchmarks.site import ROOT, BenchSite
from benchmarks.targets import Case, Target, targets

# What a quiet system uses by itself, measurements to 10 ms included.
ALONE = 0.1
DOCUMENT = ROOT / "docs" / "performance.md"
_TITLES = {contender.name: contender.title for contender in CONTENDERS} | {REDIS_BENCHMARK: "redis-benchmark GET"}
_LIMITS = {contender.name for contender in CONTENDERS if not contender.reads} | {REDIS_BENCHMARK}
_HEAD = ("", "requests/s", "to Go", "p50 ms", "p99 ms", "CPU µs", "server", "generator", "Valkey", "errors")


@dataclass
class Findings:
    """Everything that a run found.

    Attributes:
        rounds: measurements by case.
        rows: their medians.
        checked: answers by contender.
        extras: what else was measured of the lane, by part.
        left_out: why, by contender.
        loads: what the loader said.
    """

    rounds: dict[Case, list[Measurement]] = field(default_factory=dict)
    rows: dict[Case, Measurement] = field(default_factory=dict)
    checked: dict[str, Checked] = field(default_factory=lambda: defaultdict(Checked))
    extras: dict[str, Mapping[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)


def report(findings: Findings, options: Namespace, site: BenchSite, *, cores_in_words: str) -> None:
    """Print the figures, write them to serving.json in the benchmark's folder, and into the document if asked to."""
    lane = findings.checked["lane"]
    reached = targets(findings.rows, findings.extras, (lane.right, lane.errors))
    stamped, machine = stamp(), describe()
    of_machine = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = {
        "run": f"Run of {stamped['at']}, commit {stamped['commit']}: {options.players:,} players in each of two "
        f"versions; rounds: {options.rounds}, seconds a measurement: {options.seconds:g}, connections: {CONNECTIONS}. "
        f"Machine: {of_machine}. Cores: {cores_in_words}. {_others(findings.rows)}",
        "contenders": _contenders(findings),
        "targets": _targets(reached),
        "lane": _lane(findings.extras),
        "answers": _answers(findings.checked),
    }
    print("\n" + "\n\n".join(part for part in parts.values() if part), flush=True)
    path = site.folder / "serving.json"
    write_json(path, {**stamped, "machine": machine, "cores": cores_in_words, **_figures(findings, options, reached)})
    print(f"\nAll figures: {path}", flush=True)
    if options.write_docs:
        fill(DOCUMENT, "serving figures", "\n\n".join(part for part in parts.values() if part))
        fill(DOCUMENT, "contenders", "\n".join(f"- **{c.title}**: {c.how}" for c in CONTENDERS))
        print(f"They are in {DOCUMENT.relative_to(ROOT)} too.", flush=True)


def _figures(findings: Findings, options: Namespace, reached: list[Target]) -> dict[str, Any]:
    return {
        "options": {**vars(options), "folder": str(options.folder)},
        "rows": [
            {"contender": name, "tokens": tokens, "block_cache": has_cache, **asdict(row)}
            | {"rates": [each.rate for each in findings.rounds[name, tokens, has_cache]]}
            for (name, tokens, has_cache), row in findings.rows.items()
        ],
        "lane": findings.extras,
        "targets": [asdict(target) for target in reached],
        "answers": {name: asdict(checked) for name, checked in findings.checked.items()},
        "left_out": findings.left_out,
        "loads": findings.loads,
    }


# --- In words and tables ----------------------------------------------------------------------------------------------


def _contenders(findings: Findings) -> str:
    """Return a table for each case, and how to read it."""
    rows = findings.rows
    if not rows:
        return ""
    sections = []
    for has_cache in (False, True):
        for tokens in Tokens:
            go = rows.get(("go", tokens, False))
            lines = [
                _line(case, rows[case], go, findings.checked)
                for case in rows
                if case[1:] == (tokens, has_cache) and case[0] not in _LIMITS
            ]
            if lines:
                title = f"{tokens[0].upper()}{tokens[1:]}; block cache {'on and warm' if has_cache else 'off'}"
                sections.append(f"{title}:\n\n{table(_HEAD, lines)}")
    limits = [_line(case, rows[case], None, findings.checked) for case in rows if case[0] in _LIMITS]
    if limits:
        sections.append(f"Limits:\n\n{table(_HEAD, limits)}")
    sections.append(
        "Medians of the rounds, in which all took turns. “p50” and “p99” are at half of a contender's own peak, "
        "counted from when a request was due. “CPU µs” is what all of a server's processes used for a request at the "
        "peak; “server”, “generator” and “Valkey” are shares of one core then. “errors” are over all its "
        "cases. A * marks a row where the generator and Valkey, not the server, had no time left."
    )
    sections.extend(f"Left out: {_TITLES[name]}, {why}." for name, why in findings.left_out.items())
    return "\n\n".join(sections)


def _line(case: Case, row: Measurement, go: Measurement | None, checked: Mapping[str, Checked]) -> tuple[str, ...]:
    return (
        f"{_TITLES[case[0]]}{' *' if row.is_limited_by_asking else ''}",
        number(row.rate),
        "–" if go is None else f"{row.rate / go.rate:.2f}",
        number(row.p50_ms, ".2f"),
        number(row.p99_ms, ".2f"),
        number(row.cpu_us, ".1f"),
        number(row.server_share, ".0%"),
        number(row.asking_share, ".0%"),
        number(row.valkey_share, ".0%"),
        number(checked[case[0]].errors) if case[0] in checked else "–",
    )


def _others(rows: Mapping[Case, Measurement]) -> str:
    """Say how much of the machine somebody else used meanwhile."""
    shares = [row.others_share for row in rows.values() if row.others_share is not None]
    if not shares:
        return ""
    words = f"Other processes used up to {max(shares):.0%} of a core while a contender was measured"
    return f"{words}: the figures are lower than they would be alone." if max(shares) > ALONE else f"{words}."


def _targets(reached: list[Target]) -> str:
    words = {True: "yes", False: "no", None: "not measured"}
    lines = [(target.words, target.wanted, target.found or "–", words[target.is_met]) for target in reached]
    return "What it is to reach:\n\n" + table(("", "wanted", "found", "reached"), lines)


def _lane(extras: Mapping[str, Mapping[str, float]]) -> str:
    """Return sentences on what was measured of the lane alone."""
    sentences = {
        "ed25519": "Ed25519 tokens: {rate:,.0f} requests/s with tokens used once, {rate_used_ten_times:,.0f} with each "
        "used ten times. On the same core PyJWT alone verifies {pyjwt_rate:,.0f} such tokens a second ({ratio:.2f} × "
        "and {ratio_used_ten_times:.2f} ×), and the bare signature {signature_rate:,.0f} times.",
        "workers": "Workers, with Valkey and the generator on the same cores as they: one on one core "
        "{rate_one:,.0f} requests/s at {cpu_us_one:.1f} CPU µs each, having {lane_cores_one:.2f} of that core; two on "
        "two {rate_two:,.0f} at {cpu_us_two:.1f}, having {lane_cores_two:.2f}. That is {ratio:.2f} × one.",
        "overload": "Overload: the peak is {peak:,.0f} requests/s on {connections:,.0f} connections "
        "({peak_of_few:,.0f} on {few:.0f}). Of {offered:,.0f}/s offered on as many {goodput:,.0f}/s were answered "
        "rightly within a second (p99 {p99_ms:.0f} ms), {refused:,.0f}/s refused with 503, {unsent:,.0f}/s found no "
        "connection free. The lane used {lane_share:.0%} of its core then, the generator and Valkey {other_share:.0%} "
        "of theirs.",
        "start": "Start with {studios:.0f} studios of {models:.0f} models: {seconds:.2f} s to the first readiness, "
        "{memory_mb:.0f} MB (proportional set size of all its processes).",
    }
    lines = [f"- {words.format(**extras[name])}" for name, words in sentences.items() if name in extras]
    return "The lane alone:\n\n" + "\n".join(lines) if lines else ""


def _answers(checked: Mapping[str, Checked]) -> str:
    lines = []
    for name, answers in checked.items():
        examples = f" For example: {'; '.join(answers.examples)}" if answers.examples else ""
        lines.append(
            f"- {_TITLES[name]}: {answers.right:,} right, {answers.wrong:,} wrong, {answers.refused:,} refused, "
            f"{answers.broken:,} never came.{examples}"
        )
    return "Answers, each compared with what the generator computes:\n\n" + "\n".join(lines) if lines else ""
