"""Who may do what. Views ask here; services are told who acts and trust it."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet

from tenants.models import Membership, Role, Scope, Tenant, User

_RANK = {Role.VIEWER: 1, Role.PRODUCT_MANAGER: 2, Role.STUDIO_ADMIN: 3}

# What each role may do, in words, from the one that may do most.
ROLE_WORDS = {
    Role.STUDIO_ADMIN: "everything, also credentials, automation tokens and members",
    Role.PRODUCT_MANAGER: "changes weights, models and versions, starts loads, sets testers",
    Role.VIEWER: "sees everything, changes nothing",
}

# The role with which a person may do what an automation token may do with this scope.
ROLE_FOR = {
    Scope.READ: Role.VIEWER,
    Scope.LOADS_RUN: Role.PRODUCT_MANAGER,
    Scope.LOADS_WAIVE: Role.STUDIO_ADMIN,
    Scope.VERSIONS_WRITE: Role.PRODUCT_MANAGER,
    Scope.MODELS_WRITE: Role.PRODUCT_MANAGER,
    Scope.ROLLOUTS_WRITE: Role.PRODUCT_MANAGER,
    Scope.CREDENTIALS_WRITE: Role.STUDIO_ADMIN,
    Scope.MEMBERS_WRITE: Role.STUDIO_ADMIN,
}


class NotAllowed(PermissionError):
    """A member whose role does not reach: a 403."""


class PersonNeeded(NotAllowed):
    """An automation token that asks for what only a person may do."""


class NotAMember(NotAllowed):
    """Somebody to whom the studio does not exist: the same 404 as for one that does not."""


def is_platform_staff(user: User | AnonymousUser | None) -> bool:
    """Tell whether somebody works for the platform: they may do everything in every studio."""
    return user is not None and user.is_active and user.is_staff


def role_of(user: User | AnonymousUser | None, tenant: Tenant) -> Role | None:
    """Return a person's role in a studio (staff count as its admin), None for a stranger. One query, none for staff."""
    if is_platform_staff(user):
        return Role.STUDIO_ADMIN
    if not isinstance(user, User) or not user.is_active:
        return None
    membership = Membership.objects.for_tenant(tenant).filter(user=user).first()
    return Role(membership.role) if membership else None


def reaches(held: Role, needed: Role) -> bool:
    """Tell whether a role is this one or one above it."""
    return _RANK[held] >= _RANK[needed]


def may(user: User | AnonymousUser | None, tenant: Tenant, role: Role) -> bool:
    """Tell whether a person has this role in a studio, or one above it."""
    held = role_of(user, tenant)
    return held is not None and reaches(held, role)


def require(user: User | AnonymousUser | None, tenant: Tenant, role: Role) -> Role:
    """Return a person's role in a studio if it reaches.

    Raises:
        NotAMember: they have none there.
        NotAllowed: it is below `role`.
    """
    held = role_of(user, tenant)
    if held is None:
        raise NotAMember("This studio does not exist.")
    if not reaches(held, role):
        raise NotAllowed(f"This needs the role “{role.label}”; yours is “{held.label}”.")
    return held


def studios_of(user: User) -> QuerySet[Tenant]:
    """Return the studios a person can open, those that have ended left out; for platform staff, all that live."""
    live = Tenant.objects.filter(ended_at=None)
    return live if is_platform_staff(user) else live.filter(memberships__user=user)
