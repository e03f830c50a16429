"""The audit trail: who did what, when and why, with what it was before and after; and the same as a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import date
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.http import urlencode

from recsite.dashboard.audit_trail import TrailFilter, trail_page, trail_rows
from recsite.dashboard.form_pages import form_page
from recsite.dashboard.forms.dashboard_form import DashboardForm
from recsite.dashboard.gate import StudioRequest, studio_page
from tenants.audit import Kind
from tenants.models import AuditEntry, Membership
from tenants.paging import read_cursor

COLUMNS = ("at", "who", "action", "subject", "summary", "reason", "before", "after")


def _day_field(label: str) -> forms.DateField:
    # The first and the last days that there are have no instant in every time zone.
    bounds = (
        MinValueValidator(date(2000, 1, 1), "Enter a date from 2000 on."),
        MaxValueValidator(date(2999, 12, 31), "Enter a date before the year 3000."),
    )
    widget = forms.DateInput({"type": "date"}, format="%Y-%m-%d")
    return forms.DateField(label=label, required=False, widget=widget, validators=bounds)


class TrailForm(DashboardForm):
    """What of the trail is asked for."""

    who = forms.CharField(
        label="Who", max_length=150, required=False, widget=forms.TextInput({"list": "people", "autocomplete": "off"})
    )
    kind = forms.ChoiceField(
        label="What",
        required=False,
        choices=[("", "Everything"), *(choice for choice in Kind.choices if choice[0] != Kind.PLATFORM)],
    )
    about = forms.CharField(
        label="About", max_length=200, required=False, widget=forms.TextInput({"placeholder": "a model, a name, an id"})
    )
    since = _day_field("From")
    until = _day_field("Until")

    @property
    def wanted(self) -> TrailFilter:
        """What is asked for; an invalid field asks for nothing."""
        self.is_valid()
        return TrailFilter(**self.cleaned_data)


@studio_page()
def audit(request: StudioRequest) -> HttpResponse:
    """Show a page of the trail. Three queries on top of the gate's."""
    tenant = request.studio.tenant
    form = TrailForm(request.GET)
    wanted = form.wanted
    after = read_cursor(request.GET.get("before", ""))
    page = trail_page(tenant, wanted, after=after)
    asked = {name: str(value) for name, value in request.GET.items() if name in form.fields and value}
    context = {
        "section": "audit",
        "lines": page.rows,
        "people": Membership.objects.for_tenant(tenant).values_list("user__username", flat=True),
        "is_narrowed": bool(asked),
        "is_later_page": after is not None,
        "newest": f"?{urlencode(asked)}" if asked else request.path,
        "older": f"?{urlencode({**asked, 'before': page.next_cursor})}" if page.next_cursor else "",
        "query": urlencode(asked),
    }
    return form_page(request, "dashboard/audit.html", form, **context)


@studio_page()
def audit_file(request: StudioRequest) -> Any:
    """Return the entries that are asked for as CSV, streamed row by row."""
    tenant = request.studio.tenant
    rows = trail_rows(tenant, TrailForm(request.GET).wanted)
    response = StreamingHttpResponse(_lines(rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="audit-{tenant.slug}.csv"'
    return response


class _Echo:
    def write(self, line: str) -> str:
        return line


def _lines(rows: Any) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for entry in rows.iterator(chunk_size=2000):
        yield writer.writerow(_cells(entry))


def _cells(entry: AuditEntry) -> list[str]:
    texts = [entry.actor_name, entry.action, entry.subject, entry.summary, entry.reason]
    values = ["" if value is None else json.dumps(value, ensure_ascii=False) for value in (entry.before, entry.after)]
    return [entry.at.isoformat(), *map(_harmless, texts), *values]


def _harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
