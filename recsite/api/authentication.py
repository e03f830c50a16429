"""Who calls the API, for which studio, and what they may do there.

A machine sends an automation token; it belongs to one studio. A person is signed in by the dashboard's session; with
several studios they name one in the header `Recsite-Studio`. Nothing in a path or a body chooses a studio.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from recsite.api.problems import Kind, Problem
from recsite.api.problems import not_found as nothing_here
from tenants import access
from tenants.automation import automation_token_authenticate
from tenants.callers import NotAuthenticated as WrongToken
from tenants.models import AutomationToken, Role, Scope, Tenant, User

log = logging.getLogger(__name__)

STUDIO_HEADER = "Recsite-Studio"


@dataclass(frozen=True)
class Caller:
    """Who calls: a person or a token, and the studio they call for."""

    tenant: Tenant
    person: User | None = None
    token: AutomationToken | None = None

    @property
    def key(self) -> str:
        """Return what tells callers apart: where limits are counted and idempotency keys kept."""
        return f"token:{self.token.public_id}" if self.token else f"person:{self.person.pk if self.person else ''}"

    @property
    def automation(self) -> str | None:
        """Return what the audit trail calls a token; None for a person."""
        return f"{self.token.name} ({self.token.public_id})" if self.token else None


def caller_of(request: Request) -> Caller:
    """Return who sent a request that has been authenticated.

    Raises:
        NotAuthenticated: nobody knows who.
    """
    if not isinstance(request.auth, Caller):
        raise NotAuthenticated
    return request.auth


@dataclass(frozen=True)
class Need:
    """What it takes to call an operation.

    Attributes:
        role: a person's, at least.
        scope: a token's; None where no token may.
        is_for_any_token: whatever its scopes.
    """

    role: Role
    scope: Scope | None = None
    is_for_any_token: bool = False

    @property
    def words(self) -> str:
        """Say it, for the documentation."""
        if self.is_for_any_token:
            return "Any token may call this, and every member."
        if self.scope is None:
            return f"Only a person may call this, signed in, with the role {self.role.label.lower()}."
        return f"Needs the scope `{self.scope.value}`, or a person with the role {self.role.label.lower()}."

    def check(self, caller: Caller) -> None:
        """Raise unless the caller has it."""
        if caller.token is None:
            access.require(caller.person, caller.tenant, self.role)
        elif self.is_for_any_token:
            return
        elif self.scope is None:
            raise Problem(Kind.PERSON_REQUIRED, "Only a person may do this; sign in to the dashboard.")
        elif self.scope not in caller.token.scopes:
            raise Problem(Kind.NOT_ALLOWED, f"This token doesn’t have the scope “{self.scope.value}”.")


def needs(scope: Scope) -> Need:
    """Return what it takes where tokens need this scope and people the role that goes with it."""
    return Need(access.ROLE_FOR[scope], scope)


ANYONE = Need(Role.VIEWER, is_for_any_token=True)
ADMIN_IN_PERSON = Need(Role.STUDIO_ADMIN)


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer rsa_…`."""

    def authenticate(self, request: Request) -> tuple[Any, Caller] | None:
        """Return the token's caller; None without such a header.

        Raises:
            AuthenticationFailed: the token is wrong, expired or revoked, for whatever reason.
            Problem: `Recsite-Studio` names another studio than the token's.
        """
        if "HTTP_AUTHORIZATION" not in request.META:
            return None
        scheme, _, given = request.META["HTTP_AUTHORIZATION"].partition(" ")
        try:
            token = automation_token_authenticate(given.strip()) if scheme.lower() == "bearer" else None
        except WrongToken:
            token = None
        if token is None:
            log.info("api.token_refused")
            raise AuthenticationFailed
        if request.headers.get(STUDIO_HEADER, token.tenant.slug) != token.tenant.slug:
            raise _no_such_studio()
        return AnonymousUser(), Caller(token.tenant, token=token)

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401."""
        return "Bearer"


class PersonAuthentication(SessionAuthentication):
    """The dashboard's session; writes need the CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, Caller] | None:
        """Return the signed-in person's caller; None if nobody is signed in.

        Raises:
            Problem: the CSRF token is missing, or the studio: several to choose from, none, or no such.
        """
        signed_in = super().authenticate(request)
        if signed_in is None:
            return None
        person = signed_in[0]
        return person, Caller(_studio_of(person, request.headers.get(STUDIO_HEADER)), person=person)

    def enforce_csrf(self, request: Request) -> None:
        """Refuse a write that another site could have made the browser send."""
        try:
            super().enforce_csrf(request)
        except PermissionDenied:
            raise Problem(Kind.CSRF_FAILED, "Send the CSRF token of the page as “X-CSRFToken”.") from None


def _studio_of(person: User, slug: str | None) -> Tenant:
    """Return the studio a person calls for: the one they name, or the only one they have."""
    if slug is not None:
        tenant = Tenant.objects.filter(slug=slug, ended_at=None).first() if slug.isprintable() else None
        if tenant is None or access.role_of(person, tenant) is None:
            raise _no_such_studio()
        return tenant
    mine = list(Tenant.objects.filter(memberships__user=person, ended_at=None).order_by("slug")[:10])
    if len(mine) == 1:
        return mine[0]
    if mine or access.is_platform_staff(person):
        names = f", such as {', '.join(tenant.slug for tenant in mine)}" if mine else ""
        raise Problem(Kind.STUDIO_REQUIRED, f"Name the studio in the header “{STUDIO_HEADER}”{names}.")
    raise Problem(Kind.NO_STUDIO, "You don’t belong to a studio yet. Ask your studio’s admin to add you.")


def _no_such_studio() -> Problem:
    return nothing_here("There is no such studio.")


class IsEnough(BasePermission):
    """Lets a caller through who has what the operation needs (`@operation(needs=…)`)."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Raise what fits; a method that does not exist needs nothing, so that it can be a 405."""
        caller = caller_of(request)
        handler = getattr(view, (request.method or "").lower(), None)
        need = getattr(handler, "need", None)
        if need is not None:
            need.check(caller)
        return True
