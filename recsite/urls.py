"""Every address of the dashboard's process."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="start"),
    path("admin/", admin.site.urls),
    path("", include("tenants.urls")),
    path("api/", include("recsite.api.urls")),
    path("", include("serving.urls")),
    path("", include("django_prometheus.urls")),
]
