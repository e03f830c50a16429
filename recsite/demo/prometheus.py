"""Prometheus beside the demo, for `--metrics`: it scrapes lane and dashboard, and has the alerts of an installation."""

from __future__ import annotations

import json
import shutil

from recsite.demo.demo_file import write_private
from recsite.demo.processes import Part, http_status
from recsite.demo.site import DemoSite
from recsite.environment import BASE_DIR

RULES = BASE_DIR / "deploy" / "alerts" / "rules.yaml"
# Also how long an answer may take, which a busy machine needs.
SCRAPE_SECONDS = 2


class PrometheusMissing(RuntimeError):
    """There is no Prometheus on this machine; the message says how to get it."""


def find_prometheus() -> str:
    """Return the path of Prometheus' program.

    Raises:
        PrometheusMissing: there is none on PATH.
    """
    found = shutil.which("prometheus")
    if found is None:
        raise PrometheusMissing(
            "Prometheus is not on PATH. On Debian and Ubuntu: apt-get install prometheus; on macOS: brew install "
            "prometheus. `make demo` runs without it."
        )
    return found


def prometheus_part(program: str, site: DemoSite) -> Part:
    """Return the part that runs it; its data and its configuration, which holds the token, are below `var`."""
    folder = site.var_dir / "prometheus"
    folder.mkdir(exist_ok=True)
    jobs = [
        {"job_name": "recsite-lane", "static_configs": [{"targets": [f"127.0.0.1:{site.metrics_port}"]}]},
        {
            "job_name": "recsite-dashboard",
            "authorization": {"credentials": site.metrics_token},
            "static_configs": [{"targets": [f"127.0.0.1:{site.dashboard_port}"]}],
        },
    ]
    every = f"{SCRAPE_SECONDS}s"
    configuration = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [str(RULES)],
        "scrape_configs": jobs,
    }
    # JSON is YAML.
    write_private(folder / "prometheus.yaml", json.dumps(configuration, indent=2))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{site.prometheus_port}",
        "--log.level=warn",
    ]
    log = site.log_dir / "prometheus.log"
    return Part("prometheus", command, log, answers=lambda: http_status(f"{site.prometheus_url}/-/ready") == 200)
