"""`check_formats`: the public vectors pass, so do others of that shape, and nothing wrong in a file goes unnoticed."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models_registry.loading.vectors import NoVectors, check_vectors
from serving.formats import keys
from serving.formats.blocks import encode_block
from serving.formats.layouts import DecimalNumber, Layout, List
from tests.unit.format_strategies import layouts, records_of

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ROOT / "tests" / "vectors" / "formats.json"


def differences(document: Any) -> list[str]:
    return [words for section in check_vectors(document) for words in section.differences]


def run(path: Path) -> tuple[str, str]:
    """Run the command; give what it printed, and its last word if that is an error."""
    out = io.StringIO()
    try:
        call_command("check_formats", str(path), stdout=out, no_color=True)
    except CommandError as error:
        return out.getvalue(), str(error)
    return out.getvalue(), ""


def test_check_formats__the_public_file__everything_agrees() -> None:
    printed, error = run(PUBLIC)
    assert error == ""
    assert printed.splitlines() == [
        "slot: 40 of 40 vectors agree",
        "locate: 40 of 40 vectors agree",
        "pack: 40 of 40 vectors agree",
        "block: 4 of 4 vectors agree",
        "refuse: 17 of 17 vectors agree",
        "Everything agrees.",
    ]


@pytest.mark.slow
def test_check_formats__as_a_process_without_settings__everything_agrees(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RECSITE_", "DJANGO_"))}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "check_formats", str(PUBLIC)],
        env={**variables, "RECSITE_ENV_FILE": str(tmp_path / "none.env")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("Everything agrees.\n")


# --- Other files of that shape ----------------------------------------------------------------------------------------


def as_json(layout: Layout) -> list[dict[str, Any]]:
    raw: list[dict[str, Any]] = []
    for field in layout.fields:
        described = json.loads(json.dumps(parameters_of(field.kind)))
        raw.append({"name": field.name, **described, **({"optional": True} if field.is_optional else {})})
    return raw


def parameters_of(kind: Any) -> dict[str, Any]:
    parameters = {name: getattr(kind, name) for name in kind.__struct_fields__}
    if isinstance(kind, DecimalNumber):
        parameters = {name: float(value) for name, value in parameters.items()}
    if isinstance(kind, List):
        parameters["item"] = parameters_of(kind.item)
    return {"type": kind.__struct_config__.tag, **parameters}


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | bool) else float(value)


def few_digits(layout: Layout) -> bool:
    """Whether JSON's numbers can say the layout's decimals exactly, as those of a file of vectors do."""
    kinds = [field.kind.item if isinstance(field.kind, List) else field.kind for field in layout.fields]
    return all(abs(x) < 10**6 and k.places <= 6 for k in kinds if isinstance(k, DecimalNumber) for x in (k.min, k.max))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    layout = draw(layouts(max_fields=4).filter(few_digits))
    records = draw(st.lists(records_of(layout), min_size=1, max_size=5))
    names = draw(st.sampled_from([["p{}"], ["p{}", "é"]]))
    key_lists = [[name.format(number) for name in names] for number in range(len(records))]
    bits = draw(st.sampled_from([0, 1, 3]))
    placed = [keys.locate(keys.digest(keys.canonical_key(values)), bits) for values in key_lists]
    block = placed[0][0]
    inside = [number for number, place in enumerate(placed) if place[0] == block]
    rows = [(placed[number][1], layout.pack(records[number])) for number in inside]
    return {
        "about": "made by a test",
        "slot": [{"salt": "s", "unit": "ü", "slot": keys.slot("s", "ü")}],
        "locate": [
            {
                "key": key_lists[0],
                "canonical": keys.canonical_key(key_lists[0]).hex(),
                "block_bits": bits,
                "block": placed[0][0],
                "fingerprint": placed[0][1].hex(),
            }
        ],
        "pack": [
            {"layout": as_json(layout), "record": {k: plain(v) for k, v in r.items()}, "bytes": layout.pack(r).hex()}
            for r in records
        ],
        "block": [
            {
                "layout": as_json(layout),
                "rows": [{"key": key_lists[n], "record": {k: plain(v) for k, v in records[n].items()}} for n in inside],
                "block_bits": bits,
                "block": block,
                "bytes": encode_block(rows, layout.payload_width).hex(),
            }
        ],
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(documents())
def test_check_vectors__any_other_file_of_that_shape__everything_agrees(document: dict[str, Any]) -> None:
    assert differences(json.loads(json.dumps(document))) == []


def test_check_vectors__a_block_without_rows__an_empty_block() -> None:
    fixed = [{"name": "x", "type": "bool"}]
    variable = [{"name": "x", "type": "bool", "optional": True}]
    vectors = [
        {"layout": fixed, "rows": [], "block_bits": 0, "bytes": ""},
        {"layout": variable, "rows": [], "block_bits": 30, "block": 2**30 - 1, "bytes": "000000000000"},
    ]
    assert differences({"block": vectors}) == []


# --- Files in which something is wrong --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(PUBLIC.read_text())
    return document


def flip(text: str, at: int) -> str:
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("slot", lambda v: v | {"slot": (v["slot"] + 1) % 10_000}),
        ("slot", lambda v: v | {"salt": v["salt"] + "x"}),
        ("locate", lambda v: v | {"block": v["block"] + 1}),
        ("locate", lambda v: v | {"fingerprint": flip(v["fingerprint"], 11)}),
        ("locate", lambda v: v | {"canonical": flip(v["canonical"], 0)}),
        ("locate", lambda v: v | {"key": [*v["key"], ""]}),
        ("pack", lambda v: v | {"bytes": flip(v["bytes"], 0)}),
        ("pack", lambda v: v | {"bytes": v["bytes"] + "00"}),
        ("pack", lambda v: v | {"bytes": v["bytes"][:-2]}),
        ("pack", lambda v: v | {"record": dict.fromkeys(v["record"])}),
        ("pack", lambda v: v | {"record": v["record"] | {"unknown": 1}}),
        ("block", lambda v: v | {"bytes": flip(v["bytes"], 0)}),
        ("block", lambda v: v | {"bytes": flip(v["bytes"], len(v["bytes"]) - 1)}),
        ("block", lambda v: v | {"rows": v["rows"][1:]}),
        ("block", lambda v: v | {"rows": [*v["rows"], v["rows"][0]]}),
        ("block", lambda v: v | {"block_bits": v["block_bits"] + 20}),
        ("refuse", lambda v: {"layout": [{"name": "x", "type": "bool"}], "record": {"x": True}}),
        ("refuse", lambda v: {"layout": []}),
        ("pack", lambda v: {}),
        ("pack", lambda v: 5),
        ("block", lambda v: v | {"bytes": "not hex"}),
        ("locate", lambda v: v | {"key": {}}),
        ("block", lambda v: v | {"block": 2**70}),
        *(
            (section, lambda v, bits=bits: v | {"block_bits": bits})
            for section in ("locate", "block")
            for bits in (-1, 31, 65, 2**70, -(2**70), "4", None)
        ),
    ],
)
def test_check_vectors__one_vector_changed__named(
    section: str, change: Callable[[Any], Any], public: dict[str, Any]
) -> None:
    # The last vector of its section, and that alone: one that agrees stands before it.
    first, last = (copy.deepcopy(public[section][number]) for number in (0, -1))
    found = differences({section: [first, change(last)]})
    assert found
    assert all(words.startswith(f"{section} 2: ") for words in found)


def test_check_formats__differences__printed_counted_and_fatal(tmp_path: Path, public: dict[str, Any]) -> None:
    document = copy.deepcopy(public)
    document["slot"][0]["slot"] = 0
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps(document))
    printed, error = run(path)
    assert printed.startswith("slot 1: the slot is 7543, the file says 0\n")
    assert "slot: 39 of 40 vectors agree\n" in printed
    assert error == "This release differs from the file."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PUBLIC.read_bytes()[:4000], "is not JSON, or it is damaged"),
        (b"", "is not JSON, or it is damaged"),
        (b"\xff\xfe", "is not JSON, or it is damaged"),
        (b"[]", "is not a file of test vectors: it is not a JSON object"),
        (b"{}", "is not a file of test vectors: it holds no vectors"),
        (b'{"slot": []}', "it holds no vectors"),
        (b'{"slot": {}}', "its section “slot” is not a list"),
        (b'{"tokens": []}', "it has a section “tokens”, which this release does not know"),
    ],
)
def test_check_formats__a_damaged_file__said_so(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    path.write_bytes(content)
    printed, error = run(path)
    assert (printed, words in error) == ("", True)


def test_check_formats__no_such_file__said_so(tmp_path: Path) -> None:
    assert run(tmp_path / "absent.json")[1].endswith("absent.json cannot be read: No such file or directory.")


def test_check_formats__values_that_no_column_holds__refused_as_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "vectors.json"
    rate = '{"name": "d", "type": "decimal", "min": 0, "max": 1, "step": 0.01}'
    text = '{"name": "d", "type": "string", "max_bytes": 9}'
    items = '{"name": "d", "type": "list", "max_items": 9, "item": {"type": "uint", "min": 0, "max": 9}}'
    values = [(rate, "NaN"), (rate, "-Infinity"), (rate, "1e400"), (rate, "true"), (text, '"\\ud800"'), (text, "[]")]
    values += [(items, '[1, "2"]'), (items, "[[1]]"), (items, "[0.5]"), (items, "[9999999999999999999999]")]
    vectors = [f'{{"layout": [{field}], "record": {{"d": {value}}}}}' for field, value in values]
    path.write_text(f'{{"refuse": [{", ".join(vectors)}]}}')
    printed, error = run(path)
    assert error == "", printed
    assert "refuse: 10 of 10 vectors agree" in printed


def test_check_vectors__no_object__refused() -> None:
    with pytest.raises(NoVectors):
        check_vectors(None)
