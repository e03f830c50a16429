"""What must hold before a table may be served. Every check runs; each says how many rows fail it, with samples.

The rules are SQL over the staged rows. Where SQL's binary floats are no exact judge of a decimal they let doubtful
values pass: the packer decides about each of those exactly, and its refusal rejects a load as a failed check does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from models_registry.loading.columns import is_key, shortened, shown, type_name
from models_registry.loading.field_types import field_name, field_type, is_accepted, refusal_of
from models_registry.loading.report import Check, Sample
from models_registry.loading.served import Served
from models_registry.loading.staging import Staging, select
from serving.formats.keys import MAX_KEY_BYTES, SEPARATOR, block_bits_for
from serving.formats.layouts import Bool, Enum, Field, Layout, List, String, Uint
from tenants.figures import percent, share

MAX_SAMPLES = 5


@dataclass(frozen=True)
class Expected:
    """What a load's rows are held against: what model and version say, and the table that is served.

    `active_rows` is None for a version's first load; `served` is what most of the model's players get then, and None
    where nothing is served. `distribution` is how the values of that are spread, as its load's report keeps it.
    `waived` are the names of checks that may fail.
    """

    key_fields: tuple[str, ...]
    layout: Layout
    active_rows: int | None
    max_row_count_change: float
    max_psi: float
    min_coverage: float
    served: Served | None = None
    distribution: Sequence[Mapping[str, Any]] = ()
    waived: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is needed, key fields first, none twice."""
        return tuple(dict.fromkeys([*self.key_fields, *(field.name for field in self.layout.fields)]))

    @property
    def optional(self) -> set[str]:
        """The columns that a source may lack."""
        return {field.name for field in self.layout.fields if field.is_optional} - set(self.key_fields)

    @property
    def texts(self) -> set[str]:
        """The columns that are texts here; keys are, whatever the source has."""
        fields = self.layout.fields
        return {*self.key_fields, *(field.name for field in fields if isinstance(field.kind, String | Enum))}


# --- Columns ----------------------------------------------------------------------------------------------------------


def check_columns(schema: pa.Schema, expected: Expected, others: Collection[str] = ()) -> tuple[Check, tuple[str, ...]]:
    """Check a source's columns against key fields and layout; return that and the columns whose rows can be checked.

    An optional field's column may be missing: it is absent in every row then. `others` are names of columns that the
    source has besides: one may be what a missing one was meant to be.
    """
    fields = {field.name: field for field in expected.layout.fields}
    problems, usable = [], []
    for column in expected.columns:
        wants = [f"the layout needs {field_name(fields[column])}"] if column in fields else []
        if column in expected.key_fields:
            wants.insert(0, "a key needs text or whole numbers (STRING or INT64)")
        if column not in schema.names:
            if column in expected.key_fields or not fields[column].is_optional:
                there = "".join(f", but there is {shown(name)}" for name in _alike(column, others))
                problems.append(f"column {column} is missing{there}; {' and '.join(wants)}")
            continue
        kind = schema.field(column).type
        if (column in expected.key_fields and not is_key(kind)) or (
            column in fields and not is_accepted(fields[column], kind)
        ):
            cure = _cure(column, kind, fields.get(column), is_key_field=column in expected.key_fields)
            problems.append(f"column {column} is {type_name(kind)}, {' and '.join(wants)}{cure}")
            continue
        usable.append(column)
    words = "; ".join(problems) or "all columns are present and of the right types"
    return Check("columns", not problems, len(problems), words), tuple(usable)


def _alike(column: str, others: Collection[str]) -> list[str]:
    """Return the names that differ from a column's in case, Unicode form or blanks around them alone."""
    return [name for name in others if _folded(name) == _folded(column)]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _cure(column: str, kind: pa.DataType, field: Field | None, *, is_key_field: bool) -> str:
    """Return what to do about a column of another type, where that is plain: what people meet once."""
    wanted = field.kind if field is not None else None
    is_whole = is_key_field or isinstance(wanted, Uint)
    if is_whole and pa.types.is_floating(kind):
        return f'; write whole numbers: .astype("Int64") in pandas, CAST({column} AS INT64) in SQL'
    if is_key_field and (pa.types.is_boolean(kind) or pa.types.is_temporal(kind)):
        return f'; write texts: .astype("string") in pandas, CAST({column} AS STRING) in SQL'
    if isinstance(wanted, Bool) and pa.types.is_integer(kind):
        return f'; write yes or no: .astype("boolean") in pandas, CAST({column} AS BOOL) in SQL'
    if isinstance(wanted, String | Enum) and pa.types.is_integer(kind):
        return f'; write texts: .astype("string") in pandas, CAST({column} AS STRING) in SQL'
    return ""


# --- Rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """A condition in SQL that no row may meet, where its values stand, and how a row that meets it is described."""

    name: str
    condition: str
    column: str
    describe: Callable[[Any], str]
    source: str = "rows"


def check_rows(
    staging: Staging, schema: pa.Schema, expected: Expected, beat: Callable[[], None], *, block_bits: int | None = None
) -> list[Check]:
    """Run every check on rows that the staged columns allow. One pass over all rows, more for what fails.

    `block_bits` is of the table to be made, where these rows are only a part of it.
    """
    block_bits = block_bits_for(staging.rows) if block_bits is None else block_bits
    key_rules = _key_rules(staging, expected)
    rules = [*key_rules, *_field_rules(staging, schema, expected)]
    counts = _count(staging, rules, beat)
    judged = [_judge(staging, rule, count, beat) for rule, count in zip(rules, counts, strict=True)]
    any_rows = f"{staging.rows:,} rows" if staging.rows else "the source has no rows"
    return [
        Check("rows", staging.rows > 0, 0, any_rows),
        check_row_count(staging.rows, expected),
        *judged[: len(key_rules)],
        *([_check_duplicates(staging, block_bits, beat)] if staging.key_fields else []),
        *judged[len(key_rules) :],
    ]


def check_row_count(rows: int, expected: Expected) -> Check:
    """Compare how many rows there are with the served table."""
    if not expected.active_rows:
        return Check("row count", passed=True, words="no table is active yet", may_be_waived=True)
    change = (rows - expected.active_rows) / expected.active_rows
    much = f"{share(abs(change))} {'more' if change >= 0 else 'fewer'}"
    words = f"{rows:,} rows, {much} than the {expected.active_rows:,} now active"
    passed = abs(change) <= expected.max_row_count_change
    if not passed:
        limit = percent(round(10_000 * expected.max_row_count_change))
        words += f"; a change of more than {limit} is refused"
    is_waived = not passed and "row count" in expected.waived
    return Check("row count", passed, 0, words, may_be_waived=True, is_waived=is_waived)


def _key_rules(staging: Staging, expected: Expected) -> list[_Rule]:
    rules = []
    for field in expected.key_fields:
        if (name := staging.names.get(field)) is None:
            continue
        # Texts alone can fail the last two; on a number they hold, and cost nothing.
        has_control = f"regexp_matches({name}::VARCHAR, '[\\x00-\\x1f]')"
        rules += [
            _Rule(f"{field}: no nulls", f"{name} IS NULL", name, _constant("a key needs a value")),
            _Rule(f"{field}: not empty", f"{name}::VARCHAR = ''", name, _constant("a key needs a value")),
            _Rule(f"{field}: no control characters", has_control, name, _constant("it contains a control character")),
        ]
    if staging.key_fields:
        too_long = f"strlen({staging.key}) > {MAX_KEY_BYTES}"
        words = _constant(f"the key is longer than {MAX_KEY_BYTES} bytes")
        rules.append(_Rule("key: not too long", too_long, staging.key, words))
    return rules


def _field_rules(staging: Staging, schema: pa.Schema, expected: Expected) -> list[_Rule]:
    rules = []
    for field in expected.layout.fields:
        if (name := staging.names.get(field.name)) is None:
            continue
        reason = partial(_reason, field)
        kind = schema.field(field.name).type
        if not field.is_optional:
            rules.append(_Rule(f"{field.name}: no nulls", f"{name} IS NULL", name, reason))
        if pa.types.is_null(kind):
            continue
        conditions = field_type(field.kind).bad_values(name, kind)
        if isinstance(field.kind, List):
            rules.append(_Rule(f"{field.name}: items", " OR ".join(conditions), name, reason))
            rules.append(_items_rule(field, field.kind, name, kind.value_type, reason))
        elif conditions:
            rules.append(_Rule(f"{field.name}: values", " OR ".join(conditions), name, reason))
    return rules


def _items_rule(field: Field, of: List, name: str, item_type: pa.DataType, reason: Callable[[Any], str]) -> _Rule:
    bad_items = ["item IS NULL"]
    if not pa.types.is_null(item_type):
        bad_items += field_type(of.item).bad_values("item", item_type)
    items = f"({select(f'rowid, *, unnest({name}) AS item', 'rows')})"
    return _Rule(f"{field.name}: values", " OR ".join(bad_items), name, reason, items)


def _constant(words: str) -> Callable[[Any], str]:
    return lambda _: words


def _reason(field: Field, value: Any) -> str:
    words = refusal_of(field, value) or f"{shown(value)} does not fit"
    if field.is_optional and value != value:  # noqa: PLR0124 - NaN alone differs from itself
        words += "; write null where there is no value"
    return shortened(words)


def _count(staging: Staging, rules: Sequence[_Rule], beat: Callable[[], None]) -> list[int]:
    """Return how many rows (items) meet each rule: those on rows in one pass, those on items in one each."""
    plain = [rule for rule in rules if rule.source == "rows"]
    columns = ", ".join(f"count(*) FILTER (WHERE {rule.condition})" for rule in plain)
    counted = dict(zip(plain, staging.query(select(columns, "rows"), beat)[0], strict=True)) if plain else {}
    for rule in rules:
        if rule not in counted:
            count = f"count(*) FILTER (WHERE {rule.condition})"
            counted[rule] = staging.query(select(count, rule.source), beat)[0][0]
    return [counted[rule] for rule in rules]


def _judge(staging: Staging, rule: _Rule, count: int, beat: Callable[[], None]) -> Check:
    if not count:
        return Check(rule.name, passed=True, words=f"holds in all {staging.rows:,} rows")
    what = f"DISTINCT rowid, {staging.key if staging.key_fields else 'NULL'}, {rule.column}"
    where = f"{rule.source} WHERE {rule.condition} ORDER BY rowid LIMIT {MAX_SAMPLES}"
    found = staging.query(select(what, where), beat)
    samples = tuple(Sample(int(row) + 1, _shown_key(key), shown(value)) for row, key, value in found)
    column = rule.name.partition(":")[0]
    at = f"{'the key' if column == 'key' else f'column {column}'}, row {samples[0].row:,}"
    if samples[0].key:
        at += f" (key {samples[0].key})"
    more = f"; {count:,} like it" if count > 1 else ""
    words = f"{at}: {rule.describe(found[0][2])}{more}"
    return Check(rule.name, passed=False, count=count, words=words, samples=samples)


def _check_duplicates(staging: Staging, block_bits: int, beat: Callable[[], None]) -> Check:
    """Find keys that are there twice: rows of one key have one place, and next to no others do.

    Two different keys in one place are refused too: a 1-in-10¹³ accident, which a renamed key mends.
    """
    name = "key: no duplicates"
    shared = staging.buckets.shared_places(block_bits, MAX_SAMPLES, beat)
    if not shared.count:
        return Check(name, passed=True, words=f"all {staging.rows:,} keys differ")
    keys = staging.keys_of([row for _, *rows in shared.samples for row in rows], beat)
    samples, sentences = [], []
    for times, first, last in shared.samples:
        key, other = shown(keys[first]), shown(keys[last])
        if key == other:
            samples.append(Sample(first + 1, key, f"{times:,} rows: {first + 1:,} … {last + 1:,}"))
            sentences.append(f"key {key} is in row {first + 1:,} and again in row {last + 1:,}")
        else:
            samples.append(Sample(first + 1, key, f"and {other} in row {last + 1:,}"))
            sentences.append(f"keys {key} and {other} have the same fingerprint by chance; leave one of them out")
    words = sentences[0] + (f"; {shared.count:,} keys occur more than once" if shared.count > 1 else "")
    return Check(name, passed=False, count=shared.count, words=words, samples=tuple(samples))


def _shown_key(key: str | None) -> str:
    return shown(key.replace(SEPARATOR, " / ")) if key else ""
