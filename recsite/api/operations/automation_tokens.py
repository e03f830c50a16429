"""Automation tokens: people make them, for machines."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers

from recsite.api.authentication import ADMIN_IN_PERSON
from recsite.api.bodies import Answer, Body, Choice, Moment, Reason, Text
from recsite.api.operations.lookups import one_of
from recsite.api.paging import PageQuery, page_of
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from tenants.automation import automation_token_issue, automation_token_revoke
from tenants.models import AutomationToken, Scope
from tenants.paging import Page

TOKEN = {
    "id": "at_5f2m8q0xk1bc",
    "name": "Airflow, nightly publish",
    "scopes": ["read", "loads:run", "versions:write"],
    "hint": "rsa_…x4Qw",
    "created_at": "2026-11-01T10:00:00Z",
    "created_by": "mara",
    "expires_at": None,
    "last_used_at": "2026-11-02T04:00:12Z",
    "revoked_at": None,
}


class AutomationTokenAnswer(Answer[AutomationToken]):
    """An automation token, without the token itself."""

    example = TOKEN
    id = serializers.CharField(source="public_id")
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))
    hint = serializers.CharField(source="token_hint", help_text="What it begins and ends with.")
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField(
        source="created_by.username", default=None, allow_null=True, help_text="null: the system, or somebody gone."
    )
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")
    revoked_at = serializers.DateTimeField(allow_null=True)


class IssuedAutomationTokenAnswer(AutomationTokenAnswer):
    """An automation token, with the token itself: shown this once, kept nowhere."""

    example: ClassVar = {**TOKEN, "last_used_at": None, "token": "rsa_" + "x" * 43}
    shows_once = "token"
    token = serializers.SerializerMethodField(help_text="Send it as `Authorization: Bearer …`. It is not shown again.")

    def get_token(self, token: AutomationToken) -> str:
        """Return the token."""
        return str(self.context["secret"])


class NewAutomationToken(Body):
    """A token to create."""

    example: ClassVar = {"name": "Airflow, nightly publish", "scopes": ["read", "loads:run", "versions:write"]}
    name = Text(max_length=100, help_text="What uses it.")
    scopes = serializers.ListField(
        child=Choice(choices=Scope.choices), min_length=1, max_length=20, help_text="What it may do, and nothing else."
    )
    expires_at = Moment(
        required=False, allow_null=True, help_text="When it stops working by itself; without it, never."
    )


class AutomationTokenQuery(PageQuery):
    """Which tokens."""

    state = serializers.ChoiceField(
        choices=["active", "ended"], required=False, help_text="active: it works now; ended: revoked or expired."
    )


class AutomationTokenList(StudioView, tag="Automation tokens"):
    @operation("automation_tokens_list", Scope.READ, takes=AutomationTokenQuery, gives=AutomationTokenAnswer)
    def get(self, asked: dict[str, Any]) -> Page[Any]:
        """List the automation tokens, newest first."""
        rows = _rows(self)
        is_ended = Q(revoked_at__isnull=False) | Q(expires_at__lte=timezone.now())
        if state := asked.pop("state", None):
            rows = rows.filter(is_ended if state == "ended" else ~is_ended)
        return page_of(rows, asked, by="pk", is_descending=True)

    @operation(
        "automation_tokens_issue",
        ADMIN_IN_PERSON,
        takes=NewAutomationToken,
        gives=IssuedAutomationTokenAnswer,
        status=201,
    )
    def post(self, given: dict[str, Any]) -> Result:
        """Create an automation token.

        The answer shows the token, and nothing shows it again. No token can create tokens.
        """
        issued = automation_token_issue(tenant=self.tenant, actor=self.actor, **given)
        at = reverse("api-automation-token", args=[issued.token.public_id])
        return Result(issued.token, at=at, secret=issued.secret)


class AutomationTokenDetail(StudioView, tag="Automation tokens"):
    @operation("automation_tokens_read", Scope.READ, gives=AutomationTokenAnswer)
    def get(self, token: str) -> AutomationToken:
        """Read an automation token."""
        return _find(self, token)


class AutomationTokenRevocation(StudioView, tag="Automation tokens"):
    @operation(
        "automation_tokens_revoke",
        ADMIN_IN_PERSON,
        takes=Reason,
        gives=AutomationTokenAnswer,
        example={"reason": "The job has moved"},
        answer_example={**TOKEN, "revoked_at": "2026-11-03T08:30:00Z"},
    )
    def post(self, given: dict[str, Any], token: str) -> AutomationToken:
        """Revoke an automation token, at once and for good."""
        return automation_token_revoke(token=_find(self, token), actor=self.actor, reason=given["reason"])


def _rows(view: StudioView) -> QuerySet[AutomationToken]:
    rows: QuerySet[AutomationToken] = AutomationToken.objects.for_tenant(view.tenant)
    return rows.select_related("created_by", "tenant")


def _find(view: StudioView, token: str) -> AutomationToken:
    return one_of(_rows(view).filter(public_id=token), "There is no such automation token.")
