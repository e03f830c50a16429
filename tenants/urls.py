"""Addresses of the tenants app."""

from django.urls import path

from tenants.pages import automation, home
from tenants.pages.signing_in import SignInPage, SignOut
from tenants.views import TokenView

_STUDIO = "studios/<slug:studio>"

urlpatterns = [
    path("", home.home, name="home"),
    path("sign-in", SignInPage.as_view(), name="sign-in"),
    path("sign-out", SignOut.as_view(), name="sign-out"),
    path(f"{_STUDIO}/", home.studio, name="studio"),
    path(f"{_STUDIO}/automation", automation.automation, name="automation"),
    path(f"{_STUDIO}/new-automation-token", automation.automation_token_new, name="automation-token-new"),
    path(
        f"{_STUDIO}/automation/<slug:token>/revoke",
        automation.automation_token_revoke_page,
        name="automation-token-revoke",
    ),
    path("api/v1/token", TokenView.as_view(), name="token"),
]
