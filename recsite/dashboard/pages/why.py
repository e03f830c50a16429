"""Why this version: from a player to a slot, to a version, to a table, to the answer."""

from __future__ import annotations

from django.http import HttpResponse

from models_registry.catalogue.selectors import data_at, model_summary
from models_registry.models import RecommendationModel, Table
from models_registry.rollouts.explaining import Explanation, explain
from recsite.dashboard.form_pages import form_page
from recsite.dashboard.forms.testers import WhyForm
from recsite.dashboard.gate import StudioRequest
from recsite.dashboard.inner_gates import about_model, model_page


@model_page()
def why(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show the form, and the explanation once a key is in it. Four queries on top of the gate's."""
    summary = model_summary(model)
    is_asked = any(name in request.GET for name in [*model.key_fields, "unit"])
    form = WhyForm(model, request.GET if is_asked else None)
    found: Explanation | None = None
    if form.is_valid():
        with form.refusing():
            found = explain(model=model, key=form.key, unit=form.unit_given)
    table = _table(model, found)
    context = {**about_model(summary, "why"), "found": found, "data_at": data_at(table) if table else None}
    return form_page(request, "dashboard/why.html", form, **context)


def _table(model: RecommendationModel, found: Explanation | None) -> Table | None:
    """Return the table that was asked, to say how old its data is."""
    if found is None or found.answer is None or found.answer.table_id is None:
        return None
    tables = Table.objects.for_tenant(model.tenant).filter(table_id=found.answer.table_id)
    return tables.select_related("load").defer("load__report", "load__source_location").first()
