"""A load's report as lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from models_registry.loading.report import Report, ReportedDifference, SourceFiles
from tenants.figures import share

BAR_WIDTH = 20
MAX_BINS = 12
MAX_FILES = 10


def report_lines(report: Report) -> Iterator[str]:
    """Yield what was checked, how values are spread, what differs from the served table, and where the time went."""
    yield "Checks"
    for check in report.checks:
        mark = "ok    " if check.passed else "waived" if check.is_waived else "FAILED"
        yield f"  {mark} {check.name}: {check.words}"
        for sample in () if check.passed else check.samples:
            key = f", key {sample.key}" if sample.key else ""
            yield f"           row {sample.row:,}{key}: {sample.value}"
    yield from _distributions(report)
    if report.difference is not None:
        yield from _difference(report.difference)
    if report.files is not None:
        yield from _files(report.files)
    yield from ["", "Notes", *(f"  {note}" for note in report.notes)] if report.notes else []
    yield ""
    yield "Where the time went"
    for stage in report.stages:
        yield f"  {stage.name:<8} {stage.seconds:>9,.2f} s {stage.rows_per_second:>14,} rows/s"


def _distributions(report: Report) -> Iterator[str]:
    if not report.fields or report.distribution is None:
        return
    yield ""
    yield f"Distributions, in {report.distribution.rows:,} rows; before → now"
    for field in report.fields:
        psi = "" if field.psi is None else f", population stability index {field.psi:.3f}"
        yield f"  {field.name} ({field.kind}{psi})"
        shown = field.bins[:MAX_BINS]
        width = max((len(bin_.label) for bin_ in shown), default=0)
        for bin_ in shown:
            before = "" if bin_.share_before is None else f"{share(bin_.share_before):>7} → "
            bar = "█" * round(BAR_WIDTH * bin_.share)
            yield f"    {bin_.label:<{width}}  {before}{share(bin_.share):>7} {bar}".rstrip()
        if len(field.bins) > MAX_BINS:
            yield f"    and {len(field.bins) - MAX_BINS} more"


def _difference(difference: ReportedDifference) -> Iterator[str]:
    about = ""
    if difference.is_estimate:
        about = f" (estimated from {share(difference.share_compared)} of the keys)"
    yield ""
    of_whom = f"the table of “{difference.against}” (the most served version)" if difference.against else ""
    yield f"Difference from {of_whom or 'the served table'}{about}"
    for what in ("added", "removed", "changed", "unchanged"):
        keys = difference.samples.get(what, ())
        example = f"   for example {', '.join(keys)}" if keys else ""
        yield f"  {what:<9} {getattr(difference, what):>14,}{example}"


def _files(files: SourceFiles) -> Iterator[str]:
    yield ""
    yield f"Files: {files.count:,}, {files.size_bytes:,} bytes, {files.rows:,} rows"
    for file in files.first[:MAX_FILES]:
        written = "" if file.modified_at is None else f", written {file.modified_at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"  {file.name}: {file.size_bytes:,} bytes, {file.rows:,} rows{written}"
    if files.count > MAX_FILES:
        yield f"  and {files.count - MAX_FILES:,} more"
