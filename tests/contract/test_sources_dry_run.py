"""What Google's answer to a dry run tells, in the shape of its REST API: the emulator leaves it out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from models_registry.loading.sources import SourceProblem
from models_registry.loading.sources.bigquery import referenced_by
from models_registry.loading.sources.confinement import TableName, check_datasets, check_referenced

ANSWER = Path(__file__).with_name("bigquery_dry_run.json")
ALLOWED = ["studio-data.games", "studio-data.shared"]


@pytest.fixture
def client() -> Iterator[bigquery.Client]:
    client = bigquery.Client(project="studio-data", credentials=AnonymousCredentials())
    yield client
    client.close()


@pytest.fixture
def answer() -> dict[str, Any]:
    """Return the answer to the dry run of a query over two tables that calls a function of the studio's."""
    document: dict[str, Any] = json.loads(ANSWER.read_text())
    return document


def job(answer: dict[str, Any], client: bigquery.Client) -> bigquery.QueryJob:
    return bigquery.QueryJob.from_api_repr(answer, client)


def test_dry_run__of_allowed_tables_and_functions__passes(answer: dict[str, Any], client: bigquery.Client) -> None:
    referenced = referenced_by(job(answer, client))
    assert referenced.statement == "SELECT"
    assert referenced.tables == 2
    assert [dataset for dataset, _ in referenced.things] == [
        "studio-data.games",
        "studio-data.games",
        "studio-data.shared",
    ]
    check_referenced(referenced, ALLOWED)


def test_dry_run__each_thing_on_its_own__must_be_allowed(answer: dict[str, Any], client: bigquery.Client) -> None:
    with pytest.raises(SourceProblem, match=r"may not read “studio-data\.games\.offers”"):
        check_referenced(referenced_by(job(answer, client)), ["studio-data.shared"])
    with pytest.raises(SourceProblem, match=r"may not read “studio-data\.shared\.band_of”"):
        check_referenced(referenced_by(job(answer, client)), ["studio-data.games"])


def test_dry_run__over_a_view__is_held_against_what_the_view_reads(
    answer: dict[str, Any], client: bigquery.Client
) -> None:
    answer["statistics"]["query"]["referencedTables"].append(
        {"projectId": "rival-data", "datasetId": "games", "tableId": "behind_the_view"}
    )
    with pytest.raises(SourceProblem, match=r"“rival-data\.games\.behind_the_view”"):
        check_referenced(referenced_by(job(answer, client)), ALLOWED)


def test_dry_run__over_a_wildcard__is_held_against_its_dataset(answer: dict[str, Any], client: bigquery.Client) -> None:
    tables = answer["statistics"]["query"]["referencedTables"]
    tables[:] = [{"projectId": "studio-data", "datasetId": "rival", "tableId": "events_*"}]
    with pytest.raises(SourceProblem, match=r"“studio-data\.rival\.events_\*”"):
        check_referenced(referenced_by(job(answer, client)), ALLOWED)


def test_dry_run__over_a_property_graph_elsewhere__is_refused(answer: dict[str, Any], client: bigquery.Client) -> None:
    answer["statistics"]["query"]["referencedPropertyGraphs"] = [
        {"projectId": "rival-data", "datasetId": "games", "propertyGraphId": "friends"}
    ]
    with pytest.raises(SourceProblem, match=r"“rival-data\.games\.friends”"):
        check_referenced(referenced_by(job(answer, client)), ALLOWED)


@pytest.mark.parametrize("missing", ["referencedTables", "statementType"])
def test_dry_run__without_what_it_is_judged_by__is_refused(
    answer: dict[str, Any], client: bigquery.Client, missing: str
) -> None:
    del answer["statistics"]["query"][missing]
    with pytest.raises(SourceProblem):
        check_referenced(referenced_by(job(answer, client)), ALLOWED)


def test_finished_job__that_lists_its_own_result__is_held_against_the_rest(
    answer: dict[str, Any], client: bigquery.Client
) -> None:
    own = TableName("studio-data", "recsite_scratch_eu", "result_1")
    answer["statistics"]["query"]["referencedTables"].append(
        {"projectId": own.project, "datasetId": own.dataset, "tableId": own.table}
    )
    check_datasets(referenced_by(job(answer, client), apart_from=own), ALLOWED)
    neighbour = TableName("studio-data", "recsite_scratch_eu", "result_2")
    with pytest.raises(SourceProblem, match=r"recsite_scratch_eu\.result_1"):
        check_datasets(referenced_by(job(answer, client), apart_from=neighbour), ALLOWED)
