"""What every address of the API shares: who may call it, how often, in JSON, for one studio."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.core.cache import cache
from django.http.response import HttpResponseBase
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView
from typing_extensions import override

from recsite.api.authentication import Caller, IsEnough, PersonAuthentication, TokenAuthentication, caller_of
from recsite.api.bodies import StrictJSONParser
from recsite.api.problems import Kind, Problem, not_found
from tenants import audit
from tenants.models import Tenant, User

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60


class PerCaller(BaseThrottle):
    """So many requests a minute from one token or person. Counted in Redis; without Redis nobody is refused."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Count this request and tell whether it is within the limit."""
        window = int(time.time() // WINDOW_SECONDS)
        name = f"api-requests:{caller_of(request).key}:{window}"
        try:
            cache.add(name, 0, timeout=2 * WINDOW_SECONDS)
            return bool(cache.incr(name) <= settings.API_REQUESTS_PER_MINUTE)
        except (ConnectionInterrupted, RedisError, OSError, ValueError) as error:
            log.warning("api.requests_not_counted problem=%s", type(error).__name__)
            return True

    def wait(self) -> float:
        """Return the seconds until the next minute begins."""
        return WINDOW_SECONDS - time.time() % WINDOW_SECONDS


class AlwaysJSON(DefaultContentNegotiation):
    """JSON is all there is; a client that says it accepts something else is better off with it than with a 406."""

    @override
    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        only = next(iter(renderers))
        return only, only.media_type


class ApiView(APIView):
    """An address that speaks JSON, and problem documents when something is wrong."""

    http_method_names = ["get", "head", "post", "put", "patch", "delete"]  # noqa: RUF012 - as Django declares it
    parser_classes: Sequence[type[BaseParser]] = (StrictJSONParser,)
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = AlwaysJSON

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Answers are one caller's own, and some hold a secret."""
        return {**super().default_response_headers, "Cache-Control": "no-store"}


class NothingHere(ApiView):
    """Every address below /api/ that is none."""

    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse, whatever the method."""
        super().initial(request, *args, **kwargs)
        raise not_found()


class StudioView(ApiView):
    """An address of a studio's API: `@operation` says what each method needs, `tag` groups it in the documentation."""

    tag: ClassVar[str]
    authentication_classes = (TokenAuthentication, PersonAuthentication)
    permission_classes = (IsEnough,)
    throttle_classes = (PerCaller,)

    def __init_subclass__(cls, tag: str) -> None:
        cls.tag = tag

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer a request; what it changes is done in the name of the caller."""
        try:
            return super().dispatch(request, *args, **kwargs)
        finally:
            audit.act_as(None)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let through who may, and name who acts."""
        super().initial(request, *args, **kwargs)
        if request.META.get("HTTP_TRANSFER_ENCODING") and not request.META.get("CONTENT_LENGTH"):
            raise Problem(Kind.LENGTH_REQUIRED, "Send the body with a Content-Length.")
        audit.act_as(self.caller.automation)

    @property
    def caller(self) -> Caller:
        """Return who calls."""
        return caller_of(self.request)

    @property
    def tenant(self) -> Tenant:
        """Return the studio that is called for."""
        return self.caller.tenant

    @property
    def actor(self) -> User | None:
        """Return the person who acts; None for a token, which the audit trail then names by itself."""
        return self.caller.person
