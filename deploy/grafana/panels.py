"""What a dashboard is to Grafana (10 or newer): panels in rows, variables, links, as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# Grafana 10.0's; newer ones bring a dashboard up to date when they read it.
SCHEMA_VERSION = 38
WIDTH = 24
HEIGHTS = {"stat": 4, "timeseries": 8, "table": 8}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# One meaning, one colour, on every dashboard, of series that are named by one of these labels alone. Others get theirs
# from Grafana's palette.
_GOOD, _DEFAULT, _NONE, _FALLBACK = "green", "yellow", "text", "orange"
_WRONG, _TOO_MANY, _ERROR = "blue", "purple", "red"
_ANSWERS = {"default": _DEFAULT, "none": _NONE, "fallback": _FALLBACK}
COLOURS: Mapping[str, Mapping[str, str]] = {
    "{{class}}": {"ok": _GOOD, **_ANSWERS, "4xx": _WRONG, "429": _TOO_MANY, "5xx": _ERROR},
    "{{source}}": {"table": _GOOD, **_ANSWERS},
    "{{status}}": {"200": _GOOD, "204": _NONE, "401": _WRONG, "429": _TOO_MANY, "500": _ERROR, "503": _ERROR},
    "{{state}}": {
        "active": _GOOD,
        "checked": _DEFAULT,
        "rejected": _TOO_MANY,
        "failed": _ERROR,
        "cancelled": _WRONG,
        "superseded": _NONE,
    },
}


@dataclass(frozen=True)
class Query:
    """One question to Prometheus.

    Attributes:
        legend: the name of each series; labels in double braces.
        is_dashed: drawn as a dashed line, for what is set rather than seen.
    """

    expr: str
    legend: str = ""
    is_dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        unit: Grafana's name of it.
        runbooks: names of the alerts that are about it.
        is_stacked: the series add up to something.
        bad_from: from this value on it is red, of a stat; below it where `is_bad_below`.
        columns: of a table: each query's column, and its unit.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    runbooks: Sequence[str] = ()
    is_stacked: bool = False
    bad_from: float | None = None
    is_bad_below: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it without its place."""
        return {
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "links": [
                {"title": f"Runbook: {name}", "url": f"${{runbooks}}/{name}.md", "targetBlank": True}
                for name in self.runbooks
            ],
            "targets": [self._target(number, query) for number, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self._overrides())},
            "options": self._options(),
            "transformations": self._transformations(),
        }

    def _target(self, number: int, query: Query) -> dict[str, Any]:
        now = self.kind != "timeseries"
        return {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or self.title,
            "format": "table" if self.kind == "table" else "time_series",
            "instant": now,
            "range": not now,
        }

    def _defaults(self) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"color": "red" if self.is_bad_below else "green", "value": None}]
        if self.bad_from is not None:
            steps.append({"color": "green" if self.is_bad_below else "red", "value": self.bad_from})
        lines = {
            "lineWidth": 1,
            "fillOpacity": 30 if self.is_stacked else 0,
            "stacking": {"mode": "normal" if self.is_stacked else "none", "group": "A"},
            "showPoints": "never",
            "axisSoftMin": 0,
        }
        return {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic-by-name"},
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": lines if self.kind == "timeseries" else {},
        }

    def _overrides(self) -> Iterator[dict[str, Any]]:
        for number, query in enumerate(self.queries):
            for name, colour in COLOURS.get(query.legend, {}).items():
                yield _override("byName", name, "color", {"mode": "fixed", "fixedColor": colour})
            if query.is_dashed:
                dashes = {"fill": "dash", "dash": [6, 6]}
                yield _override("byFrameRefID", chr(ord("A") + number), "custom.lineStyle", dashes)
        for name, unit in self.columns.items():
            yield _override("byName", name, "unit", unit)

    def _options(self) -> dict[str, Any]:
        match self.kind:
            case "timeseries":
                legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
                return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
            case "stat":
                reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
                return {"reduceOptions": reduced, "colorMode": "value", "graphMode": "none", "textMode": "auto"}
            case "table":
                return {"showHeader": True, "cellHeight": "sm"}

    def _transformations(self) -> list[dict[str, Any]]:
        if self.kind != "table":
            return []
        names = {f"Value #{chr(ord('A') + number)}": name for number, name in enumerate(self.columns)}
        return [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ]


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it, side by side, at most so many in a line."""

    title: str
    panels: Sequence[Panel]
    in_a_line: int = 2


@dataclass(frozen=True)
class Dashboard:
    """One page of Grafana.

    Attributes:
        name: of its file, and in its address.
        variables: Prometheus' queries for their values, by name; each may be chosen several times, or all.
    """

    name: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what Grafana reads."""
        return {
            "uid": f"recsite-{self.name}",
            "title": self.title,
            "description": self.description,
            "tags": ["recsite"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "",
            "annotations": {"list": []},
            "links": [
                {
                    "type": "dashboards",
                    "title": "recsite",
                    "tags": ["recsite"],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "templating": {"list": [*self._variables()]},
            "panels": [*self._panels()],
        }

    def _variables(self) -> Iterator[dict[str, Any]]:
        yield {
            "type": "datasource",
            "name": "datasource",
            "label": "Prometheus",
            "query": "prometheus",
            "current": {},
            "hide": 0,
        }
        for name, query in self.variables.items():
            yield {
                "type": "query",
                "name": name,
                "label": {"tenant": "Studio", "model": "Model"}[name],
                "datasource": DATASOURCE,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".+",
                "current": {"text": "All", "value": "$__all"},
                "hide": 0,
            }
        yield {
            "type": "textbox",
            "name": "runbooks",
            "label": "Runbooks",
            "description": "The address below which docs/runbooks can be read.",
            "query": "docs/runbooks",
            "current": {"text": "docs/runbooks", "value": "docs/runbooks"},
            "hide": 0,
        }

    def _panels(self) -> Iterator[dict[str, Any]]:
        number, top = 1, 0
        for row in self.rows:
            place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
            yield {"type": "row", "id": number, "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
            number, top = number + 1, top + 1
            for first in range(0, len(row.panels), row.in_a_line):
                line = row.panels[first : first + row.in_a_line]
                width, height = WIDTH // len(line), max(HEIGHTS[panel.kind] for panel in line)
                for column, panel in enumerate(line):
                    place = {"x": column * width, "y": top, "w": width, "h": height}
                    yield {"id": number, "gridPos": place, **panel.as_json()}
                    number += 1
                top += height


def _override(matcher: str, of: str, what: str, value: Any) -> dict[str, Any]:
    return {"matcher": {"id": matcher, "options": of}, "properties": [{"id": what, "value": value}]}
