"""Loading with Feast: a Parquet file materialized into Redis by its local engine, as its documentation has it.

Run by the Python of Feast's own environment, with a file, a port and a folder: the table of four fields with a column
`event_timestamp`, Valkey's port, and where the registry goes. Like the loader's process, it says `ready` when all is
imported and declared, waits for a line, and prints how long it took and its peak memory.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64, String

from benchmarks.machine import peak_memory_bytes


def declare(source: Path, port: str, folder: Path) -> FeatureStore:
    """Return a store whose one feature view is the table."""
    store = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "file"},
            online_store={"type": "redis", "connection_string": f"127.0.0.1:{port}"},
            entity_key_serialization_version=3,
        )
    )
    player = Entity(name="player", join_keys=["player_id"], value_type=ValueType.STRING)
    offers = FeatureView(
        name="offers",
        entities=[player],
        ttl=timedelta(days=1),
        schema=[
            Field(name="offer_id", dtype=Int64),
            Field(name="discount", dtype=Float64),
            Field(name="segment", dtype=String),
            Field(name="gems", dtype=Int64),
        ],
        source=FileSource(path=str(source), timestamp_field="event_timestamp"),
    )
    store.apply([player, offers])
    return store


def main() -> None:
    """Do as the command line says."""
    source, port, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    store = declare(source, port, folder)
    said, sys.stdout = sys.stdout, sys.stderr  # Feast tells of its progress where the figures go
    print("ready", file=said, flush=True)
    sys.stdin.readline()
    now = datetime.now(UTC)
    began = time.perf_counter()
    store.materialize(start_date=now - timedelta(days=1), end_date=now)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory_bytes()}), file=said, flush=True)


if __name__ == "__main__":
    main()
