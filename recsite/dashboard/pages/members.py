"""Who belongs to a studio, in which role: adding, changing, removing, and links to set a password."""

from __future__ import annotations

from dataclasses import dataclass

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse

from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.dashboard_form import AS_TYPED, DashboardForm
from recsite.dashboard.gate import StudioRequest, studio_page
from tenants.access import ROLE_WORDS
from tenants.models import Membership, Role, User
from tenants.people import Added, PasswordLink, may_link, member_add, password_link
from tenants.services import admins_who_can_sign_in, member_remove, member_set


def _role_field() -> forms.ChoiceField:
    return forms.ChoiceField(
        label="Role",
        choices=[(role.value, f"{role.label}: {words}") for role, words in ROLE_WORDS.items()],
        widget=forms.RadioSelect,
    )


class MemberForm(DashboardForm):
    """Somebody new, and their role."""

    who = forms.CharField(
        label="E-mail address or user name",
        max_length=150,
        widget=forms.TextInput(AS_TYPED),
        help_text="An address that has no account yet gets one, with a link to set a password that you hand over. "
        "People who have an account already, other than the studio's own, are added by platform staff.",
    )
    role = _role_field()


class RoleForm(DashboardForm):
    """Another role."""

    role = _role_field()


@dataclass(frozen=True)
class Member:
    """A member as the list shows them.

    Attributes:
        is_last_admin: nobody else could administer the studio.
        has_link: whoever looks may give them a link to set a password, as far as the list can tell.
        waits: they have not set a password yet.
    """

    membership: Membership
    is_you: bool
    is_last_admin: bool
    has_link: bool
    waits: bool

    @property
    def may(self) -> str:
        """What their role may do, in words."""
        return ROLE_WORDS[Role(self.membership.role)]


@studio_page()
def members(request: StudioRequest) -> HttpResponse:
    """Show everybody with their role. Two queries on top of the gate's."""
    tenant = request.studio.tenant
    rows = list(Membership.objects.for_tenant(tenant).select_related("user"))
    admins = set(admins_who_can_sign_in(tenant).values_list("pk", flat=True))
    makers = {tenant.pk, None} if request.studio.is_staff else {tenant.pk}
    found = [
        Member(
            row,
            is_you=row.user_id == request.user.pk,
            is_last_admin=admins == {row.pk},
            has_link=row.user.made_for_id in makers and not row.user.is_staff,
            waits=not row.user.has_usable_password(),
        )
        for row in rows
    ]
    return render(request, "dashboard/members.html", {"section": "members", "members": found})


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def member_new(request: StudioRequest) -> HttpResponse:
    """Ask whom to add; for a new account answer with the link to set its password."""
    tenant = request.studio.tenant
    form = MemberForm(sent(request), initial={"role": Role.PRODUCT_MANAGER})
    added: Added | None = None
    if form.is_valid():
        with form.refusing():
            added = member_add(tenant=tenant, actor=request.user, **form.cleaned_data)
    if added is None:
        words = {"heading": "Add a member", "lead": "", "submit": "Add the member"}
        back = reverse("members", args=[tenant.slug])
        return form_page(request, "dashboard/make.html", form, section="members", back=back, **words)
    user = added.membership.user
    if added.is_new_account:
        return _link_page(request, password_link(tenant=tenant, user=user, actor=request.user), is_new=True)
    _say_role(request, user.get_username(), added.membership.role, added.note)
    return redirect("members", tenant.slug)


def _say_role(request: StudioRequest, username: str, role: str, note: str) -> None:
    messages.success(request, f"{username} is {Role(role).label.lower()} now.")
    if note:
        messages.warning(request, note)


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def member_role(request: StudioRequest, username: str) -> HttpResponse:
    """Ask for another role, and give it."""
    membership = _find(request, username)
    form = RoleForm(sent(request), initial={"role": membership.role})
    if form.is_valid():
        with form.refusing():
            given = member_set(tenant=membership.tenant, user=membership.user, actor=request.user, **form.cleaned_data)
            _say_role(request, username, given.membership.role, given.note)
            return redirect("members", membership.tenant.slug)
    return _ask(request, "dashboard/member_role.html", membership, form)


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def member_remove_page(request: StudioRequest, username: str) -> HttpResponse:
    """Ask, then take the role away."""
    membership = _find(request, username)
    form = DashboardForm(sent(request))
    if form.is_valid():
        with form.refusing():
            member_remove(tenant=request.studio.tenant, user=membership.user, actor=request.user)
            messages.success(request, f"{username} is no member of {request.studio.tenant.name} any more.")
            is_out = membership.user == request.user and not request.studio.is_staff
            return redirect("home") if is_out else redirect("members", request.studio.tenant.slug)
    return _ask(request, "dashboard/member_remove.html", membership, form)


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def member_link(request: StudioRequest, username: str) -> HttpResponse:
    """Ask, then answer with a link with which the person sets a password."""
    membership = _find(request, username)
    form = DashboardForm(sent(request))
    if form.is_valid():
        with form.refusing():
            link = password_link(tenant=request.studio.tenant, user=membership.user, actor=request.user)
            return _link_page(request, link, is_new=False)
    problem = ""
    if not may_link(membership.user, request.studio.tenant, request.user):
        problem = "This account is not the studio's own, so only platform staff can give it a new password."
    return _ask(request, "dashboard/member_link.html", membership, form, problem)


def _link_page(request: StudioRequest, link: PasswordLink, *, is_new: bool) -> HttpResponse:
    """Return the one page that ever holds the link: the answer to the POST itself."""
    context = {
        "section": "members",
        "person": link.user,
        "link": request.build_absolute_uri(link.path),
        "days": settings.PASSWORD_RESET_TIMEOUT // 86_400,
        "is_new": is_new,
    }
    return render(request, "dashboard/member_link_shown.html", context)


def _find(request: StudioRequest, username: str) -> Membership:
    rows = Membership.objects.for_tenant(request.studio.tenant).select_related("user")
    found = get_object_or_404(rows, user__username=username)
    found.tenant = request.studio.tenant
    return found


def _ask(
    request: StudioRequest, template: str, membership: Membership, form: DashboardForm, problem: str = ""
) -> HttpResponse:
    person: User = membership.user
    return form_page(
        request,
        template,
        form,
        section="members",
        person=person,
        is_you=person == request.user,
        problem=problem,
        back=reverse("members", args=[request.studio.tenant.slug]),
    )
