"""Every address below /api/."""

from django.urls import include, path, re_path

from recsite.api.described.document import DocumentView
from recsite.api.described.reference import reference
from recsite.api.studio_view import NothingHere
from recsite.api.token import TokenView

urlpatterns = [
    path("v1/token", TokenView.as_view(), name="token"),
    path("v1/", include("recsite.api.operations.urls")),
    path("", reference, name="api-reference"),
    path("schema/", DocumentView.as_view(), name="api-schema"),
    re_path(r"", NothingHere.as_view(), name="api-nothing-here"),
]
