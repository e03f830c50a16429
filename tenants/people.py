"""Bringing people into a studio: those who have an account, and those for whom one is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.contrib.auth.tokens import default_token_generator
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from tenants import audit
from tenants.access import is_platform_staff
from tenants.models import Membership, Role, Tenant, User
from tenants.rules import RuleBroken
from tenants.services import NobodyToAdd, lock_tenant, member_set, own_people


@dataclass(frozen=True)
class Added:
    """A new member.

    Attributes:
        is_new_account: they had no account before, so that they need a link to set a password.
        note: as `RoleGiven.note`.
    """

    membership: Membership
    is_new_account: bool
    note: str


@dataclass(frozen=True)
class PasswordLink:
    """Where a person sets a password, once; at the only moment at which the link exists in readable form."""

    user: User
    path: str = field(repr=False)


def member_add(*, tenant: Tenant, who: str, role: str, actor: User | None, is_by_token: bool = False) -> Added:
    """Give somebody a role in a studio, by user name or e-mail address; an address without an account gets one.

    The new account belongs to this studio: no other can add it, since nobody has shown that the address is theirs. It
    has no password until its link is used (`password_link`). Platform staff add anybody; a studio by itself adds its
    own people (`own_people`) and those who have no account.

    Raises:
        RuleBroken: several have that address, they are a member already, or a value will not do.
        PersonNeeded: an automation token asks for a studio admin.
        NobodyToAdd: whoever else it is, if anybody; for platform staff, that nobody has that name is a RuleBroken.
    """
    if role not in Role.values:
        raise RuleBroken("Choose one of the roles.", field="role")
    who = who.strip()
    if not who:
        raise RuleBroken("Enter a user name or an e-mail address.", field="who")
    with transaction.atomic():
        lock_tenant(tenant)
        user = _find(tenant, who, actor)
        is_new = user is None
        if user is None:
            user = _make_account(tenant, who, actor)
        elif Membership.objects.for_tenant(tenant).filter(user=user).exists():
            words = f"{user.get_username()} is a member already; change their role in the list."
            if user.made_for_id == tenant.pk and not user.has_usable_password():
                words += " “Link” there makes them a new link to set a password."
            raise RuleBroken(words, field="who")
        given = member_set(tenant=tenant, user=user, role=role, actor=actor, is_by_token=is_by_token)
    return Added(given.membership, is_new, given.note)


def _find(tenant: Tenant, who: str, actor: User | None) -> User | None:
    """Return whom a name or address means; None if it takes a new account."""
    same_name = Q(username__iexact=who)
    named = User.objects.filter(same_name | Q(email__iexact=who) if "@" in who else same_name)
    if is_platform_staff(actor):
        known = named
    else:
        members = Membership.objects.for_tenant(tenant).values("user")
        known = named.filter(Q(pk__in=own_people(tenant)) | Q(pk__in=members))
    found = list(known[:3])
    exact = [user for user in found if user.username == who]
    if len(found) > 1 and not exact:
        raise RuleBroken("Several accounts have this address. Enter the user name.", field="who")
    user = next(iter(exact or found), None)
    if user is not None and not user.is_active:
        raise RuleBroken("This account is switched off. Platform staff can switch it on again.", field="who")
    if user is None and not is_platform_staff(actor):
        # The same for a name that nobody has, and for an odd address whoever has it.
        if "@" not in who:
            raise NobodyToAdd(who)
        _check_address(who)
        if named.exists():
            raise NobodyToAdd(who)
    return user


def _check_address(email: str) -> None:
    try:
        validate_email(email)
        User(username=email.lower(), email=email.lower()).clean_fields(exclude={"password"})
    except ValidationError:
        raise RuleBroken(f"“{email}” is not a valid e-mail address.", field="who") from None


def _make_account(tenant: Tenant, email: str, actor: User | None) -> User:
    if "@" not in email:
        raise RuleBroken(f"No account has the user name “{email}”. To make one, enter an e-mail address.", field="who")
    _check_address(email)
    user = User(username=email.lower(), email=email.lower(), made_for=tenant)
    user.set_unusable_password()
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError:  # somebody made it for another studio since `_find` looked
        raise NobodyToAdd(email) from None
    words = f"Made the account “{user.username}”."
    audit.record(tenant, actor, audit.Action.USER_CREATE, f"account {user.username}", words)
    return user


def link_holds(user: User) -> bool:
    """Tell whether a link to set an account's password may be made, and used: one that was made may hold no longer.

    Whoever has the link has the account. So it never opens the platform, and for an account that a studio made nothing
    but that studio. One query at most.
    """
    if user.is_staff or user.is_superuser or not user.is_active:
        return False
    if user.made_for_id is None:
        return True
    return not Membership.objects.unscoped().filter(user=user).exclude(tenant=user.made_for_id).exists()


def may_link(user: User, tenant: Tenant, actor: User | None) -> bool:
    """Tell whether somebody who administers a studio may give a member a link to set a password.

    The studio's admins may for accounts that it made, platform staff also for those that no studio made.
    """
    is_theirs = user.made_for_id == tenant.pk or (user.made_for_id is None and is_platform_staff(actor))
    return is_theirs and link_holds(user)


def password_link(*, tenant: Tenant, user: User, actor: User | None) -> PasswordLink:
    """Make a link with which a person sets a password, once, within Django's `PASSWORD_RESET_TIMEOUT`.

    A link that was made before for somebody without a password ends with it.

    Raises:
        RuleBroken: the account is not this studio's own and the actor not platform staff, or the studio has ended.
    """
    with transaction.atomic():
        lock_tenant(tenant)
        user.refresh_from_db(from_queryset=User.objects.select_for_update())
        if not may_link(user, tenant, actor):
            raise RuleBroken("This account does not belong to the studio. Ask platform staff for a new password.")
        if not user.has_usable_password():
            user.set_unusable_password()  # another one, which ends the links before
            user.save(update_fields=["password"])
        words = f"Made a link to set a password for {user.get_username()}."
        audit.record(tenant, actor, audit.Action.USER_LINK, f"account {user.get_username()}", words)
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return PasswordLink(user, reverse("set-password", args=[uid, default_token_generator.make_token(user)]))


def lock_account(user: User) -> None:
    """Read an account anew and keep others from changing it until the open transaction ends.

    The studio that made it is locked first, in the order in which changes of its members lock.
    """
    if user.made_for_id is not None:
        Tenant.objects.select_for_update().get(pk=user.made_for_id)
    user.refresh_from_db(from_queryset=User.objects.select_for_update())


def record_password_change(user: User, *, is_by_link: bool) -> None:
    """Tell the audit trail that a person has set their password: their studio's, where the account is a studio's own.

    Raises:
        NotInTransaction: no transaction is open.
    """
    name, how = user.get_username(), " with the link they were given" if is_by_link else ""
    words = f"Set a password for {name}{how}."
    audit.record(user.made_for, user, audit.Action.USER_SET_PASSWORD, f"account {name}", words)
