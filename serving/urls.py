"""Addresses of the DRF door, and of what asks whether its process is alive."""

from django.urls import path, re_path

from serving import views

urlpatterns = [
    path("v1/recommendations", views.RecommendationsView.as_view(), name="recommendations"),
    re_path(r"^v1/", views.not_found),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
