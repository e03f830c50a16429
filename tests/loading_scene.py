"""A studio with one version whose source is a Parquet file, and ways to look at what a load made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis
from django.conf import settings

from models_registry.loading.running import run_load
from models_registry.loading.tables import TableInRedis
from models_registry.models import Load, Table, Version
from serving.formats.blocks import find_payload
from serving.formats.keys import block_name, canonical_key, digest, locate
from serving.formats.layouts import Layout
from serving.redis.clients import Client
from tenants.models import Tenant
from tests import factories

FIELDS: list[dict[str, Any]] = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "discount", "type": "decimal", "min": 0, "max": 1, "step": 0.01},
    {"name": "segment", "type": "enum", "values": ["new", "loyal"]},
    {"name": "items", "type": "list", "max_items": 3, "item": {"type": "uint", "min": 0, "max": 999}},
    {"name": "title", "type": "string", "max_bytes": 20, "optional": True},
]


def row(number: int) -> dict[str, Any]:
    """Return the row of player `number`."""
    return {
        "player_id": f"p{number}",
        "offer_id": number % 4096,
        "discount": number % 101 / 100,
        "segment": "new" if number % 2 else "loyal",
        "items": [(number * 7 + i) % 1000 for i in range(number % 4)],
        "title": None if number % 3 else f"Angebot {number} ☀",
    }


def columns(numbers: Sequence[int], **changes: Any) -> dict[str, Any]:
    """Return the rows of some players as columns; `changes` replaces whole columns."""
    rows = [row(number) for number in numbers]
    return {name: [r[name] for r in rows] for name in rows[0]} | changes if rows else changes


class Scene:
    """The studio's version and its source.

    Args:
        folder: where the Parquet files lie; the studio may read it.
        fields: of the layout.
        key_fields: of the model.
    """

    def __init__(
        self, folder: Path, *, fields: list[dict[str, Any]] | None = None, key_fields: Sequence[str] = ("player_id",)
    ) -> None:
        self.folder = folder
        self.tenant: Tenant = factories.TenantFactory.create(slug="red-fox", allowed_local_roots=[str(folder)])
        self.model = factories.ModelFactory.create(
            tenant=self.tenant, slug="offers", key_fields=list(key_fields), unit_field="", default_answer=None
        )
        layout = factories.LayoutFactory.create(model=self.model, fields=fields or FIELDS)
        self.version: Version = factories.VersionFactory.create(model=self.model, layout=layout, name="a")
        factories.RolloutRevisionFactory.create(model=self.model)
        self.source = factories.SourceFactory.create(version=self.version, location=str(folder / "rows.parquet"))
        self.layout = Layout.parse(layout.fields)

    def write(self, data: Mapping[str, Any] | pa.Table, name: str = "rows.parquet") -> None:
        """Write the source's file."""
        table = data if isinstance(data, pa.Table) else pa.table({k: _array(v) for k, v in data.items()})
        pq.write_table(table, self.folder / name)

    def queue(self, **values: Any) -> Load:
        """Make a queued load, as `load_request` does; `values` are fields of it."""
        self.version.refresh_from_db()
        self.version.last_fence += 1
        self.version.save(update_fields=["last_fence"])
        load: Load = factories.LoadFactory.create(
            version=self.version, fence=self.version.last_fence, source_location=self.source.location, **values
        )
        return load

    def load(self, data: Mapping[str, Any] | pa.Table | None = None, **values: Any) -> Load:
        """Write the source's file, load it, and give the load as it ended; `values` are fields of the load."""
        if data is not None:
            self.write(data)
        load = self.queue(**values)
        run_load(load.pk)
        load.refresh_from_db()
        return load


def _array(values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)


def answer(client: Client, scene: Scene, table: Table, *key: str) -> dict[str, Any] | None:
    """Look a key up as serving does."""
    number, fingerprint = locate(digest(canonical_key(key)), table.block_bits)
    block: Any = client.get(block_name(settings.REDIS_PREFIX, table.table_id, number))
    assert block is not None, "a block is missing"
    seal = TableInRedis.of(table).seal
    if seal is not None:
        block = seal.opened(number, block)
        assert block is not None, "a seal is not good"
    payload = find_payload(block, fingerprint, scene.layout.payload_width)
    return None if payload is None else scene.layout.unpack(payload)


def blocks_of(client: redis.Redis, table_id: str) -> int:
    """Count the blocks of a table that Redis holds."""
    return sum(1 for _ in client.scan_iter(f"{settings.REDIS_PREFIX}:t:{table_id}:*", count=1000))


def all_blocks(client: redis.Redis) -> int:
    """Count the blocks of all tables."""
    return sum(1 for _ in client.scan_iter(f"{settings.REDIS_PREFIX}:t:*", count=1000))
