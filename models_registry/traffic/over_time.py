"""What charts of traffic show: answers by version over a period, the weights of that time, and what is not known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from django.db.models import Max, Q, Sum, Value
from django.utils import timezone

from models_registry.catalogue.selectors import ModelSummary, weights_by_code
from models_registry.models import (
    BASIS_POINTS,
    RecommendationModel,
    RolloutRevision,
    Traffic,
    TrafficGap,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
)
from models_registry.traffic.reading import Seen

# A column of which more than this part was lost is not drawn.
MOST_LOST = 0.1
# The column that runs is drawn once it has run for so long; before that a single answer would look like a flood.
LEAST_RUNNING = timedelta(seconds=15)
# Serving sends every few seconds and the collector looks every ten: who looks is that far behind at most.
USUAL_DELAY = timedelta(seconds=60)


@dataclass(frozen=True)
class Period:
    """A time until now that can be looked at, by its name in the address or in words for people.

    `span` is of the counts that are read, `column` how long a column of the chart is, a multiple of that. A page looks
    again every `refresh_seconds`.
    """

    name: str
    words: str
    length: timedelta
    span: TrafficSpan
    column: timedelta
    refresh_seconds: int


HOUR = Period("hour", "Last hour", timedelta(hours=1), TrafficSpan.MINUTE, timedelta(minutes=1), 10)
DAY = Period("day", "24 hours", timedelta(days=1), TrafficSpan.FIVE_MINUTES, timedelta(minutes=15), 15)
WEEK = Period("week", "7 days", timedelta(days=7), TrafficSpan.HOUR, timedelta(hours=1), 30)
MONTH = Period("month", "30 days", timedelta(days=30), TrafficSpan.SIX_HOURS, timedelta(hours=6), 30)
PERIODS = {period.name: period for period in (HOUR, DAY, WEEK, MONTH)}


@dataclass(frozen=True)
class Column:
    """What was answered in one span of time.

    Attributes:
        starts_at, ends_at: the span; the one that runs ends where the counts end.
        is_known: counts of it have been collected, and (nearly) none were lost.
        by_version: answers by the version's code.
        by_source: answers by where they came from.
    """

    starts_at: datetime
    ends_at: datetime
    is_known: bool
    by_version: Mapping[int, int] = field(default_factory=dict)
    by_source: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.ends_at - self.starts_at).total_seconds()

    @property
    def answers(self) -> int:
        """All of them."""
        return sum(self.by_version.values())


@dataclass(frozen=True)
class VersionTotal:
    """What one version answered in a period.

    Attributes:
        share: of the model's answers, 0 … 1; None where there were none.
        configured: the share that the weights of that time gave it, 0 … 1; None without answers, or if not read.
        weight_bp: its weight now.
        default_share, fallback_share, nothing_share: of its own answers, 0 … 1.
    """

    code: int
    name: str
    answers: int
    share: float | None
    configured: float | None
    weight_bp: int
    default_share: float
    fallback_share: float
    nothing_share: float

    @property
    def seen(self) -> Seen:
        """The same as pages say it of a version."""
        without_row = self.default_share + self.fallback_share + self.nothing_share
        return Seen(self.answers, self.share, without_row if self.answers else None)


@dataclass(frozen=True)
class ModelTraffic:
    """A model's answers over a period.

    Attributes:
        columns: all of them in order, also those of which nothing is known.
        revisions: the weights that held at its beginning, if any, and each that was saved in it, oldest first.
    """

    model: RecommendationModel
    columns: list[Column]
    totals: list[VersionTotal]
    revisions: list[RolloutRevision]

    @property
    def answers(self) -> int:
        """All of them."""
        return sum(total.answers for total in self.totals)

    @property
    def versions(self) -> list[VersionTotal]:
        """The versions worth a line: those that answered something or have a weight, by code."""
        return [total for total in self.totals if total.answers or total.weight_bp]

    @property
    def has_gaps(self) -> bool:
        """Tell whether something between its beginning and the last count is not known."""
        known = [column.is_known for column in self.columns]
        return True in known and not all(known[: len(known) - known[::-1].index(True)])


@dataclass(frozen=True)
class Reading:
    """What one look at the counts gave.

    Attributes:
        since, until: the period, in whole columns and until now.
        collected_until: what serving counted before that is in; None if nothing was ever collected.
        models: by the model's key.
    """

    period: Period
    since: datetime
    until: datetime
    collected_until: datetime | None
    models: dict[int, ModelTraffic]

    @property
    def is_behind(self) -> bool:
        """Tell whether the collector has not looked for longer than it should."""
        return self.collected_until is None or self.until - self.collected_until > USUAL_DELAY


def read(
    summaries: Sequence[ModelSummary],
    period: Period,
    *,
    with_sources: bool = True,
    with_weights: bool = False,
    now: datetime | None = None,
) -> Reading:
    """Return the traffic of some models of one studio over a period until now. Two queries, two more with weights.

    To tell where answers came from, twice as many rows are read.
    """
    now = now or timezone.now()
    starts = _starts(period, now)
    until_known, gaps = _collected(starts[0])
    revisions = _revisions(summaries, starts[0]) if with_weights else []
    lost = _lost(gaps, starts, period)
    versions = [state.version.pk for summary in summaries for state in summary.versions]
    counts = _counts(versions, period, starts[0], now, with_sources=with_sources)
    found: dict[int, ModelTraffic] = {}
    for summary in summaries:
        saved = [revision for revision in revisions if revision.model_id == summary.model.pk]
        cells = {state.code: counts.get(state.version.pk, {}) for state in summary.versions}
        columns = [_column(start, period, now, until_known, lost.get(start, 0.0), cells) for start in starts]
        totals = _totals(summary, cells, columns, saved)
        found[summary.model.pk] = ModelTraffic(summary.model, columns, totals, saved)
    return Reading(period, starts[0], now, until_known, found)


def _starts(period: Period, now: datetime) -> list[datetime]:
    """Return where columns start: whole ones from the period's beginning, and the one that runs."""
    step = int(period.column.total_seconds())
    first = -(-int((now - period.length).timestamp()) // step) * step
    return [datetime.fromtimestamp(at, UTC) for at in range(first, int(now.timestamp()) + 1, step)]


# Answers by the start of their column, then by source.
Cells = dict[datetime, Counter[str]]


def _counts(
    version_ids: Sequence[int], period: Period, since: datetime, now: datetime, *, with_sources: bool
) -> dict[int, Cells]:
    """Return the answers of each version by column. One query."""
    rows = Traffic.objects.unscoped().filter(
        version_id__in=version_ids, span=period.span, starts_at__gte=since, starts_at__lte=now
    )
    step = int(period.column.total_seconds())
    found: dict[int, Cells] = {}
    columns: dict[datetime, datetime] = {}
    if with_sources:
        read = rows.order_by().values_list("version_id", "starts_at", "source", "answers")
    else:
        grouped = rows.order_by().values("version_id", "starts_at").annotate(source=Value(""), total=Sum("answers"))
        read = grouped.values_list("version_id", "starts_at", "source", "total")
    for version_id, starts_at, source, answers in read:
        column = columns.get(starts_at)
        if column is None:
            at = int(starts_at.timestamp())
            column = columns[starts_at] = datetime.fromtimestamp(at - at % step, UTC)
        found.setdefault(version_id, {}).setdefault(column, Counter())[source] += answers
    return found


def _collected(since: datetime) -> tuple[datetime | None, list[tuple[datetime, datetime]]]:
    """Return up to when counts were collected, and the times after `since` of which some were lost. One query."""
    position = TrafficPosition.objects.annotate(is_gap=Value(0)).values_list("is_gap", "moved_at", "moved_at")
    lost = TrafficGap.objects.filter(ends_at__gt=since).annotate(is_gap=Value(1))
    rows = list(position.union(lost.order_by().values_list("is_gap", "starts_at", "ends_at"), all=True))
    until = next((at for is_gap, at, _ in rows if not is_gap), None)
    return until, [(starts_at, ends_at) for is_gap, starts_at, ends_at in rows if is_gap]


def _lost(
    gaps: Sequence[tuple[datetime, datetime]], starts: Sequence[datetime], period: Period
) -> dict[datetime, float]:
    """Return which part (0 … 1) of each column's counts was lost."""
    lost: dict[datetime, float] = defaultdict(float)
    for begins, ends in gaps:
        for start in starts:
            overlap = min(ends, start + period.column) - max(begins, start)
            if overlap > timedelta(0):
                lost[start] += overlap / period.column
    return dict(lost)


def _column(
    start: datetime,
    period: Period,
    now: datetime,
    until_known: datetime | None,
    lost: float,
    cells: Mapping[int, Cells],
) -> Column:
    end = min(start + period.column, now)
    if until_known is None or until_known <= start or lost > MOST_LOST:
        return Column(start, end, is_known=False)
    known_end = min(end, until_known)
    if known_end < start + period.column:
        # The one that runs, or at which the collector stopped: known as far as it goes, if that is enough to show.
        if known_end - start < LEAST_RUNNING:
            return Column(start, end, is_known=False)
        end = known_end
    by_source: Counter[str] = Counter()
    for own in cells.values():
        by_source.update(own.get(start, {}))
    by_version = {code: own[start].total() for code, own in cells.items() if start in own}
    return Column(start, end, is_known=True, by_version=by_version, by_source=dict(by_source))


def _revisions(summaries: Sequence[ModelSummary], since: datetime) -> list[RolloutRevision]:
    """Return each model's revisions that held at some time after an instant, oldest first. Two queries."""
    if not summaries:
        return []
    models = [summary.model for summary in summaries]
    rows = RolloutRevision.objects.for_tenant(models[0].tenant).filter(model__in=models)
    held = rows.filter(created_at__lte=since).order_by().values("model_id").annotate(number=Max("number"))
    wanted = Q(created_at__gt=since)
    for row in held:
        wanted |= Q(model_id=row["model_id"], number=row["number"])
    return list(
        rows.filter(wanted)
        .only("model_id", "number", "weights_bp", "created_at", "actor_name", "reason")
        .order_by("number")
    )


def _totals(
    summary: ModelSummary, cells: Mapping[int, Cells], columns: Sequence[Column], revisions: Sequence[RolloutRevision]
) -> list[VersionTotal]:
    sources = {code: sum(own.values(), Counter()) for code, own in cells.items()}
    everything = sum(counts.total() for counts in sources.values())
    expected: dict[int, float] = defaultdict(float)
    for column in columns:
        for code, share in configured(column, revisions).items():
            expected[code] += share * column.answers
    expected_total = sum(expected.values())

    def part(code: int, source: TrafficSource) -> float:
        return sources[code][source] / sources[code].total() if sources[code].total() else 0.0

    return [
        VersionTotal(
            code=state.code,
            name=state.name,
            answers=sources[state.code].total(),
            share=sources[state.code].total() / everything if everything else None,
            configured=expected.get(state.code, 0.0) / expected_total if expected_total else None,
            weight_bp=state.weight_bp,
            default_share=part(state.code, TrafficSource.DEFAULT),
            fallback_share=part(state.code, TrafficSource.FALLBACK),
            nothing_share=part(state.code, TrafficSource.NONE),
        )
        for state in summary.versions
    ]


def configured(column: Column, revisions: Sequence[RolloutRevision]) -> dict[int, float]:
    """Return the share (0 … 1) that the weights gave each version over a column, by its code; empty before any."""
    shares: dict[int, float] = defaultdict(float)
    covered = 0.0
    for revision, ended_at in with_ends(revisions, column.ends_at):
        held = min(ended_at, column.ends_at) - max(revision.created_at, column.starts_at)
        seconds = held.total_seconds()
        if seconds > 0:
            covered += seconds
            for code, bp in weights_by_code(revision.weights_bp).items():
                shares[code] += bp / BASIS_POINTS * seconds
    return {code: share / covered for code, share in shares.items()} if covered else {}


def with_ends(revisions: Sequence[RolloutRevision], until: datetime) -> list[tuple[RolloutRevision, datetime]]:
    """Return revisions, oldest first, with the instant at which the next one took over; of the newest, `until`."""
    return list(zip(revisions, [*(revision.created_at for revision in revisions[1:]), until], strict=False))
