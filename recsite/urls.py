"""Every address of the dashboard's process."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from recsite.callers import metrics, ready_for_tokens

urlpatterns = [
    # One sign-in for the dashboard and the admin.
    path("admin/login/", RedirectView.as_view(pattern_name="sign-in", query_string=True)),
    path("admin/", admin.site.urls),
    path("", include("recsite.dashboard.urls")),
    path("api/", include("recsite.api.urls")),
    path("", include("serving.urls")),
    path("readyz/tokens", ready_for_tokens, name="readyz-tokens"),
    path("metrics", metrics, name="metrics"),
]

handler400 = "recsite.api.last_resort.bad_request"
handler500 = "recsite.api.last_resort.server_error"
