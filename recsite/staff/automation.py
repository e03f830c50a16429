"""Automation tokens in the admin: what each may do, whether it is used, revoking it. People make them themselves."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from recsite.staff.pages import Label, NeededReasonForm, ReadOnlyAdmin, StudioFilter, acting, change_url, show_refusal
from tenants.automation import automation_token_revoke
from tenants.figures import age
from tenants.models import AutomationToken
from tenants.rules import RuleBroken


@admin.register(AutomationToken)
class AutomationTokenAdmin(ReadOnlyAdmin):
    """What studios' scripts use the API with."""

    studio_path = "tenant"
    list_display = ("name", "studio", "state", "may_do", "last_used", "made")
    list_filter = (StudioFilter,)
    list_select_related = ("tenant", "created_by")
    search_fields = ("name", "public_id", "tenant__name", "tenant__slug")
    fields = ("name", "studio", "state", "may_do", "token_hint", "last_used", "expires", "made")
    actions_detail = ("revoke",)

    @display(description="State", label={"active": "success", "expired": "warning", "revoked": "danger"})
    def state(self, token: Any) -> Label:
        """Say whether it works."""
        if token.revoked_at:
            return Label("revoked", f"Revoked {age(token.revoked_at)}")
        if token.expires_at and token.expires_at <= timezone.now():
            return Label("expired", f"Expired {age(token.expires_at)}")
        return Label("active", "Active")

    @display(description="May do")
    def may_do(self, token: Any) -> str:
        """Return its scopes."""
        return ", ".join(token.scopes)

    @display(description="Expires")
    def expires(self, token: Any) -> str:
        """Say when."""
        return age(token.expires_at)

    @display(description="Last used", ordering="last_used_at")
    def last_used(self, token: Any) -> str:
        """Say how long ago."""
        return age(token.last_used_at)

    @display(description="Made", ordering="created_at")
    def made(self, token: Any) -> str:
        """Say how long ago, and by whom."""
        return f"{age(token.created_at)} by {token.created_by or 'the system'}"

    def pointless_actions(self, obj: Any) -> set[str]:
        """A revoked one cannot be revoked again."""
        return {"revoke"} if obj.revoked_at else set()

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"automation token {obj.public_id}"

    @action(description="Revoke", url_path="revoke", permissions=["act"], variant=ActionVariant.DANGER)
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for a reason, then revoke."""
        token = self.get_row(request, object_id)
        form = NeededReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                automation_token_revoke(token=token, actor=acting(request), reason=form.cleaned_data["reason"])
            except RuleBroken as error:
                show_refusal(form, error)
            else:
                self.message_user(request, f"Revoked {token.name}.", messages.SUCCESS)
                return HttpResponseRedirect(change_url(token))
        return self.ask(
            request,
            form,
            title=f"Revoke {token.name}",
            obj=token,
            submit="Revoke for good",
            is_dangerous=True,
            explanation=[
                f"Last used: {age(token.last_used_at)}.",
                "The next request of the script that uses it is refused. There is no way back.",
            ],
        )
