"""What every field type must say. A new one fails here until it has said all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from inspect import getattr_static
from pathlib import Path
from typing import Any, get_args

import duckdb
import msgspec
import pyarrow as pa
import pytest
from hypothesis import find

from models_registry import models
from models_registry.loading.distributions import measure
from models_registry.loading.field_types import (
    SCALAR_TYPES,
    TYPES,
    TYPES_BY_NAME,
    FieldType,
    field_name,
    field_type,
    is_accepted,
    shown_value,
    typed_value,
)
from models_registry.loading.packing import RefusedValue, pack_columns
from recsite.api.operations.catalogue import LayoutField, LayoutItem
from recsite.dashboard.forms.layouts import LayoutEditor, LayoutFieldForm
from serving.formats.json_records import JsonRecords
from serving.formats.layouts import BadLayout, BadValue, FieldKind, Kind, Layout, Scalar, ScalarKind
from tests.unit import format_strategies

ROOT = Path(__file__).parents[2]
CLASSES: dict[str, type[FieldKind]] = {one.__struct_config__.tag: one for one in get_args(Kind)}


@dataclass(frozen=True)
class Example:
    """A type with parameters; parameters it refuses; values as JSON shows them and as a column; values it refuses."""

    parameters: dict[str, Any]
    bad_parameters: dict[str, Any]
    values: list[Any]
    column: pa.Array
    bad_column: pa.Array


EXAMPLES = {
    "bool": Example({}, {"min": 0}, [True, False], pa.array([True, False]), pa.array([1, 0])),
    "uint": Example({"min": 2, "max": 9}, {"min": 9, "max": 2}, [2, 9], pa.array([2, 9]), pa.array([1, 10])),
    "decimal": Example(
        {"min": 0, "max": 1, "step": 0.05},
        {"min": 0, "max": 1, "step": 0.3},
        [0, 0.35, 1],
        pa.array([0.0, 0.35, 1.0]),
        pa.array([-0.05, 0.33, 1.05]),
    ),
    "enum": Example(
        {"values": ["a", "b's"]}, {"values": []}, ["b's", "a"], pa.array(["b's", "a"]), pa.array(["A", ""])
    ),
    "string": Example(
        {"max_bytes": 3}, {"max_bytes": -1}, ["", "abc", "é"], pa.array(["", "abc", "é"]), pa.array(["abcd", "éé"])
    ),
    "list": Example(
        {"item": {"type": "uint", "min": 0, "max": 5}, "max_items": 2},
        {"item": {"type": "list"}, "max_items": 2},
        [[], [1, 5]],
        pa.array([[], [1, 5]]),
        pa.array([[1, 1, 1], [2, 2, 2]]),
    ),
}

every_type = pytest.mark.parametrize("name", sorted(CLASSES))
every_scalar = pytest.mark.parametrize("name", sorted(n for n, one in CLASSES.items() if issubclass(one, Scalar)))


def layout_of(name: str, **more: Any) -> Layout:
    return Layout.parse([{"name": "f", "type": name, **EXAMPLES[name].parameters, **more}])


def in_a_list(name: str) -> Layout:
    return Layout.parse(
        [{"name": "f", "type": "list", "max_items": 9, "item": {"type": name, **EXAMPLES[name].parameters}}]
    )


def kind_of(name: str) -> Kind:
    return layout_of(name).fields[0].kind


def test_types__the_control_plane_and_serving__know_the_same() -> None:
    assert set(TYPES_BY_NAME) == set(CLASSES) == set(EXAMPLES)
    assert len({one.title for one in TYPES}) == len(TYPES)
    assert {CLASSES[one.name] for one in SCALAR_TYPES} == set(get_args(ScalarKind))


@every_type
def test_type__its_class_in_serving__says_all_itself(name: str) -> None:
    of = CLASSES[name]
    inherited = {base for base in of.__mro__ if base in (FieldKind, Scalar)}
    wanted = {"check", "max_bits", "is_fixed_width", "write", "read"}
    if issubclass(of, Scalar):
        wanted = {"check", "bits", "to_code", "from_code"}
    silent = {member for member in wanted if any(getattr_static(of, member) is vars(b).get(member) for b in inherited)}
    assert silent == set()


@every_type
def test_type__its_class_in_the_control_plane__names_every_parameter(name: str) -> None:
    of = field_type(kind_of(name))
    assert type(of) is TYPES_BY_NAME[name]
    assert {one.name for one in of.parameters} == {one.name for one in msgspec.structs.fields(CLASSES[name])}
    for parameter in of.parameters:
        assert parameter.missing.endswith(".")
        assert parameter.label
        assert parameter.meaning


def test_parameters__of_one_name__are_of_one_input() -> None:
    inputs = {(parameter.name, parameter.input) for one in TYPES for parameter in one.parameters}
    assert len({name for name, _ in inputs}) == len(inputs)


@every_type
def test_type__bad_parameters__are_refused(name: str) -> None:
    with pytest.raises(BadLayout, match="field “f”"):
        Layout.parse([{"name": "f", "type": name, **EXAMPLES[name].parameters, **EXAMPLES[name].bad_parameters}])


@every_type
@pytest.mark.parametrize("more", [{}, {"optional": True}])
def test_type__its_values__come_back_from_their_bits(name: str, more: dict[str, Any]) -> None:
    example, layout = EXAMPLES[name], layout_of(name, **more)
    values = [*example.values, *([None] if more else [])]
    column = pa.concat_arrays([example.column, pa.nulls(len(more), example.column.type)])
    packed = pack_columns(layout, {"f": column}, len(values))
    ends = packed.offsets.tolist()
    for start, end, value in zip(ends, ends[1:], values, strict=False):
        payload = packed.octets[start:end].tobytes()
        assert payload == layout.pack({"f": value})
        assert layout.unpack(payload) == {"f": value}
        assert JsonRecords(layout).text(payload) == msgspec.json.encode(layout.unpack(payload)).decode()


@every_scalar
def test_scalar__in_a_list__comes_back_from_its_bits(name: str) -> None:
    example, layout = EXAMPLES[name], in_a_list(name)
    column = pa.ListArray.from_arrays(pa.array([0, len(example.values)], pa.int32()), example.column)
    payload = pack_columns(layout, {"f": column}, 1).octets.tobytes()
    assert payload == layout.pack({"f": example.values})
    assert layout.unpack(payload) == {"f": example.values}
    assert JsonRecords(layout).text(payload) == msgspec.json.encode(layout.unpack(payload)).decode()


@every_type
def test_type__values_that_it_cannot_hold__are_refused_by_both_packers(name: str) -> None:
    layout, bad = layout_of(name), EXAMPLES[name].bad_column
    for row in range(len(bad)):
        with pytest.raises(RefusedValue):
            pack_columns(layout, {"f": bad.slice(row, 1)}, 1)
        with pytest.raises(BadValue):
            layout.pack({"f": bad[row].as_py()})


def bad_in_sql(of: FieldType[Any], column: pa.Array) -> int:
    """Count the values that meet a condition of the type, as a load does."""
    conditions = " OR ".join(of.bad_values("f", column.type)) or "false"
    rows = pa.table({"f": column})  # noqa: F841 - DuckDB finds it by its name
    with duckdb.connect() as database:
        found = database.execute(f"SELECT count(*) FILTER (WHERE {conditions}) FROM rows").fetchall()
    return int(found[0][0])


@every_type
def test_type__its_column__is_accepted_and_checked(name: str) -> None:
    example, field = EXAMPLES[name], layout_of(name).fields[0]
    of = field_type(field.kind)
    assert is_accepted(field, example.column.type)
    assert is_accepted(field, pa.null())
    assert not is_accepted(field, pa.struct({"a": pa.int64()}))
    assert bad_in_sql(of, example.column) == 0
    assert bad_in_sql(of, pa.nulls(3, example.column.type)) == 0
    if is_accepted(field, example.bad_column.type):
        assert bad_in_sql(of, example.bad_column) == len(example.bad_column)


@every_type
def test_type__its_words__say_what_it_wants(name: str) -> None:
    assert re.match(r"(an?|one|yes) ", field_name(layout_of(name).fields[0]))
    assert field_name(layout_of(name, optional=True).fields[0]).endswith(", or nothing")


@every_type
def test_type__its_values__are_counted(name: str) -> None:
    column = pa.concat_arrays([EXAMPLES[name].column] * 300)
    layout = layout_of(name)
    _, kept = measure(layout, pa.table({"f": column}), ())
    shifts, _ = measure(layout, pa.table({"f": column}), kept)
    assert shifts
    for shift in shifts:
        assert shift.psi == pytest.approx(0)
        assert shift.aspect.unfit == 0


@every_type
def test_type__in_the_editor__comes_back_as_it_was(name: str) -> None:
    field = {"name": "f", "type": name, **EXAMPLES[name].parameters, "optional": True}
    default = {"f": EXAMPLES[name].values[-1]}
    layout = models.Layout(fields=[field], default_answer=default, default_revision=1)
    shown = LayoutEditor.of(layout).rows[0]
    typed = {f"field-0-{key}": value for key, value in shown.initial.items()}
    form = {"field-TOTAL_FORMS": "1", "field-INITIAL_FORMS": "0", "has_default": "on"}
    editor = LayoutEditor.typed({**form, **typed})
    assert editor.is_valid(), (editor.problem, editor.rows[0].errors)
    assert (editor.fields, editor.default_answer) == ([field], default)


@every_type
@pytest.mark.parametrize("is_optional", [False, True])
def test_type__its_values__come_back_from_the_text_that_is_shown(name: str, is_optional: bool) -> None:
    field = layout_of(name, **({"optional": True} if is_optional else {})).fields[0]
    for value in EXAMPLES[name].values:
        if not is_optional or value not in ("", []):
            assert typed_value(field, shown_value(field, value)) == value
    assert shown_value(field, None) == ""
    if is_optional:
        assert typed_value(field, "") is None
    elif name not in ("string", "list"):
        with pytest.raises(BadValue, match=r"^Enter .*\.$"):
            typed_value(field, "")
    if name != "string":
        with pytest.raises(BadValue, match=r"^Enter .*\.$"):
            typed_value(field, "no value of any type")


@every_type
def test_type__in_the_editor__a_parameter_that_is_missing_is_asked_for(name: str) -> None:
    for parameter in TYPES_BY_NAME[name].parameters:
        form = LayoutFieldForm({"name": "f", "type": name})
        assert not form.is_valid()
        assert form.errors[parameter.name] == [parameter.missing]


@every_type
def test_type__in_the_api__has_every_parameter(name: str) -> None:
    field = {"name": "f", "type": name, **EXAMPLES[name].parameters, "optional": True}
    body = LayoutField(data=field)
    assert body.is_valid(), body.errors
    assert body.validated_data == field
    assert LayoutItem(data={"type": name}).is_valid() == issubclass(CLASSES[name], Scalar)


def test_parameters__the_style_sheet__shows_the_inputs_that_a_type_takes() -> None:
    css = (ROOT / "static" / "recsite.css").read_text()
    for parameter in {parameter for one in TYPES for parameter in one.parameters}:
        taken = f'option[data-takes~="{parameter.name}"]:checked) .p-{parameter.name}'
        assert f".layout-field:has([data-type] {taken}" in css
        if any(parameter in one.parameters for one in SCALAR_TYPES):
            assert f':has([data-type] option[data-takes~="item"]:checked):has([data-item] {taken}' in css


@every_type
def test_type__the_property_tests__draw_it(name: str) -> None:
    find(format_strategies.kinds, lambda kind: isinstance(kind, CLASSES[name]))
    if issubclass(CLASSES[name], Scalar):
        find(format_strategies.scalars, lambda kind: isinstance(kind, CLASSES[name]))


@every_type
def test_type__its_bits__are_documented(name: str) -> None:
    row = next(line for line in (ROOT / "docs" / "formats.md").read_text().splitlines() if f"| `{name}` |" in line)
    for parameter in TYPES_BY_NAME[name].parameters:
        assert f"`{parameter.name}`" in row
