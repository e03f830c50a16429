"""A load's report as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BAR_WIDTH = 20
MAX_BINS = 12


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was checked, how values are spread, what differs from the served table, and where the time went."""
    yield "Checks"
    for check in report.get("checks", []):
        mark = "ok " if check["passed"] else "let" if check.get("is_waived") else "BAD"
        yield f"  {mark} {check['name']}: {check['words']}"
        for sample in [] if check["passed"] else check["samples"]:
            key = f", key {sample['key']}" if sample["key"] else ""
            yield f"        row {sample['row']:,}{key}: {sample['value']}"
    yield from _distributions(report)
    yield from _difference(report.get("difference"))
    notes = report.get("notes", [])
    yield from ["", "Notes", *(f"  {note}" for note in notes)] if notes else []
    yield ""
    yield "Where the time went"
    for stage in report.get("stages", []):
        yield f"  {stage['name']:<8} {stage['seconds']:>9,.2f} s {stage['rows_per_second']:>14,} rows/s"


def _distributions(report: Mapping[str, Any]) -> Iterator[str]:
    fields = report.get("fields", [])
    if not fields:
        return
    yield ""
    yield f"Distributions, in {report['distribution']['rows']:,} rows; before → now"
    for field in fields:
        psi = "" if field["psi"] is None else f", population stability index {field['psi']:.3f}"
        yield f"  {field['name']} ({field['kind']}{psi})"
        shown = field["bins"][:MAX_BINS]
        width = max((len(bin_["label"]) for bin_ in shown), default=0)
        for bin_ in shown:
            before = "" if bin_["share_before"] is None else f"{_percent(bin_['share_before'])} → "
            bar = "█" * round(BAR_WIDTH * bin_["share"])
            yield f"    {bin_['label']:<{width}}  {before}{_percent(bin_['share'])} {bar}".rstrip()
        if len(field["bins"]) > MAX_BINS:
            yield f"    and {len(field['bins']) - MAX_BINS} more"


def _difference(difference: Mapping[str, Any] | None) -> Iterator[str]:
    if difference is None:
        return
    about = ""
    if difference["is_estimate"]:
        about = f" (estimated from {_percent(difference['share_compared']).strip()} of the keys)"
    yield ""
    yield f"Difference from the served table{about}"
    for what in ("added", "removed", "changed", "unchanged"):
        keys = difference["samples"].get(what, [])
        example = f"   for example {', '.join(keys)}" if keys else ""
        yield f"  {what:<9} {difference[what]:>14,}{example}"


def _percent(share: float) -> str:
    return f"{share:6.1%}".replace("%", " %")
