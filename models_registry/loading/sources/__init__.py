"""Where rows come from: Parquet files and BigQuery, each confined to what staff allow the studio.

The only package that imports Google's client.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, assert_never

from django.conf import settings

from models_registry.loading.sources import parquet
from models_registry.loading.sources.port import PARTITIONS, Confinement, Extract, Scratch, SourceProblem
from models_registry.models import SourceKind

__all__ = [
    "PARTITIONS",
    "Confinement",
    "Extract",
    "Scratch",
    "SourceProblem",
    "drop_partitions",
    "open_partitions",
    "open_source",
]


def open_source(
    kind: str,
    location: str,
    confinement: Confinement,
    wanted: Sequence[str],
    *,
    labels: Mapping[str, str],
    optional: Collection[str] = (),
    texts: Collection[str] = (),
) -> AbstractContextManager[Extract]:
    """Open a source for reading, after checking that its studio may read it.

    Args:
        kind: one of `models_registry.models.SourceKind`.
        location: a path or glob (local or `gs://`), `project.dataset.table`, or the text of a query.
        confinement: what the studio may read.
        wanted: the columns to read. One that is missing is not in the extract's schema; that is no error here.
        optional: those of them that may be missing in some of several files.
        texts: those that are wanted as texts, also where a file has bytes or UUIDs, or a folder's name such as `day=7`.
        labels: what a job in BigQuery is labelled with, so that its costs can be told apart.

    Raises:
        SourceProblem: it may not be read, is not there, cannot be reached, or is damaged; also while it is read.
    """
    if kind not in SourceKind.values:
        raise SourceProblem(f"“{kind}” is not a kind of source.")
    known = SourceKind(kind)
    if known is SourceKind.PARQUET:
        return parquet.open_parquet(
            location, confinement, wanted, gcs_endpoint=settings.GCS_ENDPOINT, optional=optional, texts=texts
        )
    # Google's client takes a second to import, which a process that never reads BigQuery need not spend.
    from models_registry.loading.sources import bigquery  # noqa: PLC0415

    endpoints, limits = _bigquery_settings()
    match known:
        case SourceKind.BIGQUERY_TABLE:
            return bigquery.open_table(location, confinement, wanted, endpoints=endpoints, limits=limits)
        case SourceKind.BIGQUERY_QUERY:
            return bigquery.open_query(location, confinement, wanted, endpoints=endpoints, limits=limits, labels=labels)
        case unknown:
            assert_never(unknown)


def open_partitions(scratch: str, first: int, end: int, wanted: Sequence[str]) -> AbstractContextManager[Extract]:
    """Open a range of partitions of the copy that `Extract.partition` made.

    Raises:
        SourceProblem: it is not there, or cannot be reached; also while it is read.
    """
    from models_registry.loading.sources import bigquery  # noqa: PLC0415 - see `open_source`

    endpoints, limits = _bigquery_settings()
    return bigquery.open_partitions(scratch, first, end, wanted, endpoints=endpoints, limits=limits)


def drop_partitions(scratch: str) -> None:
    """Drop such a copy; one that is gone does no harm.

    Raises:
        SourceProblem: BigQuery has no use for the credentials.
    """
    from models_registry.loading.sources import bigquery  # noqa: PLC0415 - see `open_source`

    bigquery.drop_partitions(scratch, endpoints=_bigquery_settings()[0])


def _bigquery_settings() -> tuple[Any, Any]:
    from models_registry.loading.sources import bigquery, bigquery_clients  # noqa: PLC0415 - as above

    endpoints = bigquery_clients.Endpoints(
        settings.BIGQUERY_PROJECT, settings.BIGQUERY_API_ENDPOINT, settings.BIGQUERY_STORAGE_ENDPOINT
    )
    limits = bigquery.Limits(
        settings.LOAD_TIME_LIMIT, settings.BIGQUERY_MAX_BYTES_BILLED, settings.BIGQUERY_SCRATCH_DATASET
    )
    return endpoints, limits
