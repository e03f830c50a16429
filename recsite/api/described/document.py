"""The OpenAPI document of everything that programs call: the API, its tokens, and the recommendations themselves."""

from __future__ import annotations

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer2, OpenApiYamlRenderer, OpenApiYamlRenderer2
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

import recsite.api.described.serving  # noqa: F401  # registers what it says of the serving app's views


@cache
def document() -> dict[str, Any]:
    """Return the document. It does not change while the process runs, so it is made once: half a second."""
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return made


class DocumentView(APIView):
    """Serves the document, as JSON or with `?format=yaml` as YAML."""

    schema = None
    renderer_classes = (OpenApiJsonRenderer2, OpenApiYamlRenderer, OpenApiYamlRenderer2)
    http_method_names = ["get", "head"]  # noqa: RUF012 - as Django declares it

    def get(self, request: Request) -> Response:
        """Return the document."""
        return Response(document(), headers={"Cache-Control": "no-cache"})
