"""The charts of a model's traffic, ready for a template: what is drawn, and the same in words and as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from models_registry.catalogue.selectors import weights_by_code
from models_registry.models import BASIS_POINTS, TrafficSource
from models_registry.traffic.over_time import Column, ModelTraffic, Reading, with_ends
from recsite.dashboard.charts import drawing
from recsite.dashboard.charts.drawing import Area, Band, Spot, Step, TimeLabel, ValueLine
from tenants.figures import number, share

WITHOUT_ROW = {
    TrafficSource.DEFAULT: "default",
    TrafficSource.FALLBACK: "fallback",
    TrafficSource.NONE: "nothing",
}
# How rates are said: in the first unit in which the highest is at least this.
RATE_UNITS = (("second", 1.0, 10), ("minute", 60.0, 1), ("hour", 3600.0, 0))


@dataclass(frozen=True)
class Mark:
    """An instant worth a line: new weights."""

    x: float
    words: str


@dataclass(frozen=True)
class Picture:
    """One chart.

    Attributes:
        key: unique on a page.
        title, words: what it is, and what it shows, for who can't see it.
        unit: of its values.
        areas: layers, those to be drawn first come first; their `key` is a version's code or a source.
        lines: paths of what was configured.
        unknown: stretches without data.
    """

    key: str
    title: str
    words: str
    unit: str
    areas: list[Area]
    values: list[ValueLine]
    times: list[TimeLabel]
    unknown: list[Band]
    spots: list[Spot] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TableRow:
    """A column of the charts as a line of a table: its time, and answers by version in the order of the head."""

    time: str
    is_known: bool
    answers: list[int]
    total: int
    default: int
    fallback: int


@dataclass(frozen=True)
class ModelCharts:
    """What is shown of one model's traffic. A small one has the answers alone."""

    traffic: ModelTraffic
    answers: Picture
    rate: str
    shares: Picture | None = None
    without_row: Picture | None = None


def model_charts(reading: Reading, traffic: ModelTraffic, zone: ZoneInfo, *, is_small: bool = False) -> ModelCharts:
    """Draw a model's traffic.

    Args:
        reading: what `traffic` is from.
        traffic: of the model.
        zone: of the clock on the charts.
        is_small: the answers alone, without what a small picture has no room for: what a column holds.
    """
    names = {total.code: total.name for total in traffic.versions}
    unit, seconds = _rate_unit(traffic.columns)
    shared = _Shared(reading, traffic, zone, names, is_small)
    answers, rate = _answers(shared, unit, seconds), _rate(traffic.columns, unit, seconds)
    if is_small:
        return ModelCharts(traffic, answers, rate)
    return ModelCharts(traffic, answers, rate, _shares(shared), _without_row(shared))


def table_rows(traffic: ModelTraffic, zone: ZoneInfo) -> list[TableRow]:
    """Return the columns as lines of a table, newest first."""
    codes = [total.code for total in traffic.versions]
    return [
        TableRow(
            span_words(column, zone),
            column.is_known,
            [column.by_version.get(code, 0) for code in codes],
            column.answers,
            column.by_source.get(TrafficSource.DEFAULT, 0),
            column.by_source.get(TrafficSource.FALLBACK, 0),
        )
        for column in reversed(traffic.columns)
    ]


def span_words(column: Column, zone: ZoneInfo) -> str:
    """Return a column's time on a clock: “23 Nov, 14:05 to 14:06”."""
    starts, ends = column.starts_at.astimezone(zone), column.ends_at.astimezone(zone)
    if ends - starts < timedelta(minutes=1):
        return f"{starts:%-d %b, %H:%M} to {ends:%H:%M:%S}"
    return f"{starts:%-d %b, %H:%M} to {ends:%H:%M}"


# --- The three charts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layers:
    """What is stacked: values by layer in the order of `keys`, up to `top`, in a unit and with a sign behind them."""

    steps: list[Step]
    keys: list[str]
    top: float
    unit: str
    sign: str = ""


@dataclass(frozen=True)
class _Shared:
    reading: Reading
    traffic: ModelTraffic
    zone: ZoneInfo
    names: Mapping[int, str]
    is_small: bool

    @property
    def columns(self) -> list[Column]:
        return self.traffic.columns

    @property
    def since(self) -> datetime:
        return self.reading.since

    @property
    def until(self) -> datetime:
        return self.reading.until

    def steps(self, values: Callable[[Column], Mapping[str, float]]) -> list[Step]:
        """Return the columns with what is stacked in each that is known."""
        return [
            Step(column.starts_at, column.ends_at, values(column) if column.is_known else None)
            for column in self.columns
        ]

    def picture(
        self,
        key: str,
        title: str,
        words: str,
        layers: _Layers,
        spot_words: Callable[[Column], str],
        *,
        lines: Sequence[str] = (),
        marks: Sequence[Mark] = (),
    ) -> Picture:
        return Picture(
            key=f"{key}-{self.traffic.model.slug}",
            title=f"{self.traffic.model.slug}: {title}, {self.reading.period.words.lower()}",
            words=words,
            unit=layers.unit,
            areas=drawing.areas(layers.steps, layers.keys, layers.top, self.since, self.until),
            values=drawing.value_lines(layers.top, layers.sign),
            times=drawing.time_labels(self.since, self.until, self.zone),
            unknown=drawing.bands(self._unknown(layers.steps), self.since, self.until),
            spots=[] if self.is_small else [self._spot(column, spot_words) for column in self.columns],
            marks=list(marks),
            lines=list(lines),
        )

    def _unknown(self, steps: Sequence[Step]) -> list[Step]:
        """Leave out the few seconds up to now that are always still on their way."""
        if self.reading.is_behind:
            last = steps[-1]
            return [*steps, Step(last.ends_at, self.until, None)]
        known = [n for n, column in enumerate(self.traffic.columns) if column.is_known]
        return list(steps[: known[-1] + 1]) if known else list(steps)

    def _spot(self, column: Column, spot_words: Callable[[Column], str]) -> Spot:
        words = spot_words(column) if column.is_known else "not known"
        left = drawing.across(column.starts_at, self.since, self.until)
        right = drawing.across(column.ends_at, self.since, self.until)
        return Spot(left, round(right - left, 3), f"{span_words(column, self.zone)}: {words}")

    def marks(self) -> list[Mark]:
        return [
            Mark(
                drawing.across(revision.created_at, self.since, self.until),
                f"{revision.created_at.astimezone(self.zone):%-d %b, %H:%M}: new weights by {revision.actor_name}"
                f" (revision {revision.number})" + (f": {revision.reason}" if revision.reason else ""),
            )
            for revision in self.traffic.revisions
            if revision.created_at > self.since
        ]


def _answers(shared: _Shared, unit: str, seconds: float) -> Picture:
    steps = shared.steps(
        lambda column: {str(code): seconds * answers / column.seconds for code, answers in column.by_version.items()}
    )
    top = drawing.round_top(_highest(steps))
    return shared.picture(
        "answers",
        f"answers per {unit} by version",
        _in_words(shared, top, unit),
        _Layers(steps, [str(code) for code in shared.names], top, f"answers per {unit}"),
        lambda column: _answers_words(column.answers) + _list(shared.names, column.by_version),
        marks=shared.marks(),
    )


def _shares(shared: _Shared) -> Picture:
    names = shared.names
    told = ", ".join(
        f"{total.name} {share(total.share)} (by the weights {share(total.configured or 0.0)})"
        for total in shared.traffic.versions
        if total.share is not None
    )
    return shared.picture(
        "shares",
        "share of each version",
        told or "No answers in this time.",
        _Layers(
            shared.steps(lambda column: _percent_by_layer(column, column.by_version)),
            [str(code) for code in names],
            100.0,
            "of all answers",
            " %",
        ),
        lambda column: _share_words(column, {names[code]: column.by_version.get(code, 0) for code in names}),
        lines=_configured_lines(shared),
    )


def _configured_lines(shared: _Shared) -> list[str]:
    """Return the borders between versions as the weights drew them: one path for each but the uppermost."""
    codes = list(shared.names)
    lines = []
    for count in range(1, len(codes)):
        points = []
        for revision, end in with_ends(shared.traffic.revisions, shared.until):
            weights = weights_by_code(revision.weights_bp)
            below = 100 * sum(weights.get(code, 0) for code in codes[:count]) / BASIS_POINTS
            if 0 < below < 100:
                points.append((max(revision.created_at, shared.since), end, below))
        lines.append(drawing.line(points, 100.0, shared.since, shared.until))
    return [line for line in lines if line]


def _without_row(shared: _Shared) -> Picture | None:
    """Draw which part was answered without a row; None where every answer had one."""
    answers = shared.traffic.answers
    steps = shared.steps(
        lambda column: _percent_by_layer(column, {source: column.by_source.get(source, 0) for source in WITHOUT_ROW})
    )
    highest = _highest(steps)
    if not highest:
        return None
    totals = {
        words: sum(column.by_source.get(source, 0) for column in shared.columns)
        for source, words in WITHOUT_ROW.items()
    }
    told = ", ".join(f"{words} {share(count / answers)}" for words, count in totals.items() if count and answers)
    return shared.picture(
        "without",
        "answers without a row of the table",
        f"Of all answers: {told or 'none'}.",
        _Layers(
            steps,
            [str(source) for source in WITHOUT_ROW],
            min(100.0, max(1.0, drawing.round_top(highest))),
            "of all answers",
            " %",
        ),
        lambda column: _share_words(
            column, {words: column.by_source.get(source, 0) for source, words in WITHOUT_ROW.items()}
        ),
    )


def _percent_by_layer(column: Column, counts: Mapping[Any, int]) -> dict[str, float]:
    return {str(key): 100 * count / column.answers for key, count in counts.items()} if column.answers else {}


def _highest(steps: Sequence[Step]) -> float:
    return max((sum(step.values.values()) for step in steps if step.values), default=0.0)


# --- Words ----------------------------------------------------------------------------------------------------------


def _rate_unit(columns: Sequence[Column]) -> tuple[str, float]:
    highest = max((column.answers / column.seconds for column in columns if column.is_known), default=0.0)
    return next((unit, seconds) for unit, seconds, least in RATE_UNITS if highest * seconds >= least)


def _rate(columns: Sequence[Column], unit: str, seconds: float) -> str:
    """Return how many answers there are lately: of the last known column, and the one before if that has just begun."""
    known = [column for column in columns if column.is_known][-2:]
    if not known:
        return ""
    over = sum(column.seconds for column in known)
    per_unit = seconds * sum(column.answers for column in known) / over
    words = number(per_unit) if per_unit >= 10 or not per_unit else f"{per_unit:.2g}"
    return f"{words} answers per {unit}"


def _in_words(shared: _Shared, top: float, unit: str) -> str:
    traffic = shared.traffic
    if not traffic.answers:
        return "No answers in this time."
    shares = ", ".join(f"{total.name} {share(total.share)}" for total in traffic.versions if total.share is not None)
    gaps = " There are gaps: part of this time is not known." if traffic.has_gaps else ""
    return f"{_answers_words(traffic.answers)}: {shares}. The axis ends at {drawing.compact(top)} per {unit}.{gaps}"


def _answers_words(count: int) -> str:
    return "1 answer" if count == 1 else f"{number(count)} answers"


def _share_words(column: Column, counts: Mapping[str, int]) -> str:
    if not column.answers:
        return "no answers"
    return ", ".join(f"{words} {share(count / column.answers)}" for words, count in counts.items())


def _list(names: Mapping[int, str], by_version: Mapping[int, int]) -> str:
    listed = ", ".join(f"{names.get(code, code)} {number(answers)}" for code, answers in sorted(by_version.items()))
    return f" ({listed})" if listed else ""
