"""The beginning of an installation: who is there already, its first platform staff and its first studio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from tenants import audit
from tenants.models import Role, Tenant, User
from tenants.rules import RuleBroken
from tenants.services import member_set, sources_sorted, tenant_create


@dataclass(frozen=True)
class Beginning:
    """What there is: platform staff who can sign in, and a studio that goes on."""

    staff: User | None
    studio: Tenant | None


def beginning() -> Beginning:
    """Return the first of each. Two queries."""
    staff = User.objects.filter(is_staff=True, is_active=True).order_by("pk").first()
    return Beginning(staff, Tenant.objects.filter(ended_at=None).order_by("pk").first())


def check_new_staff(username: str, email: str = "") -> User:
    """Return the account as it would be, without a password and not saved.

    Raises:
        RuleBroken: the name is taken or will not do, or the address will not.
    """
    user = User(username=username.strip(), email=email.strip(), is_staff=True, is_superuser=True)
    try:
        User.username_validator(user.username)
    except ValidationError:
        raise RuleBroken("A user name can have only letters, digits and @ . + - _", field="username") from None
    if len(user.username) > 150:
        raise RuleBroken("A user name can have at most 150 characters.", field="username")
    if User.objects.filter(username__iexact=user.username).exists():
        raise RuleBroken(
            f"The account “{user.username}” already exists and is not platform staff. Choose another name.",
            field="username",
        )
    if user.email:
        try:
            validate_email(user.email)
        except ValidationError:
            raise RuleBroken(f"“{user.email}” is not a valid e-mail address.", field="email") from None
    return user


def check_password(password: str, user: User) -> None:
    """Raise RuleBroken, which says what is wanted, unless a password will do for this account."""
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise RuleBroken(" ".join(error.messages), field="password") from None


def first_staff_create(*, username: str, email: str, password: str) -> User:
    """Make platform staff with every right; by whoever runs the command, which the trail calls the system.

    Raises:
        RuleBroken: a value will not do.
    """
    user = check_new_staff(username, email)
    check_password(password, user)
    user.set_password(password)
    with transaction.atomic():
        user.save(force_insert=True)
        words = f"Made the account “{user.username}”, the first of platform staff."
        rights = {"is_active": True, "is_staff": True, "is_superuser": True}
        audit.record(None, None, audit.Action.USER_CREATE, f"account {user.username}", words, after=rights)
    return user


def first_studio_create(*, slug: str, name: str, sources: Sequence[str], staff: User) -> Tenant:
    """Make a studio that may read tables from these sources, with a person of platform staff as its first admin.

    Raises:
        RuleBroken: a value will not do.
    """
    with transaction.atomic():
        tenant = tenant_create(slug=slug, name=name, actor=staff, **sources_sorted(sources))
        member_set(tenant=tenant, user=staff, role=Role.STUDIO_ADMIN, actor=staff)
    return tenant
