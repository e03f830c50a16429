"""The example generator: columns at a time and one answer at a time must be the same."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from examples.generate import EXAMPLES, Example, UnknownExample, answer, batches, keys_of, main, parquet_path
from serving.formats.layouts import Layout

EVERY_VERSION = [
    pytest.param(example, version, id=f"{example.studio}-{example.model}-{version}")
    for example in EXAMPLES
    for version in example.versions
]


def _shown(value: Any, *, is_key: bool) -> Any:
    """Return a column's value as JSON shows it; keys are text."""
    return str(value) if is_key else float(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize(("example", "version"), EVERY_VERSION)
def test_generated_file__every_row__equals_its_answer(example: Example, version: str, tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--players", "3000"])
    rows = pq.read_table(parquet_path(tmp_path, example, version)).to_pylist()
    keys = [dict(zip(example.key_fields, key, strict=True)) for key in keys_of(example, 3000)]
    assert len(rows) == len(keys) >= 900
    for row, key in zip(rows, keys, strict=True):
        expected = key | answer(example.studio, example.model, version, key)
        shown = {name: _shown(value, is_key=name in key) for name, value in row.items()}
        assert shown == expected


@pytest.mark.parametrize(("example", "version"), EVERY_VERSION)
def test_answer__packed_and_unpacked__is_unchanged(example: Example, version: str) -> None:
    layout = Layout.parse(list(example.layout))
    for key in list(keys_of(example, 500))[:200]:
        expected = answer(example.studio, example.model, version, dict(zip(example.key_fields, key, strict=True)))
        assert layout.unpack(layout.pack(expected)) == expected


def test_batches__more_rows_than_one_batch_holds__give_each_key_once_in_order() -> None:
    example = EXAMPLES[0]
    ids = [key for batch in batches(example, example.versions[0], 250_000) for key in batch.column(0).to_pylist()]
    assert ids == [key for (key,) in keys_of(example, 250_000)]


def test_answer__other_studio_model_or_version__is_another_answer() -> None:
    key = {"player_id": "p000042"}
    first = answer("aurora", "offers", "2026-11-a", key)
    assert first != answer("aurora", "offers", "2026-11-b", key)
    assert first != answer("borealis", "offers", "autumn", key)
    assert first == {"offer_id": 1895, "discount": 0.05, "segment": "regular", "items": []}


@pytest.mark.parametrize(
    ("studio", "model", "version", "key"),
    [
        ("cumulus", "offers", "2026-11-a", {"player_id": "p000042"}),
        ("aurora", "quests", "2026-11-a", {"player_id": "p000042"}),
        ("aurora", "offers", "autumn", {"player_id": "p000042"}),
        ("aurora", "offers", "2026-11-a", {"country": "DE"}),
    ],
)
def test_answer__unknown_name_or_key__is_refused(studio: str, model: str, version: str, key: dict[str, str]) -> None:
    with pytest.raises(UnknownExample):
        answer(studio, model, version, key)


def test_command_line__answer__prints_what_the_function_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--answer", "aurora", "difficulty", "2026-11", "DE", "7"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == answer("aurora", "difficulty", "2026-11", {"country": "DE", "level_band": 7})


def test_command_line__too_few_key_values__says_what_the_key_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--answer", "aurora", "difficulty", "2026-11", "DE"])
    assert "country, level_band" in capsys.readouterr().err
