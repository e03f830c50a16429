"""BigQuery tables and queries. What may be read is settled before the first row is asked for."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
from google.api_core.exceptions import NotFound
from google.cloud import bigquery

from models_registry.loading.sources import confinement as rules
from models_registry.loading.sources.bigquery_clients import (
    CALL,
    PASSING_REASONS,
    REMOTE_ERRORS,
    Clients,
    Endpoints,
    connect,
    explained,
)
from models_registry.loading.sources.bigquery_rows import SessionRows, open_session
from models_registry.loading.sources.confinement import Referenced, TableName
from models_registry.loading.sources.port import PARTITIONS, Confinement, Extract, Scratch, SourceProblem
from models_registry.models import ProblemCode

log = logging.getLogger(__name__)

# A result that a killed worker left behind is gone after this; a load is far shorter.
SCRATCH_LIFETIME = timedelta(hours=24)
PARTITION_COLUMN = "recsite_partition"
UNREADABLE_TYPES = frozenset({"RECORD", "STRUCT", "RANGE", "INTERVAL", "GEOGRAPHY"})


@dataclass(frozen=True)
class Limits:
    """What bounds a read: its time, and for queries what they may bill and where their results pass through."""

    time: timedelta
    max_bytes_billed: int
    scratch_dataset: str


@contextmanager
def open_table(
    location: str, confinement: Confinement, wanted: Sequence[str], *, endpoints: Endpoints, limits: Limits
) -> Iterator[Extract]:
    """Open a table as it is at this instant; the port's contract. Nothing is asked of BigQuery before it is allowed."""
    name = rules.bigquery_table(location, confinement.datasets)
    with connect(endpoints, name.project) as clients:
        with explained(f"the table “{name}”"):
            table = clients.rest.get_table(str(name), **CALL)
        if table.table_type != "TABLE":
            kind = str(table.table_type).replace("_", " ").lower()
            raise SourceProblem(f"“{name}” is a {kind}, not a table: read it through a query.")
        # A worker's clock that is behind must not hide what has just been written.
        snapshot_at = max(datetime.now(UTC), table.modified or datetime.min.replace(tzinfo=UTC))
        with _rows(clients, table, wanted, limits, snapshot_at=snapshot_at) as extract:
            yield extract


@contextmanager
def open_query(
    query: str,
    confinement: Confinement,
    wanted: Sequence[str],
    *,
    endpoints: Endpoints,
    limits: Limits,
    labels: Mapping[str, str],
) -> Iterator[Extract]:
    """Run a query and open its result; the port's contract.

    BigQuery says by a dry run what the query reads; all of it must be allowed. It says so once more when the query has
    run, before a row of the result is read, because a view may have been changed in between. The result passes through
    a table with an expiry, which is dropped after the read.
    """
    rules.require_datasets(confinement.datasets)
    rules.check_query_text(query)
    tags = {_label(key): _label(value) for key, value in labels.items()}
    with connect(endpoints, None) as clients:
        with explained("the query", missing="something that the query reads"):
            rehearsal = clients.rest.query(
                query,
                # A cached answer comes without the list of tables.
                job_config=bigquery.QueryJobConfig(dry_run=True, use_query_cache=False, labels=tags),
                job_retry=None,
                **CALL,
            )
        rules.check_referenced(referenced_by(rehearsal), confinement.datasets)
        if (rehearsal.total_bytes_processed or 0) > limits.max_bytes_billed:
            raise SourceProblem(
                f"The query would read {_gigabytes(rehearsal.total_bytes_processed)}, more than the "
                f"{_gigabytes(limits.max_bytes_billed)} that one query may read.",
                ProblemCode.SOURCE_OVER_LIMIT,
            )
        location = rehearsal.location or "US"
        result = _scratch_table(clients, location, limits, tags)
        try:
            job = _run_into(clients, result, query, location=location, limits=limits, tags=tags)
            rules.check_datasets(referenced_by(job, apart_from=result), confinement.datasets)
            with explained("the query's result"):
                table = clients.rest.get_table(str(result), **CALL)
            with _rows(clients, table, wanted, limits, snapshot_at=None, read_at=job.started) as extract:
                yield extract
        finally:
            _drop(clients, result)


@contextmanager
def _rows(
    clients: Clients,
    table: bigquery.Table,
    wanted: Sequence[str],
    limits: Limits,
    *,
    snapshot_at: datetime | None,
    read_at: datetime | None = None,
) -> Iterator[Extract]:
    """Open the wanted columns of a table: as of `snapshot_at`, or as they are if the table is our own."""
    name = TableName(table.project, table.dataset_id, table.table_id)
    columns = [field for field in table.schema if field.name in set(wanted)]
    for field in columns:
        if field.field_type in UNREADABLE_TYPES:
            raise SourceProblem(f"Column “{field.name}” is of type {field.field_type}, which cannot be read.")
    extra = tuple(field.name for field in table.schema if field.name not in set(wanted))
    if not columns:
        yield Extract(pa.schema([]), iter(()), table.num_rows, snapshot_at or read_at, extra)
        return
    session = open_session(
        clients.storage, name, [field.name for field in columns], payer=clients.rest.project, snapshot_at=snapshot_at
    )
    what = f"the table “{name}”" if snapshot_at else "the query's result"
    with closing(SessionRows(clients.storage, session, what=what, limit_seconds=limits.time.total_seconds())) as rows:
        yield Extract(
            schema=rows.schema,
            batches=iter(rows),
            rows_expected=session.estimated_row_count or table.num_rows,
            snapshot_at=snapshot_at or read_at,
            extra_columns=extra,
            partition=partial(_partition, clients, table, columns, limits, snapshot_at),
        )


# --- In parts, by many workers ----------------------------------------------------------------------------------------


def _partition(
    clients: Clients,
    table: bigquery.Table,
    columns: Sequence[bigquery.SchemaField],
    limits: Limits,
    snapshot_at: datetime | None,
    key_fields: Sequence[str],
    labels: Mapping[str, str],
) -> Scratch:
    """Have BigQuery copy the columns into a table partitioned by the first 10 bits of each row's digest."""
    tags = {_label(key): _label(value) for key, value in labels.items()}
    location = table.location or "US"
    result = _scratch_table(clients, location, limits, tags)
    key = ", CODE_POINTS_TO_STRING([31]), ".join(f"CAST(`{field}` AS STRING)" for field in key_fields)
    digest = f"CAST(CONCAT('0x', SUBSTR(TO_HEX(MD5(CONCAT({key}))), 1, 3)) AS INT64) >> 2"
    at = f" FOR SYSTEM_TIME AS OF TIMESTAMP '{snapshot_at.isoformat(sep=' ')}'" if snapshot_at is not None else ""
    # A row without a key has no digest; it must be read all the same, to be refused.
    chosen = ", ".join([*(f"`{field.name}`" for field in columns), f"IFNULL({digest}, 0) AS {PARTITION_COLUMN}"])
    query = f"SELECT {chosen} FROM `{table.project}.{table.dataset_id}.{table.table_id}`{at}"  # noqa: S608 - names that BigQuery gave
    partitioned = f"PARTITION BY RANGE_BUCKET({PARTITION_COLUMN}, GENERATE_ARRAY(0, {PARTITIONS}, 1))\n"
    _run_into(clients, result, query, location=location, limits=limits, tags=tags, partitioned=partitioned)
    with explained("the partitioned copy"):
        copy = clients.rest.get_table(str(result), **CALL)
    return Scratch(str(result), copy.num_rows)


@contextmanager
def open_partitions(
    scratch: str, first: int, end: int, wanted: Sequence[str], *, endpoints: Endpoints, limits: Limits
) -> Iterator[Extract]:
    """Open the rows of some partitions of a copy, and of no others."""
    name = TableName(*scratch.split("."))
    with connect(endpoints, name.project) as clients:
        with explained("the partitioned copy"):
            table = clients.rest.get_table(scratch, **CALL)
        session = open_session(
            clients.storage,
            name,
            [field.name for field in table.schema if field.name in set(wanted)],
            payer=clients.rest.project,
            snapshot_at=None,
            rows=f"{PARTITION_COLUMN} >= {first} AND {PARTITION_COLUMN} < {end}",
        )
        rows = SessionRows(
            clients.storage, session, what="the partitioned copy", limit_seconds=limits.time.total_seconds()
        )
        with closing(rows):
            yield Extract(rows.schema, iter(rows), None, None, ())


def drop_partitions(scratch: str, *, endpoints: Endpoints) -> None:
    """Drop a copy. Where that fails it expires by itself."""
    name = TableName(*scratch.split("."))
    with connect(endpoints, name.project) as clients:
        _drop(clients, name)


def referenced_by(job: bigquery.QueryJob, *, apart_from: TableName | None = None) -> Referenced:
    """Return what BigQuery says a job does and uses: tables, routines, property graphs."""
    named = (TableName(table.project, table.dataset_id, table.table_id) for table in job.referenced_tables)
    tables = [name for name in named if name != apart_from]
    # The client has no name for these two lists of the answer.
    statistics = job._properties.get("statistics", {}).get("query", {})  # noqa: SLF001
    others = [
        TableName(thing["projectId"], thing["datasetId"], thing[id_key])
        for list_key, id_key in (("referencedRoutines", "routineId"), ("referencedPropertyGraphs", "propertyGraphId"))
        for thing in statistics.get(list_key, ())
    ]
    return Referenced(
        statement=str(job.statement_type or ""),
        things=tuple((f"{thing.project}.{thing.dataset}", f"“{thing}”") for thing in tables + others),
        tables=len(tables),
    )


def _scratch_table(clients: Clients, location: str, limits: Limits, tags: Mapping[str, str]) -> TableName:
    """Return a new name in the scratch dataset of a location, making the dataset where it is missing."""
    project = clients.rest.project
    dataset_name = f"{limits.scratch_dataset}_{re.sub(r'[^a-z0-9]', '_', location.lower())}"
    with explained(f"the scratch dataset “{project}.{dataset_name}”"):
        try:
            clients.rest.get_dataset(f"{project}.{dataset_name}", **CALL)
        except NotFound:
            dataset = bigquery.Dataset(f"{project}.{dataset_name}")
            dataset.location = location
            dataset.default_table_expiration_ms = int(SCRATCH_LIFETIME.total_seconds() * 1000)
            dataset.labels = dict(tags)
            clients.rest.create_dataset(dataset, exists_ok=True, **CALL)
    return TableName(project, dataset_name, f"result_{uuid.uuid4().hex}")


def _run_into(
    clients: Clients,
    result: TableName,
    query: str,
    *,
    location: str,
    limits: Limits,
    tags: Mapping[str, str],
    partitioned: str = "",
) -> bigquery.QueryJob:
    """Run a query that has been found to be one SELECT, its rows becoming a table; return the finished job."""
    expires_at = (datetime.now(UTC) + SCRATCH_LIFETIME).strftime("%Y-%m-%d %H:%M:%S+00:00")
    table_labels = ", ".join(f'("{key}", "{value}")' for key, value in tags.items())
    statement = (
        f"CREATE TABLE `{result}`\n{partitioned}"
        f'OPTIONS (expiration_timestamp = TIMESTAMP "{expires_at}", labels = [{table_labels}])\n'
        # The new line ends a comment on the query's last line.
        f"AS\n{query.strip().rstrip(';')}\n"
    )
    config = bigquery.QueryJobConfig(
        labels=dict(tags),
        maximum_bytes_billed=limits.max_bytes_billed,
        job_timeout_ms=int(limits.time.total_seconds() * 1000),
    )
    with explained("the query", missing="something that the query reads"):
        job = clients.rest.query(statement, job_config=config, location=location, job_retry=None, **CALL)
        _wait(job, limits.time)
    if job.error_result is not None:
        passes = job.error_result.get("reason") in PASSING_REASONS
        raise SourceProblem(
            f"The query failed in BigQuery: {rules.shown(str(job.error_result.get('message'))).rstrip('.')}.",
            ProblemCode.SOURCE_UNAVAILABLE if passes else ProblemCode.SOURCE_UNREADABLE,
        )
    return job


def _wait(job: bigquery.QueryJob, limit: timedelta) -> None:
    deadline = time.monotonic() + limit.total_seconds()
    pause = 0.2
    try:
        while not job.done(**CALL):
            if time.monotonic() > deadline:
                raise SourceProblem(
                    f"The query took longer than {limit.total_seconds() / 60:.0f} minutes.", ProblemCode.TOOK_TOO_LONG
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 5.0)
    finally:
        if job.state != "DONE":
            _attempt("cancel the query", lambda: job.cancel(**CALL))


def _drop(clients: Clients, table: TableName) -> None:
    _attempt(f"drop {table}", lambda: clients.rest.delete_table(str(table), not_found_ok=True, **CALL))


def _attempt(what: str, act: Callable[[], object]) -> None:
    """Tidy up in BigQuery. Where that fails nothing is lost: jobs have a time limit and tables an expiry."""
    try:
        act()
    except REMOTE_ERRORS as error:
        log.warning("bigquery.tidy_failed what=%s error=%s", what, type(error).__name__)


def _label(text: str) -> str:
    """Return a text as BigQuery takes it for the key or value of a label."""
    return re.sub(r"[^a-z0-9_-]", "_", text.lower())[:63]


def _gigabytes(size_bytes: int | None) -> str:
    return f"{(size_bytes or 0) / 2**30:,.1f} GiB"
