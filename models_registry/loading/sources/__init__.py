"""Where rows come from: Parquet files and BigQuery, each confined to what staff allow the studio.

The only package that imports Google's client.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from django.conf import settings

from models_registry.loading.sources import parquet
from models_registry.loading.sources.port import Confinement, Extract, SourceProblem

__all__ = ["Confinement", "Extract", "SourceProblem", "open_source"]


@contextmanager
def open_source(
    kind: str, location: str, confinement: Confinement, wanted: Sequence[str], *, labels: Mapping[str, str]
) -> Iterator[Extract]:
    """Open a source for reading, after checking that its studio may read it.

    Args:
        kind: one of `models_registry.models.SourceKind`.
        location: a path or glob (local or `gs://`), `project.dataset.table`, or the text of a query.
        confinement: what the studio may read.
        wanted: the columns to read. One that is missing is not in the extract's schema; that is no error here.
        labels: what a job in BigQuery is labelled with, so that its costs can be told apart.

    Raises:
        SourceProblem: it may not be read, is not there, cannot be reached, or is damaged; also while it is read.
    """
    if kind == "parquet":
        with parquet.open_parquet(location, confinement, wanted, gcs_endpoint=settings.GCS_ENDPOINT) as extract:
            yield extract
        return
    raise SourceProblem(f"“{kind}” is not a kind of source.")
