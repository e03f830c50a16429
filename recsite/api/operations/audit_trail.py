"""Who did what, when and why."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from recsite.api.bodies import Moment
from recsite.api.paging import PageQuery, page_of
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants.models import AuditEntry, Scope
from tenants.paging import Page

ENTRY = {
    "id": 4711,
    "at": "2026-11-01T10:00:00Z",
    "actor": "mara",
    "action": "rollout.reweight",
    "subject": "model offers",
    "summary": "Changed the weights of “offers”: 10 % of players change version.",
    "reason": "2026-11-a does well",
    "before": {"revision": 3, "phase": 1, "weights_bp": {"0": 9000, "1": 1000}},
    "after": {"revision": 4, "phase": 1, "weights_bp": {"0": 8000, "1": 2000}},
}


class AuditEntryAnswer(serializers.ModelSerializer[AuditEntry]):
    """One thing somebody did."""

    example = ENTRY
    actor = serializers.CharField(
        source="actor_name", help_text="A person's user name, a token's name and id, or system."
    )
    action = serializers.CharField(help_text="noun.verb")
    before = serializers.DictField(allow_null=True, help_text="The values that changed, as they were.")
    after = serializers.DictField(allow_null=True, help_text="The values that changed, as they became.")

    class Meta:
        model = AuditEntry
        fields = tuple(ENTRY)


class AuditQuery(PageQuery):
    """Which entries."""

    action = serializers.CharField(
        max_length=60, required=False, help_text="Exactly this action, such as load.request."
    )
    actor = serializers.CharField(source="actor_name", max_length=150, required=False, help_text="Exactly this name.")
    subject = serializers.CharField(
        max_length=200, required=False, help_text="Exactly this subject, such as model offers."
    )
    since = Moment(source="at__gte", required=False, help_text="From this instant on.")
    until = Moment(source="at__lt", required=False, help_text="Before this instant.")


class AuditTrail(StudioView, tag="Audit trail"):
    @operation("audit_list", Scope.READ, takes=AuditQuery, gives=AuditEntryAnswer)
    def get(self, asked: dict[str, Any]) -> Page[Any]:
        """List what was done in the studio, newest first."""
        rows = AuditEntry.objects.for_tenant(self.tenant)
        return page_of(rows, asked, by="pk", is_descending=True)
