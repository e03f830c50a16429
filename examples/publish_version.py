"""Publishes a trained version: makes it if it is new, loads its rows, waits, prints the report. Needs Python alone.

    RECSITE_TOKEN=rsa_… python examples/publish_version.py --url https://recsite.example --model offers \
        --version 2026-11-a --kind bigquery_table --location my-project.recommendations.offers_2026_11_a

The token needs the scopes `read`, `versions:write` and `loads:run`. It exits 1 if the rows are not served in the end.

In Airflow, `publish` is the body of a task; the run's id makes every retry of the task the same request, so that a
retry after a lost answer starts nothing twice:

    @task(retries=3)
    def publish_offers(run_id: str) -> int:
        api = Api("https://recsite.example", Variable.get("recsite_token"))
        load = publish(api, "offers", "2026-11-a", {"kind": "bigquery_table", "location": "…"}, run=run_id)
        return load["rows_written"]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

POLL_SECONDS = 2.0
ATTEMPTS = 5


class Refused(Exception):
    """The API said no; asking again would not help. `problem` is its problem document."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail", "no detail"))
        self.problem = problem


class NotServed(Exception):
    """The load ended, and the new rows are not served; `load` says why."""

    def __init__(self, load: dict[str, Any]) -> None:
        super().__init__(f"{load['state']}: {load['problem']}")
        self.load = load


class OtherSource(Exception):
    """The version is there already, and reads something else: its load would serve other rows than the ones given."""


class Api:
    """The API of one studio: the one that the token belongs to."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def get(self, path: str) -> Any:
        """Read something."""
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any], *, key: str) -> Any:
        """Do something, once: whoever sends the same key again gets the same answer."""
        return self._ask("POST", path, body, key)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> Any:
        """Send a request; again, a little later each time, if the answer is lost or says to come back."""
        headers = {"Authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        if key is not None:
            headers["Idempotency-Key"] = key
        for attempt in range(1, ATTEMPTS + 1):
            request = urllib.request.Request(f"{self._url}/api/v1/{path}", data, headers, method=method)  # noqa: S310 - the operator's own address
            try:
                with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem = self._problem(error)
                is_for_later = error.code in (429, 502, 503, 504) or problem["code"] == "request_in_progress"
                if attempt == ATTEMPTS or not is_for_later:
                    raise Refused(problem) from None
                wait_seconds = float(error.headers.get("Retry-After", attempt))
            except OSError:
                if attempt == ATTEMPTS:
                    raise
                wait_seconds = float(attempt)
            time.sleep(wait_seconds)
        raise AssertionError("the last attempt returns or raises")

    @staticmethod
    def _problem(error: urllib.error.HTTPError) -> dict[str, Any]:
        """Return the problem document; a proxy before the API may have answered with something else."""
        try:
            problem: dict[str, Any] = json.load(error)
        except ValueError:
            return {"status": error.code, "code": "", "detail": f"HTTP {error.code}"}
        return problem


def publish(
    api: Api, model: str, version: str, source: dict[str, str], *, run: str, is_dry_run: bool = False
) -> dict[str, Any]:
    """Make the version if there is none, load its rows, and wait until they are served; give the load.

    Args:
        api: of the studio.
        model: its short name.
        version: its name, in this model.
        source: `kind` and `location` of its rows; a version that is there already must have this very one.
        run: names this run; a retry of it must give the same.
        is_dry_run: only read and check the rows; what is served stays as it is.

    Raises:
        NotServed: a check rejected the rows, or the load failed; the rows before are served on.
        OtherSource: the version is there already, with another source; nothing is loaded.
        Refused: the API said no.
    """
    address = f"models/{model}/versions/{version}"
    try:
        has = api.get(address)["source"]
    except Refused as refused:
        if refused.problem["code"] != "not_found":
            raise
        made = api.post(f"models/{model}/versions", {"name": version, "source": source}, key=f"{run}-version")
        has = made["source"]
    if has is None or (has["kind"], has["location"].strip()) != (source["kind"], source["location"].strip()):
        reads = f"reads {has['kind']} {has['location']}" if has else "has no source"
        raise OtherSource(
            f"{model}/{version} {reads}, not {source['kind']} {source['location']}. "
            "Publish under a new version name, or change the source of this one first."
        )
    load = api.post(f"{address}/loads", {"dry_run": is_dry_run}, key=f"{run}-load")
    while not load["is_finished"]:
        time.sleep(POLL_SECONDS)
        load = api.get(f"{address}/loads/{load['fence']}")
        print(f"{load['state']}: {load['rows_read']:,} rows read", flush=True)
    if load["state"] != ("checked" if is_dry_run else "active"):
        raise NotServed(load)
    return dict(load)


def show_report(load: dict[str, Any]) -> None:
    """Print what the load's checks found, with samples of the rows that failed."""
    for check in load["report"].get("checks", []):
        print(f"{'ok  ' if check['passed'] else 'FAIL'} {check['name']}: {check['words']}")
        for sample in check["samples"]:
            print(f"       row {sample['row']}, key {sample['key']!r}: {sample['value']}")
    for note in load["report"].get("notes", []):
        print(f"note {note}")


def main() -> int:
    """Publish what the command line says."""
    parser = argparse.ArgumentParser(description="Publish a trained version.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--kind", choices=["parquet", "bigquery_table", "bigquery_query"], required=True)
    parser.add_argument("--location", required=True)
    parser.add_argument("--run", default=f"by-hand-{int(time.time())}", help="names this run, for retries")
    parser.add_argument("--dry-run", action="store_true", help="only read and check the rows; serve nothing new")
    asked = parser.parse_args()
    api = Api(asked.url, os.environ["RECSITE_TOKEN"])
    source = {"kind": asked.kind, "location": asked.location}
    try:
        load = publish(api, asked.model, asked.version, source, run=asked.run, is_dry_run=asked.dry_run)
    except NotServed as error:
        show_report(error.load)
        print(f"Not {'passed' if asked.dry_run else 'served'}: {error}", file=sys.stderr)
        return 1
    except OtherSource as error:
        print(f"Not loaded: {error}", file=sys.stderr)
        return 1
    except Refused as error:
        print(f"Refused: {error} ({error.problem['code']})", file=sys.stderr)
        return 1
    show_report(load)
    done, rows = ("Checked", load["rows_read"]) if asked.dry_run else ("Served", load["rows_written"])
    print(f"{done}: {rows:,} rows of {asked.model}/{asked.version} (load {load['fence']}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
