"""Redis as serving sees it: addresses, clients, topology, and the reader of blocks."""

import sys

# Where OpenTelemetry is installed redis-py loads its metrics, which nobody turns on here: 0.1 s of every start.
sys.modules.setdefault("opentelemetry.sdk.metrics", None)  # type: ignore[arg-type]  # Python's “not there”
