"""Addresses of the tenants app."""

from django.urls import path

from tenants.pages import home
from tenants.pages.signing_in import SignInPage, SignOut
from tenants.views import TokenView

urlpatterns = [
    path("", home.home, name="home"),
    path("sign-in", SignInPage.as_view(), name="sign-in"),
    path("sign-out", SignOut.as_view(), name="sign-out"),
    path("studios/<slug:studio>/", home.studio, name="studio"),
    path("api/v1/token", TokenView.as_view(), name="token"),
]
