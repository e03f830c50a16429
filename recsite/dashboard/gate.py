"""The gate before every page of a studio: who is at the keyboard, which studio, and does their role reach.

Nothing below `/studios/…` is reachable except through `studio_page`. The studio comes from the address and the person
from the session; a studio that does not exist and one they are no member of are the same 404.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from recsite.dashboard.local_time import zone_of
from tenants.access import NotAllowed, NotAMember, is_platform_staff, reaches, require, studios_of
from tenants.models import Role, Tenant, User

# Django calls views with what the address holds, so there is nothing to check about the rest of their arguments.
View = Callable[..., HttpResponse]
Gate = Callable[..., HttpResponseBase]

# So many studios are offered for switching; whoever has more goes through the list of all.
SWITCHES = 8


@dataclass
class Studio:
    """The studio of a page, and what the person at the keyboard may do in it."""

    tenant: Tenant
    user: User
    role: Role

    @property
    def may_change(self) -> bool:
        """Tell whether weights, models, versions, loads and testers can be changed here by this person."""
        return reaches(self.role, Role.PRODUCT_MANAGER) and self.tenant.ended_at is None

    @property
    def may_administer(self) -> bool:
        """Tell whether credentials and members can be changed here by this person."""
        return reaches(self.role, Role.STUDIO_ADMIN) and self.tenant.ended_at is None

    @property
    def allowed_sources(self) -> list[str]:
        """Where platform staff have allowed the studio's tables to be: buckets, folders and datasets."""
        tenant = self.tenant
        return [*tenant.allowed_gs_prefixes, *tenant.allowed_local_roots, *tenant.allowed_datasets]

    @property
    def is_staff(self) -> bool:
        """Tell whether the person works for the platform."""
        return is_platform_staff(self.user)

    @cached_property
    def others(self) -> list[Tenant]:
        """The first studios that can be switched to. One query, when a template asks."""
        return list(studios_of(self.user).exclude(pk=self.tenant.pk)[:SWITCHES])


class StudioRequest(HttpRequest):
    """A request that came through the gate."""

    studio: Studio
    user: User
    htmx: HtmxDetails


def studio_page(
    role: Role = Role.VIEWER,
    methods: tuple[str, ...] = ("GET",),
    find: Callable[[Tenant, dict[str, Any]], object] | None = None,
) -> Callable[[View], Gate]:
    """Make a view one of a studio's pages; it gets `request.studio`, and not the address's first argument.

    Somebody who is not signed in is sent to sign in and back; a stranger gets the 404 of a studio that does not exist;
    a member whose role does not reach gets a 403 that says which role it takes. Answers are never cached.
    Times are shown, and read from forms, by the browser's clock (`zone_of`).

    Cost: the session, the person, the studio, and for members their role: four queries.

    Args:
        role: what it takes at least.
        methods: which HTTP methods there are (HEAD goes with GET).
        find: what of the studio the view gets first, by what the address says, of which it takes (pops) its own.
            It looks in this studio alone: what does not exist and what belongs to another studio are the same 404.
    """
    allowed = (*methods, "HEAD") if "GET" in methods else methods

    def decorate(view: View) -> Gate:
        @require_http_methods(allowed)
        @wraps(view)
        def gate(request: StudioRequest, studio: str, **kwargs: Any) -> HttpResponseBase:
            person: object = request.user
            if not isinstance(person, User):
                return _to_sign_in(request)
            # Nothing is called so, and PostgreSQL refuses to look for it.
            if "\0" in request.path:
                raise Http404
            request.studio = _enter(person, studio, role)
            with timezone.override(zone_of(request)):
                found = [find(request.studio.tenant, kwargs)] if find else []
                response = view(request, *found, **kwargs)
            add_never_cache_headers(response)
            return response

        return gate

    return decorate


def _enter(user: User, slug: str, role: Role) -> Studio:
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise Http404
    try:
        return Studio(tenant, user, require(user, tenant, role))
    except NotAMember:
        raise Http404 from None
    except NotAllowed as error:
        raise PermissionDenied(str(error)) from None


def _to_sign_in(request: StudioRequest) -> HttpResponseBase:
    """Send somebody to sign in, and then back to the page they were on (never to an address that only takes a POST).

    Whoever sent a form is told that it came to nothing.
    """
    if request.htmx:
        here = request.htmx.current_url_abs_path or reverse("home")
        return HttpResponseClientRedirect(redirect_to_login(here).url)
    if request.method in ("GET", "HEAD"):
        return redirect_to_login(request.get_full_path())
    messages.warning(request, "You were signed out in the meantime, so nothing was saved. Sign in, then do it again.")
    return redirect_to_login(_came_from(request) or resolve_url("home"))


def _came_from(request: StudioRequest) -> str:
    """Return the page of this site that a form was on; empty if the browser does not say."""
    page = request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(page, {request.get_host()}, require_https=request.is_secure()):
        return ""
    parts = urlsplit(page)
    return urlunsplit(("", "", parts.path, parts.query, ""))
