"""Addresses of the tenants app."""

from django.urls import path

from tenants.pages import automation, home, members
from tenants.pages.passwords import OwnPasswordPage, SetPasswordPage
from tenants.pages.signing_in import SignInPage, SignOut
from tenants.views import TokenView

_STUDIO = "studios/<slug:studio>"
_MEMBER = f"{_STUDIO}/members/<str:username>"

urlpatterns = [
    path("", home.home, name="home"),
    path("sign-in", SignInPage.as_view(), name="sign-in"),
    path("sign-out", SignOut.as_view(), name="sign-out"),
    path(f"{_STUDIO}/", home.studio, name="studio"),
    path("password", OwnPasswordPage.as_view(), name="password"),
    path("set-password/<str:uidb64>/<str:token>", SetPasswordPage.as_view(), name="set-password"),
    path(f"{_STUDIO}/members", members.members, name="members"),
    path(f"{_STUDIO}/new-member", members.member_new, name="member-new"),
    path(f"{_MEMBER}/role", members.member_role, name="member-role"),
    path(f"{_MEMBER}/remove", members.member_remove_page, name="member-remove"),
    path(f"{_MEMBER}/link", members.member_link, name="member-link"),
    path(f"{_STUDIO}/automation", automation.automation, name="automation"),
    path(f"{_STUDIO}/new-automation-token", automation.automation_token_new, name="automation-token-new"),
    path(
        f"{_STUDIO}/automation/<slug:token>/revoke",
        automation.automation_token_revoke_page,
        name="automation-token-revoke",
    ),
    path("api/v1/token", TokenView.as_view(), name="token"),
]
