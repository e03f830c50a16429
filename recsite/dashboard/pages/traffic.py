"""What serving answered, as charts: of all models of a studio, and of one."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.shortcuts import render

from models_registry.catalogue.selectors import model_summaries, model_summary
from models_registry.models import RecommendationModel
from models_registry.traffic import propagation
from models_registry.traffic.over_time import DAY, PERIODS, Period, Reading, read
from recsite.dashboard.charts.pictures import model_charts, table_rows
from recsite.dashboard.gate import StudioRequest, studio_page
from recsite.dashboard.inner_gates import about_model, model_page
from recsite.dashboard.local_time import zone_of


@studio_page()
def studio_traffic(request: StudioRequest) -> HttpResponse:
    """Show each model's answers over a period. Six queries on top of the gate's."""
    period = _period(request)
    summaries = model_summaries(request.studio.tenant)
    reading = read(summaries, period, with_sources=False)
    zone = zone_of(request)
    charts = [model_charts(reading, reading.models[summary.model.pk], zone, is_small=True) for summary in summaries]
    has_traffic = any(chart.traffic.answers for chart in charts)
    context = {
        **_shared(request, reading),
        "section": "traffic",
        "charts": charts,
        "has_traffic": has_traffic,
        "lanes": None if has_traffic else propagation.propagation(request.studio.tenant),
    }
    part = request.htmx and not request.htmx.boosted
    return render(request, f"dashboard/{'_traffic' if part else 'traffic'}.html", context)


@model_page()
def model_traffic(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show one model's answers over a period, its versions' shares against the weights, and what had no row.

    Seven queries on top of the gate's.
    """
    period = _period(request)
    summary = model_summary(model)
    reading = read([summary], period, with_weights=True)
    zone = zone_of(request)
    found = reading.models[model.pk]
    context = {
        **_shared(request, reading),
        **about_model(summary, "traffic"),
        "charts": model_charts(reading, found, zone),
        "rows": table_rows(found, zone),
        "has_traffic": bool(found.answers),
        "lanes": None if found.answers else propagation.propagation(model.tenant),
    }
    part = request.htmx and not request.htmx.boosted
    return render(request, f"dashboard/{'_model_traffic' if part else 'model_traffic'}.html", context)


def _period(request: StudioRequest) -> Period:
    return PERIODS.get(request.GET.get("period", ""), DAY)


def _shared(request: StudioRequest, reading: Reading) -> dict[str, Any]:
    zone = zone_of(request)
    until = reading.collected_until.astimezone(zone) if reading.collected_until else None
    return {
        "reading": reading,
        "period": reading.period,
        "periods": PERIODS.values(),
        "zone": zone.key,
        "until": f"{until:%-d %b, %H:%M:%S}" if until else "",
    }
