"""People and their roles."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.urls import reverse
from rest_framework import serializers

from recsite.api.authentication import ADMIN_IN_PERSON
from recsite.api.bodies import Answer, Body, Choice, Nothing, Text
from recsite.api.operations.lookups import one_of
from recsite.api.paging import PageQuery, page_of
from recsite.api.problems import not_found
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from tenants.access import is_platform_staff
from tenants.models import Membership, Role, Scope, User
from tenants.paging import Page
from tenants.people import member_add, password_link
from tenants.services import NobodyToAdd, member_remove, member_set

MEMBER = {"username": "mara", "name": "Mara Lindt", "role": "product_manager", "member_since": "2026-10-02T09:14:07Z"}


class MemberAnswer(Answer[Membership]):
    """A person and their role in the studio."""

    example = MEMBER
    username = serializers.CharField(source="user.username")
    name = serializers.CharField(source="user.get_full_name", help_text="Empty where the person gave none.")
    role = serializers.ChoiceField(choices=Role.choices)
    member_since = serializers.DateTimeField(source="created_at")


class ChangedMemberAnswer(MemberAnswer):
    """A person and the role they have now."""

    example: ClassVar = {**MEMBER, "note": ""}
    note = serializers.SerializerMethodField(help_text="What else must be done now, in words; usually empty.")

    def get_note(self, membership: Membership) -> str:
        """Return what is left to do."""
        return str(self.context["note"])


LINK = "https://recsite.example/set-password/NDI/d2x9k1-4f0c8b7a6e5d4c3b2a190817f6e5d4c3"


class AddedMemberAnswer(ChangedMemberAnswer):
    """A new member, with the link that a new account needs: shown this once."""

    example: ClassVar = {
        **MEMBER,
        "username": "nora@nightowl.example",
        "name": "",
        "role": "viewer",
        "note": "",
        "password_link": LINK,
    }
    shows_once = "password_link"
    password_link = serializers.SerializerMethodField(
        help_text="Where the person sets a password, once; null for somebody who had an account already, and to tokens."
    )

    def get_password_link(self, membership: Membership) -> str | None:
        """Return the link."""
        link: str | None = self.context["link"]
        return link


class PasswordLinkAnswer(Answer[Any]):
    """Where a person sets a password, once: shown this once."""

    example: ClassVar = {"username": "mara", "password_link": LINK}
    shows_once = "password_link"
    username = serializers.CharField()
    password_link = serializers.CharField()


class NewMember(Body):
    """Somebody to add."""

    example: ClassVar = {"who": "nora@nightowl.example", "role": "viewer"}
    who = Text(
        max_length=150,
        help_text="An e-mail address, which gets an account if it has none; or the user name of somebody whom the "
        "studio may add by itself.",
    )
    role = Choice(choices=Role.choices)


class MemberRole(Body):
    """The role to give."""

    example: ClassVar = {"role": "product_manager"}
    role = Choice(choices=Role.choices)


class MemberQuery(PageQuery):
    """Which members."""

    role = serializers.ChoiceField(choices=Role.choices, required=False)


class MemberList(StudioView, tag="Members"):
    @operation("members_list", Scope.READ, takes=MemberQuery, gives=MemberAnswer)
    def get(self, asked: dict[str, Any]) -> Page[Any]:
        """List the studio's members, by user name."""
        rows = Membership.objects.for_tenant(self.tenant).select_related("user")
        return page_of(rows, asked, by="user__username", kind=str)

    @operation("members_add", Scope.MEMBERS_WRITE, takes=NewMember, gives=AddedMemberAnswer, status=201)
    def post(self, given: dict[str, Any]) -> Result:
        """Add a member, by user name or e-mail address.

        An address without an account gets one, and the answer holds a link with which that person sets a password. No
        e-mail is sent: pass the link on. Of people who have an account, a studio may add those whose account it
        created or who were members before, and who belong to no other studio. Platform staff may add anybody.

        A token can't add a studio admin and gets no link: a person creates it in the dashboard, under Members.
        """
        is_by_token = self.caller.token is not None
        added = member_add(tenant=self.tenant, actor=self.actor, is_by_token=is_by_token, **given)
        user = added.membership.user
        link, note = None, added.note
        if added.is_new_account and is_by_token:
            note = "They need a link to set a password: a studio admin makes it in the dashboard, under Members."
        elif added.is_new_account:
            made = password_link(tenant=self.tenant, user=user, actor=self.actor)
            link = self.request.build_absolute_uri(made.path)
        return Result(added.membership, at=reverse("api-member", args=[user.get_username()]), link=link, note=note)


class MemberDetail(StudioView, tag="Members"):
    @operation("members_read", Scope.READ, gives=MemberAnswer)
    def get(self, username: str) -> Membership:
        """Read a member."""
        return _find(self, username)

    @operation("members_set", Scope.MEMBERS_WRITE, takes=MemberRole, gives=ChangedMemberAnswer)
    def put(self, given: dict[str, Any], username: str) -> Result:
        """Set a person's role.

        The person is a member, or somebody whom the caller may add (see `members_add`); for anybody else the answer is
        the same 404, whether they have an account or not. A studio keeps at least one studio admin. A token can
        neither make somebody one nor change the role of one.
        """
        user = User.objects.filter(username=username, is_active=True).first()
        if user is None:
            raise not_found(_nobody(username) if is_platform_staff(self.actor) else str(NobodyToAdd(username)))
        try:
            is_by_token = self.caller.token is not None
            made = member_set(tenant=self.tenant, user=user, actor=self.actor, is_by_token=is_by_token, **given)
        except NobodyToAdd as error:
            raise not_found(str(error)) from None
        return Result(made.membership, note=made.note)

    @operation("members_remove", Scope.MEMBERS_WRITE)
    def delete(self, username: str) -> None:
        """Remove a member.

        A token can't remove a studio admin.
        """
        user = _find(self, username).user
        member_remove(tenant=self.tenant, user=user, actor=self.actor, is_by_token=self.caller.token is not None)


class MemberLink(StudioView, tag="Members"):
    @operation("members_make_password_link", ADMIN_IN_PERSON, takes=Nothing, gives=PasswordLinkAnswer)
    def post(self, given: dict[str, Any], username: str) -> dict[str, Any]:
        """Create a link with which a member sets a password.

        For an account that this studio created and that opens nothing else; platform staff help the others. An earlier
        link of somebody without a password stops working.
        """
        link = password_link(tenant=self.tenant, user=_find(self, username).user, actor=self.actor)
        return {"username": username, "password_link": self.request.build_absolute_uri(link.path)}


def _find(view: StudioView, username: str) -> Membership:
    rows: QuerySet[Membership] = Membership.objects.for_tenant(view.tenant).select_related("user")
    return one_of(rows.filter(user__username=username), _nobody(username))


def _nobody(username: str) -> str:
    return f"There is no “{username}” here."
