"""What the BigQuery sources ask of BigQuery, and the sentences they fail with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.api_core import exceptions
from google.cloud import bigquery as google
from pytest_django.fixtures import Settings

from models_registry.loading.sources import Confinement, Extract, SourceProblem, open_source
from models_registry.loading.sources.bigquery_clients import explained
from recsite.embedded import free_port
from tests.bigquery.emulator import PROJECT, BigQuery, require_environment
from tests.contract.source_stores import put_bigquery

STUDIO = Confinement(datasets=(f"{PROJECT}.games",), gs_prefixes=(), local_roots=())
OFFERS = f"{PROJECT}.games.offers"
SECRETS = f"{PROJECT}.rival.secrets"
ROWS = pa.table({"player_id": ["p1", "p2", "p3"], "offer_id": pa.array([1, 2, 3], pa.int64()), "note": ["a", "b", "c"]})
LABELS = {"studio": "Lantern Games", "load": "17"}


@pytest.fixture(autouse=True, scope="module")
def tables(bigquery_emulator: BigQuery) -> None:
    put_bigquery(bigquery_emulator, "games", "offers", ROWS)
    put_bigquery(bigquery_emulator, "rival", "secrets", ROWS)
    bigquery_emulator.client.query(f"CREATE VIEW `{PROJECT}.games.offers_view` AS SELECT * FROM `{OFFERS}`").result()
    nested = google.SchemaField("box", "RECORD", fields=[google.SchemaField("x", "INT64")])
    bigquery_emulator.client.create_table(google.Table(f"{PROJECT}.games.nested", schema=[nested]))


def read(kind: str, location: str, wanted: Sequence[str] = ("player_id", "offer_id")) -> tuple[Extract, list[Any]]:
    with open_source(kind, location, STUDIO, wanted, labels=LABELS) as extract:
        return extract, sorted((row for batch in extract.batches for row in batch.to_pylist()), key=str)


def problem(kind: str, location: str, wanted: Sequence[str] = ("player_id",), studio: Confinement = STUDIO) -> str:
    with pytest.raises(SourceProblem) as raised, open_source(kind, location, studio, wanted, labels=LABELS) as extract:
        list(extract.batches)
    return str(raised.value)


def scratch_tables(bigquery: BigQuery) -> list[str]:
    return [table.table_id for table in bigquery.client.list_tables(f"{PROJECT}.recsite_scratch_us")]


@pytest.fixture(autouse=True)
def no_scratch_tables(bigquery: BigQuery) -> None:
    """Drop what other tests left: those of loads that are cut off leave a table for BigQuery's own expiry."""
    for table_id in scratch_tables(bigquery):
        bigquery.client.delete_table(f"{PROJECT}.recsite_scratch_us.{table_id}")


# --- What is asked --------------------------------------------------------------------------------------------------


def test_table__read__is_asked_for_at_the_recorded_instant_and_only_the_wanted_columns(bigquery: BigQuery) -> None:
    extract, rows = read("bigquery_table", OFFERS)
    assert [row["offer_id"] for row in rows] == [1, 2, 3]
    (session,) = bigquery.fronts.sessions
    assert session.table == f"projects/{PROJECT}/datasets/games/tables/offers"
    assert list(session.read_options.selected_fields) == ["player_id", "offer_id"]
    assert extract.snapshot_at is not None
    assert session.table_modifiers.snapshot_time.timestamp() == pytest.approx(extract.snapshot_at.timestamp(), abs=1e-6)


def test_table__not_allowed__is_refused_before_anything_is_asked(bigquery: BigQuery) -> None:
    assert problem("bigquery_table", SECRETS) == (
        f"This studio may not read “{SECRETS}”: platform staff have not allowed the dataset “{PROJECT}.rival”."
    )
    assert bigquery.fronts.calls == []
    assert bigquery.fronts.sessions == []


def test_table__large__is_read_in_several_streams(bigquery: BigQuery) -> None:
    count = 300_000
    big = put_bigquery(bigquery, "games", "big", pa.table({"n": pa.array(range(count), pa.int64())}))
    _, rows = read("bigquery_table", big, ["n"])
    assert sorted(row["n"] for row in rows) == list(range(count))
    assert len(set(bigquery.fronts.streams)) == 4


def test_query__runs__after_a_rehearsal_into_a_table_that_expires(bigquery: BigQuery) -> None:
    _, rows = read("bigquery_query", f"SELECT player_id, offer_id * 2 AS offer_id FROM `{OFFERS}` WHERE offer_id > 1")
    assert [row["offer_id"] for row in rows] == [4, 6]
    rehearsal, run = bigquery.fronts.queries()
    assert rehearsal["dryRun"] is True
    assert rehearsal["query"]["useQueryCache"] is False
    assert rehearsal["labels"] == run["labels"] == {"studio": "lantern_games", "load": "17"}
    assert run["query"]["query"].startswith(f"CREATE TABLE `{PROJECT}.recsite_scratch_us.result_")
    assert "expiration_timestamp = TIMESTAMP" in run["query"]["query"]
    assert '("studio", "lantern_games")' in run["query"]["query"]
    assert run["query"]["maximumBytesBilled"] == str(2**40)
    assert int(run["jobTimeoutMs"]) == 3 * 3600 * 1000
    (session,) = bigquery.fronts.sessions
    assert "/datasets/recsite_scratch_us/" in session.table
    assert not session.table_modifiers.snapshot_time


def test_query__read__leaves_no_table_behind(bigquery: BigQuery) -> None:
    read("bigquery_query", f"SELECT * FROM `{OFFERS}`")
    assert scratch_tables(bigquery) == []


def test_query__reader_that_fails__leaves_no_table_behind(bigquery: BigQuery) -> None:
    def fail_half_way() -> None:
        query = f"SELECT * FROM `{OFFERS}`"
        with open_source("bigquery_query", query, STUDIO, ["offer_id"], labels=LABELS) as extract:
            next(extract.batches)
            assert len(scratch_tables(bigquery)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert scratch_tables(bigquery) == []


def test_query__on_a_view__reads_it(bigquery: BigQuery) -> None:
    _, rows = read("bigquery_query", f"SELECT player_id, offer_id FROM `{PROJECT}.games.offers_view`")
    assert len(rows) == 3


# --- Confinement ----------------------------------------------------------------------------------------------------


def test_query__on_another_studios_table__is_refused_and_never_runs(bigquery: BigQuery) -> None:
    sentence = problem("bigquery_query", f"SELECT o.* FROM `{OFFERS}` o JOIN `{SECRETS}` s USING (player_id)")
    assert sentence == (
        f"This studio may not read “{SECRETS}”, which the query uses: platform staff have not allowed the dataset "
        f"“{PROJECT}.rival”."
    )
    assert [job.get("dryRun") for job in bigquery.fronts.queries()] == [True]


def test_query__of_which_bigquery_lists_no_table__is_refused_and_never_runs(bigquery: BigQuery) -> None:
    bigquery.fronts.lists_references = False
    assert problem("bigquery_query", f"SELECT * FROM `{OFFERS}`").startswith(
        "BigQuery does not say which tables this query reads"
    )
    assert [job.get("dryRun") for job in bigquery.fronts.queries()] == [True]


def test_query__whose_view_changed_after_the_rehearsal__is_refused_before_a_row_is_read(bigquery: BigQuery) -> None:
    bigquery.fronts.late_references = [SECRETS]
    assert f"may not read “{SECRETS}”" in problem("bigquery_query", f"SELECT * FROM `{PROJECT}.games.offers_view`")
    assert bigquery.fronts.sessions == []
    assert scratch_tables(bigquery) == []


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM `{OFFERS}` WHERE TRUE",
        f"CREATE TABLE `{PROJECT}.games.copy` AS SELECT * FROM `{OFFERS}`",
        f"SELECT * FROM `{OFFERS}`; SELECT * FROM `{OFFERS}`",
    ],
)
def test_query__anything_but_one_select__is_refused_and_never_runs(bigquery: BigQuery, statement: str) -> None:
    assert problem("bigquery_query", statement) == "A query must be one SELECT statement, and nothing else."
    assert [job.get("dryRun") for job in bigquery.fronts.queries()] == [True]


def test_query__of_a_studio_without_datasets__is_refused_before_anything_is_asked(bigquery: BigQuery) -> None:
    nothing = replace(STUDIO, datasets=())
    assert "platform staff have not allowed any dataset" in problem("bigquery_query", "SELECT 1", studio=nothing)
    assert bigquery.fronts.calls == []


# --- What goes wrong ------------------------------------------------------------------------------------------------


def test_table__missing__is_a_clear_sentence(bigquery: BigQuery) -> None:
    assert problem("bigquery_table", f"{PROJECT}.games.nobody").startswith(
        f"BigQuery cannot find the table “{PROJECT}.games.nobody”"
    )


def test_query__on_a_missing_table__names_it(bigquery: BigQuery) -> None:
    sentence = problem("bigquery_query", f"SELECT * FROM `{PROJECT}.games.nobody`")
    assert sentence.startswith("BigQuery cannot find something that the query reads")
    assert "games.nobody" in sentence
    assert "Job ID" not in sentence
    assert "http" not in sentence


def test_query__with_a_slip__gives_bigquerys_own_words(bigquery: BigQuery) -> None:
    assert problem("bigquery_query", f"SELEC * FROM `{OFFERS}`").startswith("BigQuery refuses the query: ")


def test_query__with_a_value_that_fails__gives_bigquerys_own_words(bigquery: BigQuery) -> None:
    sentence = problem("bigquery_query", f"SELECT player_id, 1 / (offer_id - 1) AS x FROM `{OFFERS}`")
    assert "division by zero" in sentence
    assert scratch_tables(bigquery) == []


def test_query__failing_after_it_was_accepted__gives_bigquerys_own_words(bigquery: BigQuery) -> None:
    bigquery.fronts.job_error = {"reason": "resourcesExceeded", "message": "Resources exceeded during query execution."}
    sentence = problem("bigquery_query", f"SELECT * FROM `{OFFERS}`")
    assert sentence == "The query failed in BigQuery: Resources exceeded during query execution."
    assert scratch_tables(bigquery) == []


def test_table__that_google_denies_the_worker__is_a_clear_sentence(bigquery: BigQuery) -> None:
    bigquery.fronts.denied_datasets = {"games"}
    assert problem("bigquery_table", OFFERS) == (
        f"BigQuery does not allow the worker to read the table “{OFFERS}”: Access Denied: Table {PROJECT}:games: "
        "User does not have permission to query it."
    )


@pytest.mark.parametrize(
    ("reason", "words", "code"),
    [
        ("accessDenied", "BigQuery does not allow the worker to read the query: Google's words.", "source_not_allowed"),
        ("quotaExceeded", "BigQuery's quota is used up for the query: Google's words.", "source_unavailable"),
        ("rateLimitExceeded", "BigQuery's quota is used up for the query: Google's words.", "source_unavailable"),
        (
            "billingNotEnabled",
            "Billing is not enabled for the Google project that reads the query: Google's words.",
            "source_not_allowed",
        ),
        (
            "policyViolation",
            "A policy of the organisation (VPC Service Controls) forbids reading the query: Google's words.",
            "source_not_allowed",
        ),
    ],
)
def test_forbidden__for_another_reason_than_permissions__says_it(reason: str, words: str, code: str) -> None:
    errors = [{"reason": reason, "message": "Google's words."}]
    with pytest.raises(SourceProblem) as problem, explained("the query"):
        raise exceptions.Forbidden("403", errors=errors)

    assert (str(problem.value), problem.value.code) == (words, code)


def test_table__that_is_a_view__says_to_use_a_query(bigquery: BigQuery) -> None:
    assert problem("bigquery_table", f"{PROJECT}.games.offers_view") == (
        f"“{PROJECT}.games.offers_view” is a view, not a table: read it through a query."
    )


def test_column__of_a_type_that_cannot_be_read__is_named(bigquery: BigQuery) -> None:
    assert problem("bigquery_table", f"{PROJECT}.games.nested", ["box"]) == (
        "Column “box” is of type RECORD, which cannot be read."
    )


def test_query__too_large__is_refused_with_figures(
    bigquery: BigQuery, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator always estimates 0 bytes.
    monkeypatch.setattr(google.QueryJob, "total_bytes_processed", 3 * 2**30)
    settings.BIGQUERY_MAX_BYTES_BILLED = 2**30
    assert problem("bigquery_query", f"SELECT * FROM `{OFFERS}`") == (
        "The query would read 3.0 GiB, more than the 1.0 GiB that one query may read."
    )


def test_rows__that_stop_coming__are_a_clear_sentence(bigquery: BigQuery) -> None:
    bigquery.fronts.read_failure = grpc.StatusCode.PERMISSION_DENIED
    assert problem("bigquery_table", OFFERS) == (
        f"BigQuery does not allow the worker to read the table “{OFFERS}”: the front was told to fail."
    )


def test_rows__source_closed_while_another_thread_waits__ends_that_wait(bigquery: BigQuery) -> None:
    bigquery.fronts.holds_reads = True
    with ThreadPoolExecutor(1) as pool:
        with open_source("bigquery_table", OFFERS, STUDIO, ["offer_id"], labels=LABELS) as extract:
            waiting = pool.submit(list, extract.batches)
            while not bigquery.fronts.streams:
                time.sleep(0.01)
        with pytest.raises(SourceProblem, match="was interrupted"):
            waiting.result()


def test_bigquery__that_nobody_answers_for__is_a_clear_sentence(settings: Settings) -> None:
    settings.BIGQUERY_PROJECT = PROJECT
    settings.BIGQUERY_API_ENDPOINT = f"http://127.0.0.1:{free_port()}"
    settings.BIGQUERY_STORAGE_ENDPOINT = f"127.0.0.1:{free_port()}"
    assert problem("bigquery_table", OFFERS) == (
        f"BigQuery could not be reached to read the table “{OFFERS}”. Try again later."
    )


def test_rows__whose_address_nobody_answers_for__are_a_clear_sentence(bigquery: BigQuery, settings: Settings) -> None:
    settings.BIGQUERY_STORAGE_ENDPOINT = f"127.0.0.1:{free_port()}"
    assert problem("bigquery_table", OFFERS) == (
        f"BigQuery could not be reached to read the table “{OFFERS}”. Try again later."
    )


def test_settings__with_one_address_of_two__are_refused(bigquery: BigQuery, settings: Settings) -> None:
    settings.BIGQUERY_STORAGE_ENDPOINT = None
    assert "Set both addresses of BigQuery" in problem("bigquery_table", OFFERS)


# --- The emulator itself --------------------------------------------------------------------------------------------


def test_emulator__not_installed__skips_here_and_fails_in_ci(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="make test"):
        require_environment(tmp_path, is_ci=False)
    with pytest.raises(pytest.fail.Exception, match="make test"):
        require_environment(tmp_path, is_ci=True)
