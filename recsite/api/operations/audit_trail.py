"""Who did what, when and why."""

from __future__ import annotations

from typing import ClassVar

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from recsite.api.authentication import needs
from recsite.api.bodies import Moment, read_query
from recsite.api.paging import PageQuery, page_of
from recsite.api.schema import operation, page_answer
from recsite.api.studio_view import StudioView, page
from tenants.models import AuditEntry, Scope

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
    actor = serializers.CharField(max_length=150, required=False, help_text="Exactly this name.")
    subject = serializers.CharField(
        max_length=200, required=False, help_text="Exactly this subject, such as model offers."
    )
    since = Moment(required=False, help_text="From this instant on.")
    until = Moment(required=False, help_text="Before this instant.")


class AuditTrail(StudioView):
    """The studio's audit trail."""

    tag: ClassVar = "Audit trail"

    @operation(
        "audit_list",
        need=needs(Scope.READ),
        query=AuditQuery,
        answer=page_answer(AuditEntryAnswer),
        answer_example={"results": [ENTRY], "next_cursor": None},
    )
    def get(self, request: Request) -> Response:
        """List what was done in the studio, newest first."""
        asked = read_query(request, AuditQuery)
        rows = AuditEntry.objects.for_tenant(self.tenant)
        wanted = {
            "action": "action",
            "actor": "actor_name",
            "subject": "subject",
            "since": "at__gte",
            "until": "at__lt",
        }
        rows = rows.filter(**{wanted[name]: value for name, value in asked.items() if name in wanted})
        return page(page_of(rows, asked, by="pk", is_descending=True), AuditEntryAnswer)
