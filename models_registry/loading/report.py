"""What a load's report says: the one place where `Load.report` and `LoadRange.report` are read and written.

The API answers a report as it is stored, so the names in these structs are part of its contract. Reports outlive
releases: whatever an older one lacks has a default here, and what is not known is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import msgspec

log = logging.getLogger(__name__)


class StageName(StrEnum):
    """The stages of a load, in their order; each is done at most once."""

    EXTRACT = "extract"
    CHECK = "check"
    COMPARE = "compare"
    WRITE = "write"
    VERIFY = "verify"


class Sample(msgspec.Struct, frozen=True):
    """A row that fails a check. `row` counts from 1 in the order of the source; `key` is its key's values."""

    row: int = 0
    key: str = ""
    value: str = ""


class Check(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        name: what the report calls it.
        passed: whether the load passes it.
        count: how many rows (columns, keys) fail it.
        words: the finding in a sentence, without a capital and a full stop.
        samples: rows that fail it.
        may_be_waived: it compares with the served table, so somebody may know better. A check that looks at single
            rows is never waived.
        is_waived: it failed, and somebody waived it for this load.
    """

    name: str = ""
    passed: bool = False
    count: int = 0
    words: str = ""
    samples: tuple[Sample, ...] = ()
    may_be_waived: bool = False
    is_waived: bool = False


class Stage(msgspec.Struct, frozen=True):
    """A stage that has ended, well or not. An old report may name one that is not in `StageName`."""

    name: str
    seconds: float = 0.0
    rows: int = 0
    rows_per_second: int = 0

    @classmethod
    def of(cls, name: StageName, seconds: float, rows: int) -> Self:
        """Return a stage with its rate."""
        return cls(name.value, round(seconds, 3), rows, round(rows / seconds) if seconds else 0)


class Bin(msgspec.Struct, frozen=True):
    """The share, 0 … 1, of a field's values that fall into one bin; before: in the table that was served."""

    label: str
    share: float
    share_before: float | None = None


class FieldSpread(msgspec.Struct, frozen=True):
    """How one aspect of a field is spread.

    Attributes:
        name: of the field.
        kind: of its values, or which of their properties is counted: “list length”.
        bins: in order, without those that are and were empty.
        psi: the population stability index; None where nothing was compared.
    """

    name: str
    kind: str
    bins: tuple[Bin, ...] = ()
    psi: float | None = None


class Distribution(msgspec.Struct, frozen=True):
    """The counts that the next load is compared with: of how many rows, and by field as `distributions` keeps them."""

    rows: int = 0
    fields: tuple[dict[str, Any], ...] = ()


class ReportedDifference(msgspec.Struct, frozen=True):
    """How the whole load differs from the served table, in keys.

    Attributes:
        against: the version whose table that is, where it is not the loaded one's own but what is served most.
        added: how many keys only the load has; removed: only the served table; changed and unchanged: both.
        samples: some keys that are added and changed.
        is_estimate: it was worked out from a part of the keys.
        share_compared: the share of the keys that were compared, 0 … 1.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    samples: dict[str, tuple[str, ...]] = {}
    is_estimate: bool = False
    share_compared: float = 1.0
    against: str = ""


class SourceFile(msgspec.Struct, frozen=True):
    """A file that was read, as it was then: its name in full, and when it was last written, if that makes sense."""

    name: str = ""
    size_bytes: int = 0
    modified_at: datetime | None = None
    rows: int = 0


class SourceFiles(msgspec.Struct, frozen=True):
    """The files that a load read.

    Attributes:
        count: how many; size_bytes and rows: of all of them.
        first: the first of them by name, at most 100.
    """

    count: int = 0
    size_bytes: int = 0
    rows: int = 0
    first: tuple[SourceFile, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """What is known about a load, or a range of one, so far.

    Attributes:
        checks: in the order in which they ran.
        notes: sentences about what is no reason to stop.
        stages: that have ended.
        fields: how their values are spread; shown to people.
        distribution: the same for the next load; None before it was measured.
        difference: None where nothing was compared row by row.
        seconds_rested: of a range; a load says so in its notes.
        files: None where the source is none of files.
    """

    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    fields: tuple[FieldSpread, ...] = ()
    distribution: Distribution | None = None
    difference: ReportedDifference | None = None
    seconds_rested: float | None = None
    files: SourceFiles | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Return a report as the database holds it; {} is that of a load that has not begun.

        One that cannot be read must hold up neither a page nor the next load: a note takes its place.
        """
        try:
            return msgspec.convert(stored, cls)
        except msgspec.ValidationError as error:
            log.warning("report.unreadable problem=%s", error)
            return cls(notes=("This report was written by another release and cannot be read.",))

    def as_json(self) -> dict[str, Any]:
        """Return what the database holds, and the API answers: without what is not known."""
        stored: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        if self.distribution is None and not self.fields:
            del stored["fields"]
        return {name: value for name, value in stored.items() if value is not None}

    # --- What the checks say --------------------------------------------------------------------------------------

    @property
    def failed(self) -> list[Check]:
        """The checks that failed, waived ones too."""
        return [check for check in self.checks if not check.passed]

    @property
    def passed(self) -> list[Check]:
        """The checks that passed."""
        return [check for check in self.checks if check.passed]

    @property
    def stopping(self) -> list[Check]:
        """The failed checks that stop the load, the most telling first.

        What is wrong with single rows comes before what differs from the served table: it is often why.
        """
        return sorted((check for check in self.failed if not check.is_waived), key=lambda check: check.may_be_waived)

    @property
    def problem(self) -> str:
        """A sentence for the first check that stops the load, and how many more there are; "" if none does."""
        stopping = self.stopping
        if not stopping:
            return ""
        words, more = stopping[0].words, len(stopping) - 1
        others = "" if not more else " One more check failed." if more == 1 else f" {more} more checks failed."
        return f"{words[0].upper()}{words[1:]}.{others}"

    @property
    def rows_are_good(self) -> bool:
        """Tell whether nothing is wrong with single rows, however much they differ from the served table."""
        return all(check.may_be_waived for check in self.failed)

    @property
    def may_be_waived(self) -> bool:
        """Tell whether the checks that a load failed can be waived, every one of them."""
        return bool(self.failed) and self.rows_are_good

    # --- What is added to it --------------------------------------------------------------------------------------

    def having(self, **values: Any) -> Self:
        """Return the report with other values."""
        return msgspec.structs.replace(self, **values)

    def plus(self, checks: Iterable[Check] = (), notes: Iterable[str] = (), stages: Iterable[Stage] = ()) -> Self:
        """Return the report with more of these."""
        return self.having(checks=(*self.checks, *checks), notes=(*self.notes, *notes), stages=(*self.stages, *stages))
