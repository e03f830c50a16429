"""Every address below /api/ except the one for tokens, which the tenants app has always had."""

from django.urls import include, path, re_path

from recsite.api.document import DocumentView
from recsite.api.reference import reference
from tenants.api.studio_view import NothingHere

urlpatterns = [
    path("v1/", include("tenants.api.urls")),
    path("v1/", include("models_registry.api.urls")),
    path("", reference, name="api-reference"),
    path("schema/", DocumentView.as_view(), name="api-schema"),
    re_path(r"", NothingHere.as_view(), name="api-nothing-here"),
]
