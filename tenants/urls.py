"""Addresses of the tenants app."""

from django.urls import path

from tenants.views import TokenView

urlpatterns = [
    path("api/v1/token", TokenView.as_view(), name="token"),
]
