"""Credentials: what game clients and backends get their tokens with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.urls import reverse
from django.utils.functional import cached_property
from rest_framework import serializers

from models_registry.catalogue.access import NarrowedTo, narrowed_slugs, narrowed_to_model
from models_registry.models import RecommendationModel
from models_registry.traffic.reading import requests_of_each
from recsite.api.bodies import Answer, Body, Change, Choice, Moment, Reason, Text, Whole
from recsite.api.operations.lookups import one_of
from recsite.api.paging import PageQuery, page_of
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from tenants.credentials import (
    credential_issue,
    credential_register_key,
    credential_revoke,
    credential_rotate,
    credential_update,
)
from tenants.models import Algorithm, Credential, CredentialKind, Scope
from tenants.paging import Page
from tenants.rules import RuleBroken

CREDENTIAL = {
    "client_id": "cr_8v3n5k0c2fdt",
    "name": "Android client, live",
    "kind": "secret",
    "algorithm": "HS256",
    "allowed_models": ["offers"],
    "requests_per_second": 10000,
    "burst": 20000,
    "hint": "rsk_…t9Zk",
    "generation": 2,
    "previous_until": "2026-11-08T00:00:00Z",
    "public_key": "",
    "issuer": "",
    "created_at": "2026-10-02T09:14:07Z",
    "created_by": "mara",
    "last_used_at": "2026-11-01T10:00:00Z",
    "requests_24h": 812345,
    "revoked_at": None,
}
KEY_CREDENTIAL = {
    **CREDENTIAL,
    "client_id": "cr_1s7h4w9jqe2m",
    "name": "Game backend, live",
    "kind": "public_key",
    "algorithm": "EdDSA",
    "hint": "",
    "generation": 1,
    "previous_until": None,
    "public_key": "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
    "issuer": "https://auth.nightowl.example",
}
SECRET = "rsk_" + "x" * 43


class CredentialAnswer(Answer[Credential]):
    """A credential, without its secret."""

    example = CREDENTIAL
    client_id = serializers.CharField()
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=CredentialKind.choices)
    algorithm = serializers.ChoiceField(choices=Algorithm.choices)
    allowed_models = serializers.SerializerMethodField(
        help_text="Models it is narrowed to; empty: all of the studio's."
    )
    requests_per_second = serializers.IntegerField()
    burst = serializers.IntegerField()
    hint = serializers.CharField(source="secret_hint", help_text="What its secret begins and ends with.")
    generation = serializers.IntegerField(help_text="How many secrets it has had.")
    previous_until = serializers.DateTimeField(
        allow_null=True, help_text="Until when the secret before it works too; null: it doesn’t."
    )
    public_key = serializers.CharField(help_text="PEM; empty for one with a secret.")
    issuer = serializers.CharField(help_text="The `iss` of tokens that the studio signs itself.")
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField(
        source="created_by.username", default=None, allow_null=True, help_text="null: a token, or somebody gone."
    )
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")
    requests_24h = serializers.SerializerMethodField(help_text="Requests with its tokens in the last 24 hours.")
    revoked_at = serializers.DateTimeField(allow_null=True)

    def get_allowed_models(self, credential: Credential) -> list[str]:
        """Return their short names."""
        return self._narrowed_slugs[credential.pk]

    def get_requests_24h(self, credential: Credential) -> int:
        """Return how many; one that was made just now has none yet."""
        return getattr(credential, "requests_24h", None) or 0

    @cached_property
    def _narrowed_slugs(self) -> dict[int, list[str]]:
        """Of all credentials of this answer, so that a list takes one query."""
        listed: Any = self.parent.instance if isinstance(self.parent, serializers.ListSerializer) else [self.instance]
        return narrowed_slugs(credential.pk for credential in listed)


class IssuedCredentialAnswer(CredentialAnswer):
    """A credential with its secret: shown this once, kept nowhere."""

    shows_once = "client_secret"
    client_secret = serializers.SerializerMethodField(help_text="It is not shown again.")

    def get_client_secret(self, credential: Credential) -> str:
        """Return the secret."""
        return str(self.context["secret"])


def _model_slugs() -> serializers.ListField:
    return serializers.ListField(
        child=Text(max_length=50),
        max_length=500,
        required=False,
        help_text="Short names of the models it is narrowed to; empty: all of the studio's.",
    )


def _rate(what: str) -> Whole:
    return Whole(min_value=1, max_value=1_000_000, required=False, help_text=what)


class NewCredential(Body):
    """A credential to issue, with a secret."""

    example: ClassVar = {"name": "Android client, live", "allowed_models": ["offers"]}
    name = Text(max_length=100, help_text="Where it is used.")
    allowed_models = _model_slugs()
    requests_per_second = _rate("How many requests a second it may make; 10,000 without it.")
    burst = _rate("How many may come at once; 20,000 without it.")


class NewKeyCredential(NewCredential):
    """A credential to register, for tokens that the studio signs itself."""

    example: ClassVar = {name: KEY_CREDENTIAL[name] for name in ("name", "public_key", "algorithm", "issuer")}
    public_key = Text(max_length=10_000, help_text="PEM.")
    algorithm = Choice(choices=["EdDSA", "ES256", "RS256"], help_text="The only one its tokens may use.")
    issuer = Text(max_length=200, help_text="What `iss` in its tokens is.")


class CredentialChange(Change):
    """What is to change; what is left out stays."""

    example: ClassVar = {"requests_per_second": 20000, "allowed_models": []}
    name = Text(max_length=100, required=False)
    allowed_models = _model_slugs()
    requests_per_second = _rate("How many requests a second it may make.")
    burst = _rate("How many may come at once.")


class Rotation(Body):
    """How long the old secret still works."""

    example: ClassVar = {"previous_until": "2026-11-08T00:00:00Z"}
    previous_until = Moment(
        help_text="Until when the old secret works, at most 30 days from now; an instant that is past ends it at once."
    )
    based_on = Whole(
        min_value=1,
        max_value=10**9,
        required=False,
        help_text="The `generation` this was decided on: if there is a newer one, nothing is changed and the answer is "
        "a 409 `conflict`. Without it, whatever secret is there is replaced.",
    )


class CredentialQuery(PageQuery):
    """Which credentials."""

    state = serializers.ChoiceField(choices=["active", "revoked"], required=False)
    kind = serializers.ChoiceField(choices=CredentialKind.choices, required=False)
    model = serializers.SlugField(
        max_length=50, required=False, help_text="Those that name this model; one that names none may ask for it too."
    )


class CredentialList(StudioView, tag="Credentials"):
    @operation("credentials_list", Scope.READ, takes=CredentialQuery, gives=CredentialAnswer)
    def get(self, asked: dict[str, Any]) -> Page[Any]:
        """List the credentials, newest first."""
        rows = _rows(self)
        if "state" in asked:
            rows = rows.filter(revoked_at__isnull=asked.pop("state") == "active")
        if "model" in asked:
            rows = rows.filter(pk__in=narrowed_to_model(self.tenant, asked.pop("model")))
        return page_of(rows, asked, by="pk", is_descending=True)

    @operation(
        "credentials_issue",
        Scope.CREDENTIALS_WRITE,
        takes=NewCredential,
        gives=IssuedCredentialAnswer,
        status=201,
        answer_example={**CREDENTIAL, "generation": 1, "previous_until": None, "client_secret": SECRET},
    )
    def post(self, given: dict[str, Any]) -> Result:
        """Issue a credential with a secret.

        The answer shows the secret, and nothing shows it again. Serving accepts it within 2 seconds.
        """
        models = _models(self, given.pop("allowed_models", []))
        issued = credential_issue(tenant=self.tenant, actor=self.actor, allowed_models=models, **given)
        return Result(issued.credential, at=_address(issued.credential), secret=issued.secret)


class KeyRegistration(StudioView, tag="Credentials"):
    @operation(
        "credentials_register_key",
        Scope.CREDENTIALS_WRITE,
        takes=NewKeyCredential,
        gives=CredentialAnswer,
        status=201,
        answer_example=KEY_CREDENTIAL,
    )
    def post(self, given: dict[str, Any]) -> Result:
        """Register a public key.

        Your own backend then signs player tokens with the private half, which nobody else has. Their header names the
        credential's client id as `kid`.
        """
        models = _models(self, given.pop("allowed_models", []))
        credential = credential_register_key(tenant=self.tenant, actor=self.actor, allowed_models=models, **given)
        return Result(credential, at=_address(credential))


class CredentialDetail(StudioView, tag="Credentials"):
    @operation("credentials_read", Scope.READ, gives=CredentialAnswer)
    def get(self, client_id: str) -> Credential:
        """Read a credential."""
        return _find(self, client_id)

    @operation(
        "credentials_update",
        Scope.CREDENTIALS_WRITE,
        takes=CredentialChange,
        gives=CredentialAnswer,
        answer_example={**CREDENTIAL, "requests_per_second": 20000, "allowed_models": []},
    )
    def patch(self, given: dict[str, Any], client_id: str) -> Credential:
        """Change a credential's name, models or limits."""
        credential = _find(self, client_id)
        if "allowed_models" in given:
            given["allowed_models"] = _models(self, given["allowed_models"])
        credential_update(credential=credential, actor=self.actor, **given)
        return _find(self, client_id)


class CredentialRotation(StudioView, tag="Credentials"):
    @operation(
        "credentials_rotate",
        Scope.CREDENTIALS_WRITE,
        takes=Rotation,
        gives=IssuedCredentialAnswer,
        answer_example={**CREDENTIAL, "client_secret": SECRET},
    )
    def post(self, given: dict[str, Any], client_id: str) -> Result:
        """Rotate a credential's secret: issue a new one, and end the old one when you choose.

        The answer shows the new secret, and nothing shows it again. An earlier secret that still worked ends now.
        """
        issued = credential_rotate(credential=_find(self, client_id), actor=self.actor, **given)
        return Result(issued.credential, at=_address(issued.credential), secret=issued.secret)


class CredentialRevocation(StudioView, tag="Credentials"):
    @operation(
        "credentials_revoke",
        Scope.CREDENTIALS_WRITE,
        takes=Reason,
        gives=CredentialAnswer,
        example={"reason": "The secret was in a public repository"},
        answer_example={**CREDENTIAL, "revoked_at": "2026-11-03T08:30:00Z"},
    )
    def post(self, given: dict[str, Any], client_id: str) -> Credential:
        """Revoke a credential and all of its tokens, for good.

        Serving refuses them within 2 seconds.
        """
        return credential_revoke(credential=_find(self, client_id), actor=self.actor, reason=given["reason"])


def _rows(view: StudioView) -> QuerySet[Credential]:
    rows: QuerySet[Credential] = Credential.objects.for_tenant(view.tenant)
    return rows.annotate(requests_24h=requests_of_each()).select_related("tenant", "created_by")


def _find(view: StudioView, client_id: str) -> Credential:
    return one_of(_rows(view).filter(client_id=client_id), "There is no such credential.")


def _models(view: StudioView, slugs: Sequence[str]) -> NarrowedTo:
    """Return the studio's models of these names.

    Raises:
        RuleBroken: one does not exist, or is another studio's.
    """
    rows = RecommendationModel.objects.for_tenant(view.tenant).filter(slug__in=slugs)
    found = {model.slug: model for model in rows}
    missing = [slug for slug in slugs if slug not in found]
    if missing:
        raise RuleBroken(f"There is no model “{missing[0]}”.", field="allowed_models")
    return NarrowedTo(list(found.values()))


def _address(credential: Credential) -> str:
    return reverse("api-credential", args=[credential.client_id])
