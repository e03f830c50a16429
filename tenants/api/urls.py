"""Addresses of the API that this app has, below /api/v1/."""

from django.urls import path, re_path

from tenants.api.audit_trail import AuditTrail
from tenants.api.automation_tokens import AutomationTokenDetail, AutomationTokenList, AutomationTokenRevocation
from tenants.api.credentials import (
    CredentialDetail,
    CredentialList,
    CredentialRevocation,
    CredentialRotation,
    KeyRegistration,
)
from tenants.api.members import MemberDetail, MemberLink, MemberList
from tenants.api.studio import CallerDetail, StudioDetail

MEMBER = r"members/(?P<username>[\w@+-][\w.@+-]{0,149})"

urlpatterns = [
    path("caller", CallerDetail.as_view(), name="api-caller"),
    path("studio", StudioDetail.as_view(), name="api-studio"),
    path("members", MemberList.as_view(), name="api-members"),
    re_path(rf"^{MEMBER}$", MemberDetail.as_view(), name="api-member"),
    re_path(rf"^{MEMBER}/password-link$", MemberLink.as_view(), name="api-member-link"),
    path("audit", AuditTrail.as_view(), name="api-audit"),
    path("automation-tokens", AutomationTokenList.as_view(), name="api-automation-tokens"),
    path("automation-tokens/<slug:token>", AutomationTokenDetail.as_view(), name="api-automation-token"),
    path(
        "automation-tokens/<slug:token>/revoke",
        AutomationTokenRevocation.as_view(),
        name="api-automation-token-revoke",
    ),
    path("credentials", CredentialList.as_view(), name="api-credentials"),
    path("credentials/register-key", KeyRegistration.as_view(), name="api-credentials-register-key"),
    path("credentials/<slug:client_id>", CredentialDetail.as_view(), name="api-credential"),
    path("credentials/<slug:client_id>/rotate", CredentialRotation.as_view(), name="api-credential-rotate"),
    path("credentials/<slug:client_id>/revoke", CredentialRevocation.as_view(), name="api-credential-revoke"),
]
