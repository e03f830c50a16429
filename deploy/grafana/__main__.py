"""Writes the dashboards: `PYTHONPATH=deploy python -m grafana`; `-m grafana FOLDER` writes them somewhere else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana.business import BUSINESS
from grafana.loads import LOADS
from grafana.redis import REDIS
from grafana.service import SERVICE

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("dashboards")
for dashboard in (SERVICE, BUSINESS, LOADS, REDIS):
    text = json.dumps(dashboard.as_json(), indent=1, ensure_ascii=False)
    (folder / f"{dashboard.name}.json").write_text(f"{text}\n")
