"""Definitions and values as prometheus_client has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.metrics import Definition

# By metric, then by label values.
Values = Mapping[str, Mapping[tuple[str, ...], float]]


def families(definitions: Iterable[Definition], values: Values) -> Iterator[Metric]:
    """Yield counters and gauges with the values that there are."""
    for definition in definitions:
        kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
        family = kind(definition.name, definition.help, labels=definition.labels)
        for labels, value in values.get(definition.name, {}).items():
            family.add_metric(labels, value)
        yield family
