"""The files behind the demo: made once, and for one number of players."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from examples.generate import EXAMPLES, parquet_path
from recsite.demo.data import MODELS, OtherPlayers, players_of, write_data
from serving.formats.layouts import Layout

EVERY_FILE = [
    "aurora/offers/2026-11-a",
    "aurora/offers/2026-11-b",
    "aurora/difficulty/2026-11",
    "borealis/offers/autumn",
]


def test_write_data__first_start__writes_every_version(tmp_path: Path) -> None:
    assert list(write_data(tmp_path, 400)) == EVERY_FILE
    assert players_of(tmp_path) == 400
    assert pq.read_metadata(parquet_path(tmp_path, EXAMPLES[2], "autumn")).num_rows == 200


@pytest.mark.parametrize("players", [None, 400])
def test_write_data__files_are_there__only_missing_ones_are_written(tmp_path: Path, players: int | None) -> None:
    list(write_data(tmp_path, 400))
    parquet_path(tmp_path, EXAMPLES[2], "autumn").unlink()
    assert list(write_data(tmp_path, players)) == EVERY_FILE[-1:]
    assert pq.read_metadata(parquet_path(tmp_path, EXAMPLES[2], "autumn")).num_rows == 200


def test_write_data__other_number_of_players__is_refused(tmp_path: Path) -> None:
    list(write_data(tmp_path, 400))
    with pytest.raises(OtherPlayers, match="has 400 players"):
        list(write_data(tmp_path, 500))


def test_demo_models__each__has_a_default_that_fits_and_weights_that_sum_to_all() -> None:
    assert MODELS.keys() == {(example.studio, example.model) for example in EXAMPLES}
    for example in EXAMPLES:
        model = MODELS[example.studio, example.model]
        Layout.parse(list(example.layout)).pack(model.default_answer)
        assert set(model.weights_bp) == set(example.versions)
        assert sum(model.weights_bp.values()) == 10_000
