"""Every address of the dashboard's process."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("tenants.urls")),
    path("", include("serving.urls")),
    path("", include("django_prometheus.urls")),
]
