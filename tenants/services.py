"""Writes on studios and their people. Each owns its transaction, is audited in it and tells serving after commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Concat
from django.utils import timezone

from tenants import audit
from tenants.access import PersonNeeded, is_platform_staff
from tenants.models import AuditEntry, Credential, Membership, Role, Tenant, User
from tenants.rules import RuleBroken, check_limits, check_reason, check_slug, check_text
from tenants.signals import announce_after_commit


class LastAdmin(RuleBroken):
    """A change after which nobody could administer the studio."""


class NobodyToAdd(RuleBroken):
    """Somebody whom a studio cannot add by itself. The words are the same for all of them, with an account or without.

    They name who was asked for, so that the answer tells nothing of who was found.
    """

    def __init__(self, who: str) -> None:
        super().__init__(
            f"This studio cannot add “{who}” itself. Ask platform staff to add people who already have an account; "
            "for somebody new, enter an e-mail address that has none.",
            field="who",
        )


class StudioBusy(RuleBroken):
    """Another change of the same studio goes on for longer than this one waits for it; nothing was saved."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Another change in “{name}” is being saved just now, so nothing was saved. Try again in a moment."
        )


def is_held_lock(error: OperationalError) -> bool:
    """Tell whether PostgreSQL refused a statement because another session holds what it wants."""
    return getattr(error.__cause__, "sqlstate", None) == "55P03"  # lock_not_available


def lock_tenant(tenant: Tenant, *, waits: bool = True) -> None:
    """Read a studio anew and keep others from changing it until the open transaction ends.

    On PostgreSQL by a row lock; on SQLite a transaction that writes is alone from its first statement on. What goes
    through studios in the background does not wait for one of them.

    Raises:
        StudioBusy: another session holds it, and goes on holding it (RECSITE_DATABASE_LOCK_SECONDS).
        RuleBroken: it has ended, and nothing in it changes any more.
    """
    try:
        tenant.refresh_from_db(from_queryset=Tenant.objects.select_for_update(nowait=not waits))
    except OperationalError as error:
        if is_held_lock(error):
            raise StudioBusy(tenant.name) from error
        raise
    if tenant.ended_at is not None:
        raise RuleBroken(f"The studio “{tenant.name}” has ended. Nothing in it can be changed.")


def tenant_create(
    *,
    slug: str,
    name: str,
    actor: User | None,
    allowed_datasets: Sequence[str] = (),
    allowed_gs_prefixes: Sequence[str] = (),
    allowed_local_roots: Sequence[str] = (),
) -> Tenant:
    """Make a studio. What its sources may read is confined to the three lists; an empty one refuses its kind.

    Raises:
        RuleBroken: the slug is taken or malformed, or an entry of a list is.
    """
    tenant = Tenant(
        slug=check_slug(slug),
        name=check_text(name, field="name", what="The name", max_length=100),
        **_check_sources(allowed_datasets, allowed_gs_prefixes, allowed_local_roots),
    )
    try:
        with transaction.atomic():
            tenant.save(force_insert=True)
            words = f"Made the studio “{tenant.name}”."
            _record(tenant, actor, audit.Action.TENANT_CREATE, words, after=_confinement_and_limits(tenant))
    except IntegrityError:
        raise RuleBroken(f"The studio “{slug}” already exists.", field="slug") from None
    return tenant


def tenant_update(
    *,
    tenant: Tenant,
    actor: User | None,
    name: str | None = None,
    allowed_datasets: Sequence[str] | None = None,
    allowed_gs_prefixes: Sequence[str] | None = None,
    allowed_local_roots: Sequence[str] | None = None,
    requests_per_second: int | None = None,
    burst: int | None = None,
) -> Tenant:
    """Change what is given; None leaves a value alone. The slug never changes: tokens carry it.

    Raises:
        RuleBroken: a value will not do, or the studio has ended.
    """
    wanted: dict[str, Any] = {
        **_check_sources(allowed_datasets, allowed_gs_prefixes, allowed_local_roots),
        **check_limits(requests_per_second, burst),
    }
    if name is not None:
        wanted["name"] = check_text(name, field="name", what="The name", max_length=100)
    with transaction.atomic():
        lock_tenant(tenant)
        before, after = apply_changes(tenant, wanted)
        if after:
            words = f"Changed the studio “{tenant.name}”: {', '.join(sorted(after))}."
            _record(tenant, actor, audit.Action.TENANT_UPDATE, words, before=before, after=after)
    return tenant


def tenant_end(*, tenant: Tenant, actor: User | None, reason: str) -> Tenant:
    """End a studio: serving refuses all of its tokens within seconds, and nothing in it changes any more.

    Its rows stay, and so does a tombstone in serving: absence would look like a lost Redis.

    Raises:
        RuleBroken: no reason is given, or it has ended already.
    """
    reason = check_reason(reason, is_required=True)
    with transaction.atomic():
        lock_tenant(tenant)
        tenant.ended_at = timezone.now()
        tenant.save(update_fields=["ended_at"])
        _record(tenant, actor, audit.Action.TENANT_END, f"Ended the studio “{tenant.name}”.", reason=reason)
    return tenant


def _record(tenant: Tenant, actor: User | None, action: audit.Action, summary: str, **values: Any) -> None:
    """Record what was done to a studio itself, and have serving told."""
    audit.record(tenant, actor, action, f"studio {tenant.slug}", summary, **values)
    announce_after_commit(tenant.pk)


def sources_sorted(sources: Sequence[str]) -> dict[str, list[str]]:
    """Return what a studio may read, sorted into what `tenant_create` takes: datasets, gs:// folders, folders.

    Raises:
        RuleBroken: one of them is none of these.
    """
    entries = [source.strip() for source in sources if source.strip()]
    buckets = [entry for entry in entries if entry.startswith("gs://")]
    folders = [entry for entry in entries if entry.startswith("/")]
    datasets = [entry for entry in entries if entry not in buckets and entry not in folders]
    return _check_sources(datasets, buckets, folders)


# --- People ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoleGiven:
    """A person's role in a studio, as it is now.

    Attributes:
        is_released: another studio had made the account, whose password has ended therefore (`account_release`).
    """

    membership: Membership
    is_released: bool = False

    @property
    def note(self) -> str:
        """What platform staff must do now, in words; empty where there is nothing."""
        return f"{RELEASED} Give them a new link from the studio's members page." if self.is_released else ""


# Said to platform staff: nobody else gives such an account more.
RELEASED = "A studio made this account and may know its password. Its password, links and sessions have been ended."


def member_set(*, tenant: Tenant, user: User, role: str, actor: User | None, is_by_token: bool = False) -> RoleGiven:
    """Set a person's role in a studio, their first or another one.

    Whoever made an account may have its password. So one that another studio made loses it (`account_release`).

    Raises:
        RuleBroken: no such role.
        NobodyToAdd: they are not the studio's own (`own_people`), and the actor is not platform staff.
        PersonNeeded: an automation token asks, and this is about a studio admin.
        LastAdmin: the studio would have nobody left to administer it.
    """
    if role not in Role.values:
        raise RuleBroken("Choose one of the roles.", field="role")
    with transaction.atomic():
        lock_tenant(tenant)
        members = Membership.objects.for_tenant(tenant)
        membership = members.filter(user=user).first()
        before = {"role": membership.role} if membership else None
        if membership is None:
            if not is_platform_staff(actor) and not own_people(tenant).filter(pk=user.pk).exists():
                raise NobodyToAdd(user.get_username())
            _check_token_may(role, is_by_token=is_by_token)
            membership = Membership.objects.create(tenant=tenant, user=user, role=role)
        elif membership.role != role:
            _check_token_may(role, membership.role, is_by_token=is_by_token)
            _keep_an_admin(membership, leaving=membership.role == Role.STUDIO_ADMIN)
            membership.role = role
            membership.save(update_fields=["role"])
        else:
            return RoleGiven(membership)
        name, words = user.get_username(), f"Made {user.get_username()} {Role(role).label.lower()}."
        after = {"role": role}
        audit.record(tenant, actor, audit.Action.MEMBER_SET, f"member {name}", words, before=before, after=after)
        user.refresh_from_db(from_queryset=User.objects.select_for_update())
        is_anothers = user.made_for_id not in (None, tenant.pk)
        if is_anothers:
            account_release(user=user, actor=actor)
    return RoleGiven(membership, is_anothers)


def own_people(tenant: Tenant) -> QuerySet[User]:
    """Return the people whom a studio may add by itself: nobody else is to be found, or drawn into a studio, unasked.

    They belong to no other studio and not to the platform; and the studio made their account or, as the audit trail
    says, has had them as members before.
    """
    elsewhere = Membership.objects.unscoped().filter(user=OuterRef("pk")).exclude(tenant=tenant)
    subject = Concat(Value("member "), OuterRef("username"))
    left = AuditEntry.objects.for_tenant(tenant).filter(action=audit.Action.MEMBER_REMOVE, subject=subject)
    were_here = Q(made_for=tenant) | Q(Exists(left), made_for=None)
    return User.objects.filter(were_here, ~Exists(elsewhere), is_staff=False, is_superuser=False)


def account_release(*, user: User, actor: User | None) -> None:
    """Take an account out of the hands of the studio that made it, before it opens more than that studio.

    Its password, the links to set one and its sessions end, and the studio makes no more links for it.
    """
    with transaction.atomic():
        user.made_for = None
        user.set_unusable_password()
        user.save(update_fields=["made_for", "password"])
        words = f"Took over the account {user.get_username()}; the password it had ended."
        audit.record(None, actor, audit.Action.USER_RELEASE, f"account {user.get_username()}", words)


def member_remove(*, tenant: Tenant, user: User, actor: User | None, is_by_token: bool = False) -> None:
    """Take a person's role in a studio away.

    Raises:
        RuleBroken: they have none there.
        PersonNeeded: an automation token asks, and they are a studio admin.
        LastAdmin: the studio would have nobody left to administer it.
    """
    with transaction.atomic():
        lock_tenant(tenant)
        membership = Membership.objects.for_tenant(tenant).filter(user=user).first()
        if membership is None:
            raise RuleBroken(f"{user.get_username()} is not a member of this studio.", field="user")
        role = membership.role
        _check_token_may(role, is_by_token=is_by_token)
        _keep_an_admin(membership, leaving=role == Role.STUDIO_ADMIN)
        membership.delete()
        name, words = user.get_username(), f"Took {user.get_username()} out of the studio."
        audit.record(tenant, actor, audit.Action.MEMBER_REMOVE, f"member {name}", words, before={"role": role})


def _check_token_may(*roles: str, is_by_token: bool) -> None:
    """Refuse what would let whoever holds a token get every right in the studio, or shut out those who have them."""
    if is_by_token and Role.STUDIO_ADMIN in roles:
        raise PersonNeeded("Only a person can give, change or remove the role studio admin. Sign in to the dashboard.")


def _keep_an_admin(membership: Membership, *, leaving: bool) -> None:
    if leaving and not admins_who_can_sign_in(membership.tenant).exclude(pk=membership.pk).exists():
        raise LastAdmin("The studio needs at least one studio admin. Give somebody else that role first.", field="role")


def admins_who_can_sign_in(tenant: Tenant) -> Any:
    """Return the memberships of a studio's admins whose account is not switched off and has a password."""
    admins = Membership.objects.for_tenant(tenant).filter(role=Role.STUDIO_ADMIN, user__is_active=True)
    return admins.exclude(user__password__startswith=UNUSABLE_PASSWORD_PREFIX)


# --- What the functions above share ---------------------------------------------------------------------------------


def apply_changes(row: Tenant | Credential, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Save the values that differ from the row's; return those before and after, for the audit trail."""
    before = {name: getattr(row, name) for name, value in wanted.items() if getattr(row, name) != value}
    after = {name: wanted[name] for name in before}
    for name, value in after.items():
        setattr(row, name, value)
    if after:
        row.save(update_fields=list(after))
    return before, after


def _confinement_and_limits(tenant: Tenant) -> dict[str, Any]:
    names = ["name", "allowed_datasets", "allowed_gs_prefixes", "allowed_local_roots", "requests_per_second", "burst"]
    return {name: getattr(tenant, name) for name in names}


def _check_sources(
    datasets: Sequence[str] | None, gs_prefixes: Sequence[str] | None, local_roots: Sequence[str] | None
) -> dict[str, list[str]]:
    """Return the lists that are given, each by its field, with no entry twice; RuleBroken if one will not do."""
    checked: dict[str, list[str]] = {}
    if datasets is not None:
        checked["allowed_datasets"] = _check_datasets(datasets)
    if gs_prefixes is not None:
        checked["allowed_gs_prefixes"] = _check_gs_prefixes(gs_prefixes)
    if local_roots is not None:
        checked["allowed_local_roots"] = _check_local_roots(local_roots)
    return checked


def _check_datasets(datasets: Sequence[str]) -> list[str]:
    entries = _texts(datasets, "allowed_datasets")
    for entry in entries:
        project, _, dataset = entry.rpartition(".")
        if not project or not dataset or any(c.isspace() or c in "`*/" for c in entry):
            raise RuleBroken(f"“{entry}” is not a dataset. Enter it as project.dataset.", field="allowed_datasets")
    return entries


def _check_gs_prefixes(prefixes: Sequence[str]) -> list[str]:
    entries = _texts(prefixes, "allowed_gs_prefixes")
    for entry in entries:
        bucket, _, folder = entry.removeprefix("gs://").partition("/")
        # Without the last slash gs://b/studio would also allow gs://b/studio-of-somebody-else.
        is_closed = entry.endswith("/") and ".." not in folder.split("/")
        if not entry.startswith("gs://") or not bucket or not is_closed or any(c in "*?[" for c in entry):
            raise RuleBroken(
                f"“{entry}” is not a folder of a bucket. Enter it as gs://bucket/folder/, with the last slash.",
                field="allowed_gs_prefixes",
            )
    return entries


def _check_local_roots(roots: Sequence[str]) -> list[str]:
    entries = _texts(roots, "allowed_local_roots")
    for entry in entries:
        path = PurePosixPath(entry)
        if not path.is_absolute() or path == PurePosixPath("/") or ".." in path.parts:
            raise RuleBroken(
                f"“{entry}” is not a folder. Enter its full path, other than / itself.", field="allowed_local_roots"
            )
    return list(dict.fromkeys(str(PurePosixPath(entry)) for entry in entries))


def _texts(entries: Sequence[str], field: str) -> list[str]:
    if isinstance(entries, str) or not all(isinstance(entry, str) for entry in entries):
        raise RuleBroken("Enter a list of texts.", field=field)
    return list(dict.fromkeys(entry.strip() for entry in entries))
