"""What `make bench-loading` loads: two tables as Parquet, and a studio whose versions read them.

The rows are made by DuckDB from a hash of their number, because the demo's generator, which can compute any single
row again, would take minutes for 20,000,000 of them. Their layouts are what matters here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.world import WorldProblem
from examples.generate import example_of
from models_registry.catalogue.services import model_create, version_create
from models_registry.loading.requests import load_request
from models_registry.models import Load, LoadState, RecommendationModel, SourceKind, Table, Version
from recsite.demo.data import PEOPLE, make_people
from tenants.models import User
from tenants.services import tenant_create

STUDIO = "benchmark"


@dataclass(frozen=True)
class Kind:
    """One of the two tables.

    Attributes:
        name: in file names and figures.
        title: in tables.
        layout: its fields.
    """

    name: str
    title: str
    layout: tuple[dict[str, Any], ...]


FIELDS = Kind(
    "fields",
    "4 fields",
    (
        {"name": "offer_id", "type": "uint", "min": 1, "max": 5000},
        {"name": "discount", "type": "decimal", "min": 0, "max": "0.75", "step": "0.05"},
        {"name": "segment", "type": "enum", "values": ["newcomer", "regular", "collector", "spender"]},
        {"name": "gems", "type": "uint", "min": 0, "max": 100_000},
    ),
)
LISTS = Kind("lists", "demo's list layout", example_of("aurora", "offers").layout)
KINDS = (FIELDS, LISTS)


def parquet_of(data: Path, kind: Kind, rows: int) -> Path:
    """Return a table's file; it is written where there is none. About 2 s a million rows."""
    path = data / STUDIO / f"{kind.name}-{rows}.parquet"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    columns = ", ".join(f"{_expression(field, field['name'])} AS {field['name']}" for field in kind.layout)
    key = "'p' || lpad(number::VARCHAR, 8, '0') AS player_id"
    query = f"SELECT {key}, {columns} FROM range({rows}) AS numbers(number)"  # noqa: S608 - names of the layouts above
    with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(path.parent)}) as database:
        database.execute(f"COPY ({query}) TO '{unfinished}' (FORMAT parquet)")
    unfinished.replace(path)
    return path


def with_timestamps(source: Path, path: Path) -> Path:
    """Write a table once more with a column of the time at which each row was made, an hour ago; give its file."""
    query = f"SELECT *, now() - INTERVAL 1 HOUR AS event_timestamp FROM '{source}'"  # noqa: S608 - a path of `parquet_of`
    with duckdb.connect() as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


def _expression(field: Mapping[str, Any], salt: str) -> str:
    """Return SQL for a field's value in the row of a number."""
    word = f"hash(number, '{salt}')"
    match field["type"]:
        case "uint":
            return f"({field['min']} + {word} % {field['max'] - field['min'] + 1})::BIGINT"
        case "enum":
            return f"({field['values']})[1 + ({word} % {len(field['values'])})::INT]"
        case "decimal":
            low, high, step = (Decimal(field[name]) for name in ("min", "max", "step"))
            return f"({low} + {step} * ({word} % {int((high - low) / step) + 1})::INT)::DECIMAL(18, 2)"
        case "list":
            every = ", ".join(_expression(field["item"], f"{salt}{index}") for index in range(field["max_items"]))
            return f"([{every}])[1:({word} % {field['max_items'] + 1})::INT]"
        case other:
            raise NotImplementedError(f"no table here has a field of type {other}")


def make_models(data: Path) -> dict[str, RecommendationModel]:
    """Make the studio and a model for each kind of table; give these by the kind's name."""
    make_people({})
    actor = User.objects.get(username=PEOPLE["admin"])
    (data / STUDIO).mkdir(parents=True, exist_ok=True)
    tenant = tenant_create(slug=STUDIO, name="Benchmark", actor=actor, allowed_local_roots=[str(data / STUDIO)])
    return {
        kind.name: model_create(
            tenant=tenant,
            slug=kind.name,
            name=kind.title,
            key_fields=("player_id",),
            layout=kind.layout,
            unit_field="player_id",
            actor=actor,
        )
        for kind in KINDS
    }


def make_version(model: RecommendationModel, path: Path) -> Version:
    """Make a further version of a model, with a file as its source."""
    number = Version.objects.for_tenant(model.tenant).filter(model=model).count()
    return version_create(
        model=model, name=f"v{number}", source_kind=SourceKind.PARQUET, source_location=str(path), actor=None
    )


def queue_load(version: Version) -> int:
    """Queue a load of a version; give its id. No worker of Celery's hears of it here."""
    version.refresh_from_db()
    return load_request(version=version, actor=None).pk


def ended(load_id: int) -> tuple[Load, Table]:
    """Return a load that became active, and its table.

    Raises:
        WorldProblem: it did not.
    """
    load = Load.objects.unscoped().select_related("version").get(pk=load_id)
    if load.state != LoadState.ACTIVE:
        raise WorldProblem(f"A load ended {load.state}: {load.problem}")
    return load, Table.objects.unscoped().get(load=load)
