"""Each kind of source as a store that a test can put rows into, to be read back through the port."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery as google

from models_registry.loading.sources import Confinement, Extract, open_source
from tests.bigquery.emulator import PROJECT, BigQuery
from tests.contract.gcs_server import serve_gcs

NOTHING = Confinement((), (), ())
_OUT = replace(NOTHING, gs_prefixes=("gs://studio-tables/out",))
_OUTER = replace(NOTHING, gs_prefixes=("gs://studio-tables/outer",))
_DATASET = replace(NOTHING, datasets=(f"{PROJECT}.contract",))
_OTHER_DATASETS = replace(NOTHING, datasets=(f"{PROJECT}.contract2", f"{PROJECT}x.contract"))


class Store(Protocol):
    """One implementation of the port with something behind it."""

    @property
    def kind(self) -> str:
        """The kind of source."""

    @property
    def allowed(self) -> Confinement:
        """What lets a studio read here."""

    @property
    def elsewhere(self) -> Confinement:
        """What lets a studio read a neighbour of this store instead."""

    @property
    def has_snapshot(self) -> bool:
        """Whether the source says as of when it was read."""

    def put(self, table: pa.Table) -> str:
        """Store rows; gives the location they are read from."""

    @property
    def missing(self) -> str:
        """A location inside the allowed store at which there is nothing."""


@contextmanager
def opened(
    store: Store, location: str, wanted: Sequence[str], confinement: Confinement | None = None
) -> Iterator[Extract]:
    """Open a location of a store, with what the store allows unless said otherwise."""
    source: AbstractContextManager[Extract] = open_source(
        store.kind, location, confinement or store.allowed, wanted, labels={"load": "contract"}
    )
    with source as extract:
        yield extract


@dataclass
class LocalFiles:
    folder: Path
    kind: str = "parquet"
    has_snapshot: bool = False

    @property
    def allowed(self) -> Confinement:
        return replace(NOTHING, local_roots=(str(self.folder),))

    @property
    def elsewhere(self) -> Confinement:
        return replace(NOTHING, local_roots=(f"{self.folder}-of-somebody-else",))

    @property
    def missing(self) -> str:
        return f"{self.folder}/nothing/*.parquet"

    def put(self, table: pa.Table) -> str:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        _write_halves(table, folder)
        return f"{folder}/*.parquet"


@dataclass
class CloudFiles:
    folder: Path
    kind: str = "parquet"
    has_snapshot: bool = False
    allowed: Confinement = _OUT
    elsewhere: Confinement = _OUTER
    missing: str = "gs://studio-tables/out/nothing/*.parquet"

    def put(self, table: pa.Table) -> str:
        name = uuid.uuid4().hex
        folder = self.folder / "studio-tables" / "out" / name / "day=1"
        folder.mkdir(parents=True)
        _write_halves(table, folder)
        return f"gs://studio-tables/out/{name}/*/*.parquet"


@dataclass
class BigQueryTables:
    bigquery: BigQuery
    kind: str = "bigquery_table"
    has_snapshot: bool = True
    allowed: Confinement = _DATASET
    elsewhere: Confinement = _OTHER_DATASETS
    missing: str = f"{PROJECT}.contract.nothing"

    def put(self, table: pa.Table) -> str:
        return put_bigquery(self.bigquery, "contract", f"t_{uuid.uuid4().hex}", table)


@dataclass
class BigQueryQueries(BigQueryTables):
    kind: str = "bigquery_query"
    missing: str = "SELECT * FROM `studio-data.contract.nothing`"

    def put(self, table: pa.Table) -> str:
        return f"SELECT * -- the studio's own remark\nFROM `{super().put(table)}`;\n"


def put_bigquery(bigquery: BigQuery, dataset: str, name: str, table: pa.Table) -> str:
    """Write a table with Google's own client, from Parquet, and give its full name."""
    full_name = f"{PROJECT}.{dataset}.{name}"
    bigquery.client.create_dataset(f"{PROJECT}.{dataset}", exists_ok=True)
    bigquery.client.create_table(google.Table(full_name, schema=[_field(field) for field in table.schema]))
    if table.num_rows:
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        buffer.seek(0)
        config = google.LoadJobConfig(source_format=google.SourceFormat.PARQUET)
        bigquery.client.load_table_from_file(buffer, full_name, job_config=config).result()
    return full_name


def _field(field: pa.Field) -> google.SchemaField:
    is_list = pa.types.is_list(field.type)
    names = {
        "string": "STRING",
        "int64": "INT64",
        "double": "FLOAT64",
        "bool": "BOOL",
        "decimal128(38, 9)": "NUMERIC",
        "timestamp[us, tz=UTC]": "TIMESTAMP",
        "date32[day]": "DATE",
    }
    kind = names[str(field.type.value_type if is_list else field.type)]
    return google.SchemaField(field.name, kind, mode="REPEATED" if is_list else "NULLABLE")


def _write_halves(table: pa.Table, folder: Path) -> None:
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), folder / "part-0.parquet")
    pq.write_table(table.slice(half), folder / "part-1.parquet")


@contextmanager
def cloud_files(folder: Path) -> Iterator[tuple[CloudFiles, str]]:
    """Serve a folder as Cloud Storage; gives the store and the address."""
    with serve_gcs(folder) as url:
        yield CloudFiles(folder), url
