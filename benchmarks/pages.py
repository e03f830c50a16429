"""How long the server takes for each page of the dashboard, and how many queries it makes: `make bench-pages`.

Fills a database of its own (SQLite, or the empty one that `--database` names) as `pages_data` says, asks every page
that the URLconf has, as a studio's admin or, outside a studio, as platform staff, and prints the median and the 95th
percentile. A page is over its budget at 200 ms (median) or 15 queries; then the command ends with 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from recsite.embedded import EmbeddedValkey
from recsite.environment import BASE_DIR

if TYPE_CHECKING:
    from django.test import Client

BUDGET_MS, BUDGET_QUERIES = 200, 15
WARM_UP = 2


class Timing(NamedTuple):
    """What asking one page often gave."""

    url: str
    status: int
    median_ms: float
    p95_ms: float
    queries: int
    size_bytes: int

    @property
    def is_over(self) -> bool:
        """Tell whether it is too slow, or asks too much."""
        return self.median_ms > BUDGET_MS or self.queries > BUDGET_QUERIES


def main() -> int:
    """Measure, print, and give the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--studios", type=int, default=50)
    arguments.add_argument("--times", type=int, default=15, help="how often each page is asked")
    arguments.add_argument("--database", help="URL of an empty database, instead of a new SQLite file")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsite-pages-") as folder:
        valkey = EmbeddedValkey(Path(folder) / "valkey", options=("--save", "", "--appendonly", "no")).start()
        try:
            os.environ |= {
                "DJANGO_SETTINGS_MODULE": "recsite.settings",
                "RECSITE_ENV_FILE": str(BASE_DIR / "tests" / "test.env"),
                "RECSITE_DATABASE_URL": asked.database or f"sqlite:///{folder}/pages.sqlite3",
                "RECSITE_REDIS_URL": valkey.url,
                "RECSITE_VAR_DIR": folder,
                "RECSITE_LOG_LEVEL": "ERROR",
            }
            return _measure(asked.studios, asked.times)
        finally:
            valkey.stop()


def _measure(studios: int, times: int) -> int:
    import django  # noqa: PLC0415  # reads its settings, which were made above

    warnings.filterwarnings("ignore", "No directory at", UserWarning)  # Whitenoise's: nothing was collected for this
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415  # as above
    from django.test import Client  # noqa: PLC0415  # as above

    from benchmarks.pages_data import Amount, fill  # noqa: PLC0415  # as above
    from benchmarks.pages_routes import STAFF, urls  # noqa: PLC0415  # as above
    from tenants.models import User  # noqa: PLC0415  # as above

    began = time.monotonic()
    call_command("migrate", verbosity=0)
    fill(Amount(studios=studios))
    print(f"Filled the database of {studios} studios in {time.monotonic() - began:.0f} s.\n")
    clients = {name: Client(SERVER_NAME="localhost") for name in ("owner0", "staff")}
    for name, client in clients.items():
        client.force_login(User.objects.get(username=name))
    print(f"{'page':<64} {'status':>6} {'median':>9} {'p95':>9} {'queries':>8} {'size':>8}")
    timings = []
    for name, url in urls():
        timing = _ask(clients["staff" if name in STAFF else "owner0"], url, times)
        if timing.status == 405:
            continue
        timings.append(timing)
        over = "  OVER" if timing.is_over else ""
        print(
            f"{url:<64} {timing.status:>6} {timing.median_ms:>6.0f} ms {timing.p95_ms:>6.0f} ms {timing.queries:>8}"
            f" {timing.size_bytes / 1000:>5.0f} kB{over}"
        )
    over_budget = [timing for timing in timings if timing.is_over]
    print(f"\n{len(timings)} pages, {len(over_budget)} over {BUDGET_MS} ms or {BUDGET_QUERIES} queries.")
    return 1 if over_budget else 0


def _ask(client: Client, url: str, times: int) -> Timing:
    from django.db import connection  # noqa: PLC0415  # Django is set up by now
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415  # as above

    with CaptureQueriesContext(connection) as queries:
        answer = client.get(url)
        size_bytes = len(answer.getvalue())
    count = len(queries)  # at once: the next request begins a new log
    for _ in range(WARM_UP):
        client.get(url)
    took = sorted(_timed(client, url, times))
    p95 = took[min(len(took) - 1, round(0.95 * (len(took) - 1)))]
    return Timing(url, answer.status_code, statistics.median(took), p95, count, size_bytes)


def _timed(client: Client, url: str, times: int) -> Iterator[float]:
    for _ in range(times):
        began = time.perf_counter()
        client.get(url).getvalue()
        yield 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
