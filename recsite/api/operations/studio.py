"""The studio and the caller."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from recsite.api.authentication import ANYONE
from recsite.api.bodies import Answer
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants import access
from tenants.models import Role, Scope, Tenant

STUDIO = {
    "slug": "night-owl",
    "name": "Night Owl Games",
    "created_at": "2026-10-02T09:14:07Z",
    "allowed_datasets": ["night-owl-analytics.recommendations"],
    "allowed_gs_prefixes": ["gs://night-owl-tables/out/"],
    "allowed_local_roots": [],
    "requests_per_second": 50000,
    "burst": 100000,
    "snapshot_revision": 1793527200123,
    "snapshot_published_at": "2026-11-01T10:00:00Z",
}
CALLER = {
    "studio": "night-owl",
    "kind": "token",
    "name": "Airflow, nightly publish",
    "role": None,
    "scopes": ["read", "loads:run", "versions:write"],
    "expires_at": None,
}


class StudioAnswer(serializers.ModelSerializer[Tenant]):
    """The studio: what its sources may read, its limits, and when serving last learnt of a change."""

    example = STUDIO
    allowed_datasets = serializers.ListField(child=serializers.CharField())
    allowed_gs_prefixes = serializers.ListField(child=serializers.CharField())
    allowed_local_roots = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = Tenant
        fields = tuple(STUDIO)


class CallerAnswer(Answer[Any]):
    """Who calls, and what they may do."""

    example = CALLER
    studio = serializers.CharField()
    kind = serializers.ChoiceField(choices=["token", "person"])
    name = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices, allow_null=True, help_text="A person's.")
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))
    expires_at = serializers.DateTimeField(allow_null=True, help_text="When the token stops working; null: never.")


class StudioDetail(StudioView, tag="Studio"):
    @operation("studio_read", Scope.READ, gives=StudioAnswer)
    def get(self) -> Tenant:
        """Read the studio."""
        return self.tenant


class CallerDetail(StudioView, tag="Studio"):
    @operation("caller_read", ANYONE, gives=CallerAnswer)
    def get(self) -> dict[str, Any]:
        """Read who is calling.

        A job can check its token with this before it begins.
        """
        token, person = self.caller.token, self.caller.person
        if token is not None:
            answer = {"kind": "token", "name": token.name, "role": None, "scopes": token.scopes}
        else:
            may = [scope for scope, role in access.ROLE_FOR.items() if access.may(person, self.tenant, role)]
            name = person.get_username() if person else ""
            answer = {"kind": "person", "name": name, "role": access.role_of(person, self.tenant), "scopes": may}
        return {"studio": self.tenant.slug, "expires_at": token and token.expires_at, **answer}
