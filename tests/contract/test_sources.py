"""What every source does, whatever is behind it: one suite over files, Cloud Storage, BigQuery tables and queries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pytest_django.fixtures import Settings

from models_registry.loading.sources import SourceProblem
from tests.contract.source_stores import (
    NOTHING,
    BigQueryQueries,
    BigQueryTables,
    LocalFiles,
    Store,
    cloud_files,
    opened,
)

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
ROWS = pa.table(
    {
        "player_id": pa.array(["p1", "p2", "Ω", None]),
        "level": pa.array([1, None, -(2**60), 4], pa.int64()),
        "price": pa.array([Decimal("1.5"), None, Decimal("-0.000000001"), Decimal(7)], pa.decimal128(38, 9)),
        "seen_at": pa.array([NOON, None, NOON, NOON], pa.timestamp("us", "UTC")),
        "items": pa.array([[1, 2], [], [3], [4]], pa.list_(pa.int64())),
        "share": pa.array([0.1, None, -0.5, 1e300]),
        "is_new": pa.array([True, None, False, True]),
    }
)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    with cloud_files(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(
    params=[
        "local_files",
        "cloud_files",
        pytest.param("bigquery_table", marks=pytest.mark.slow),
        pytest.param("bigquery_query", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> Store:
    if request.param == "local_files":
        return LocalFiles(tmp_path)
    if request.param == "cloud_files":
        cloud_place: Store
        cloud_place, settings.GCS_ENDPOINT = request.getfixturevalue("cloud")
        return cloud_place
    bigquery = request.getfixturevalue("bigquery")
    return BigQueryTables(bigquery) if request.param == "bigquery_table" else BigQueryQueries(bigquery)


def test_rows__of_every_type__come_as_they_are(store: Store) -> None:
    with opened(store, store.put(ROWS), ROWS.column_names) as extract:
        table = pa.Table.from_batches(list(extract.batches), extract.schema)
    assert [_plain(kind) for kind in table.schema.types] == [_plain(kind) for kind in ROWS.schema.types]
    assert sorted(table.to_pylist(), key=str) == sorted(ROWS.to_pylist(), key=str)


def _plain(kind: pa.DataType) -> str:
    """Return a type without the name that its writer chose for the items of a list."""
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def test_batches__all__have_the_schema_of_the_extract(store: Store) -> None:
    with opened(store, store.put(ROWS), ["level", "items"]) as extract:
        batches = list(extract.batches)
    assert batches
    assert all(batch.schema == extract.schema for batch in batches)


def test_columns__wanted_or_not__come_in_source_order_and_the_rest_is_named(store: Store) -> None:
    with opened(store, store.put(ROWS), ["share", "player_id", "nobody_has_this"]) as extract:
        assert extract.schema.names == ["player_id", "share"]
        assert set(extract.extra_columns) == {"level", "price", "seen_at", "items", "is_new"}
        assert sum(batch.num_rows for batch in extract.batches) == 4


def test_columns__none_of_the_wanted_exists__is_no_error_of_the_source(store: Store) -> None:
    with opened(store, store.put(ROWS), ["nobody_has_this"]) as extract:
        assert extract.schema.names == []
        assert len(extract.extra_columns) == 7
        for batch in extract.batches:
            assert batch.num_columns == 0


def test_rows_expected__is_known_beforehand(store: Store) -> None:
    with opened(store, store.put(ROWS), ["player_id"]) as extract:
        assert extract.rows_expected == 4


def test_snapshot_at__is_the_instant_of_reading_where_the_source_has_one(store: Store) -> None:
    location = store.put(ROWS)
    before = datetime.now(UTC)
    with opened(store, location, ["player_id"]) as extract:
        if not store.has_snapshot:
            assert extract.snapshot_at is None
            return
        assert extract.snapshot_at is not None
        # Of a query it is when the job began, as BigQuery says it, to the millisecond.
        assert (before - extract.snapshot_at).total_seconds() < 0.01
        assert extract.snapshot_at <= datetime.now(UTC)


def test_table__without_rows__has_a_schema_and_no_rows(store: Store) -> None:
    with opened(store, store.put(ROWS.slice(0, 0)), ["player_id", "level"]) as extract:
        assert extract.schema.names == ["player_id", "level"]
        assert extract.rows_expected == 0
        assert sum(batch.num_rows for batch in extract.batches) == 0


def test_table__with_many_rows__arrives_whole_and_in_batches(store: Store) -> None:
    count = 200_000
    table = pa.table(
        {"player_id": [f"p{number}" for number in range(count)], "level": pa.array(range(count), pa.int64())}
    )
    with opened(store, store.put(table), ["level"]) as extract:
        batches = list(extract.batches)
    assert len(batches) > 1
    levels = sorted(level for batch in batches for level in batch.column(0).to_pylist())
    assert levels == list(range(count))


def test_reader__that_stops_early__leaves_nothing_running(store: Store) -> None:
    count = 200_000
    table = pa.table({"level": pa.array(range(count), pa.int64())})
    with opened(store, store.put(table), ["level"]) as extract:
        assert next(extract.batches).num_rows > 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bigquery")]


def test_source__without_anything_allowed__is_refused_and_says_who_allows(store: Store) -> None:
    with pytest.raises(SourceProblem, match="platform staff"), opened(store, store.put(ROWS), ["level"], NOTHING):
        pass


def test_source__allowed_a_neighbour__is_refused(store: Store) -> None:
    location = store.put(ROWS)
    with (
        pytest.raises(SourceProblem, match="This studio may not read"),
        opened(store, location, ["level"], store.elsewhere),
    ):
        pass


def test_source__that_is_not_there__is_a_clear_sentence(store: Store) -> None:
    with (
        pytest.raises(SourceProblem, match=r"^(No file matches|BigQuery cannot find) .*nothing.*\.$"),
        opened(store, store.missing, ["level"]),
    ):
        pass
