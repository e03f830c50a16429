"""People and their roles."""

from __future__ import annotations

from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api.authentication import needs
from tenants.api.bodies import Answer, Body, Choice, Query, read_body, read_query
from tenants.api.paging import PageQuery, page_of
from tenants.api.problems import not_found
from tenants.api.schema import operation, page_answer
from tenants.api.studio_view import StudioView, page
from tenants.models import Membership, Role, Scope, User
from tenants.services import member_remove, member_set

MEMBER = {
    "username": "mara",
    "name": "Mara Lindt",
    "role": "product_manager",
    "member_since": "2026-10-02T09:14:07Z",
}


class MemberAnswer(Answer[Membership]):
    """A person and their role in the studio."""

    username = serializers.CharField(source="user.username")
    name = serializers.CharField(source="user.get_full_name", help_text="Empty where the person gave none.")
    role = serializers.ChoiceField(choices=Role.choices)
    member_since = serializers.DateTimeField(source="created_at")


class MemberRole(Body):
    """The role to give."""

    role = Choice(choices=Role.choices)


class MemberQuery(PageQuery):
    """Which members."""

    role = serializers.ChoiceField(choices=Role.choices, required=False)


class MemberList(StudioView):
    """The studio's people."""

    tag: ClassVar = "Members"

    @operation(
        "members_list",
        need=needs(Scope.READ),
        query=MemberQuery,
        answer=page_answer(MemberAnswer),
        answer_example={"results": [MEMBER], "next_cursor": None},
    )
    def get(self, request: Request) -> Response:
        """List the studio's members, by user name."""
        asked = read_query(request, MemberQuery)
        rows = Membership.objects.for_tenant(self.tenant).select_related("user")
        if "role" in asked:
            rows = rows.filter(role=asked["role"])
        return page(page_of(rows, asked, by="user__username", kind=str), MemberAnswer)


class MemberDetail(StudioView):
    """One person's role."""

    tag: ClassVar = "Members"

    @operation("members_read", need=needs(Scope.READ), answer=MemberAnswer, answer_example=MEMBER)
    def get(self, request: Request, username: str) -> Response:
        """Read a member."""
        read_query(request, Query)
        return Response(MemberAnswer(self._membership(username)).data)

    @operation(
        "members_set",
        need=needs(Scope.MEMBERS_WRITE),
        body=MemberRole,
        answer=MemberAnswer,
        example={"role": "product_manager"},
        answer_example=MEMBER,
    )
    def put(self, request: Request, username: str) -> Response:
        """Give a person a role, or another one.

        The person has an account already. The studio keeps at least one studio admin.
        """
        given = read_body(request, MemberRole)
        user = User.objects.filter(username=username, is_active=True).first()
        if user is None:
            raise _nobody(username)
        membership = member_set(tenant=self.tenant, user=user, role=given["role"], actor=self.actor)
        return Response(MemberAnswer(membership).data)

    @operation("members_remove", need=needs(Scope.MEMBERS_WRITE), status=204)
    def delete(self, request: Request, username: str) -> Response:
        """Take a person's role in the studio away."""
        read_query(request, Query)
        member_remove(tenant=self.tenant, user=self._membership(username).user, actor=self.actor)
        return Response(status=204)

    def _membership(self, username: str) -> Membership:
        rows: Any = Membership.objects.for_tenant(self.tenant).select_related("user")
        found: Membership | None = rows.filter(user__username=username).first()
        if found is None:
            raise _nobody(username)
        return found


def _nobody(username: str) -> Exception:
    return not_found(f"There is no “{username}” here.")
