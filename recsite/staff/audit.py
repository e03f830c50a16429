"""The audit trail in the admin: read and searched, never edited."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from recsite.staff.pages import ReadOnlyAdmin, StudioFilter, column, instant
from tenants.audit import words_of
from tenants.figures import age
from tenants.models import AuditEntry


class ActionFilter(DropdownFilter):
    """What was done, of the kinds that the trail holds."""

    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the actions there are."""
        rows = AuditEntry.objects.unscoped().order_by("action").values_list("action", flat=True).distinct()
        return [(name, words_of(name)) for name in rows]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Narrow to the choice."""
        return queryset.filter(action=self.value()) if self.value() else queryset


@admin.register(AuditEntry)
class AuditAdmin(ReadOnlyAdmin):
    """Who did what, when and why."""

    list_display = ("summary", "studio", "who", "when", "action_label", "reason")
    list_filter = (StudioFilter, ActionFilter)
    studio_path, dashboard_page = "tenant", "audit"
    list_select_related = ("tenant",)
    search_fields = ("summary", "subject", "actor_name", "reason")
    search_help_text = "Search what, who and why"
    date_hierarchy = "at"
    fields = ("summary", "studio", "who", "exactly", "action_label", "subject", "reason")
    change_form_outer_after_template = "staff/_before_after.html"

    exactly = instant("at", "When")
    who = column("Who", lambda entry: str(entry.actor_name), "actor_name")
    when = column(
        "When",
        lambda entry: format_html('<span title="{}">{}</span>', f"{entry.at:%Y-%m-%d %H:%M:%S} UTC", age(entry.at)),
        "at",
    )

    @display(description="Action", label=True, ordering="action")
    def action_label(self, entry: Any) -> str:
        """Return it in words."""
        return words_of(entry.action)

    def dashboard_url(self, row: Any) -> str:
        """Return the address of what the trail has about the same thing."""
        url = super().dashboard_url(row)
        return url and f"{url}?{urlencode({'about': row.subject})}"

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show each value before and after, side by side."""
        entry = context["original"]
        before, after = entry.before or {}, entry.after or {}
        names = list(dict.fromkeys([*before, *after]))
        context["show_history"] = False
        context["changes"] = [{"name": n, "before": before.get(n), "after": after.get(n)} for n in names]
        return super().render_change_form(request, context, *args, **kwargs)
