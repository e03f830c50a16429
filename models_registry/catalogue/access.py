"""Which models a credential may ask for: those that it is narrowed to, or all of its studio's, also those to come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from models_registry.models import RecommendationModel
from tenants.callers import AskableModels, UnknownModel
from tenants.models import Credential, Tenant
from tenants.rules import RuleBroken


@dataclass(frozen=True)
class NarrowedTo:
    """What a credential's services take as `allowed_models`. Without models: all of the studio's."""

    models: Collection[RecommendationModel]

    @property
    def slugs(self) -> list[str]:
        """Their short names, sorted."""
        return sorted(model.slug for model in self.models)

    def save(self, credential: Credential) -> list[str]:
        """Narrow a credential to these models, in the caller's transaction; return the short names before.

        Raises:
            RuleBroken: a model is another studio's.
        """
        if any(model.tenant_id != credential.tenant_id for model in self.models):
            raise RuleBroken("A credential can be limited only to models of its own studio.", field="allowed_models")
        before = sorted(narrowed_to(credential).values_list("slug", flat=True))
        if before != self.slugs:
            _links().filter(credential=credential).delete()
            _links().bulk_create(
                _links().model(credential=credential, recommendationmodel=model) for model in set(self.models)
            )
        return before


def narrowed_to(credential: Credential) -> QuerySet[RecommendationModel]:
    """Return the models that a credential is narrowed to; none: it may ask for all."""
    return RecommendationModel.objects.unscoped().filter(credentials=credential)


def models_of(credential: Credential) -> QuerySet[RecommendationModel]:
    """Return the models that a credential may ask for. One query, and one for whoever reads them."""
    narrowed = narrowed_to(credential)
    return narrowed if narrowed.exists() else RecommendationModel.objects.for_tenant(credential.tenant)


def askable(credential: Credential, slugs: Collection[str]) -> AskableModels:
    """Return short names as a token may carry them, each once. Up to two queries.

    Raises:
        UnknownModel: the credential may not ask for one of them, or there is none.
    """
    wanted = list(dict.fromkeys(slugs))
    if not wanted or not set(models_of(credential).values_list("slug", flat=True)).issuperset(wanted):
        raise UnknownModel("models names a model that this credential may not ask for.", field="models")
    return AskableModels(wanted)


def narrowed_slugs(credential_ids: Iterable[int]) -> dict[int, list[str]]:
    """Return the sorted short names that each credential is narrowed to, by its key; [] for all. One query.

    The caller has narrowed the credentials to one studio.
    """
    rows = _links().filter(credential_id__in=list(credential_ids))
    found: dict[int, list[str]] = defaultdict(list)
    for credential_id, slug in rows.values_list("credential_id", "recommendationmodel__slug"):
        found[credential_id].append(slug)
    return defaultdict(list, {credential_id: sorted(slugs) for credential_id, slugs in found.items()})


def narrowed_to_model(tenant: Tenant, slug: str) -> list[int]:
    """Return the keys of a studio's credentials that are narrowed to a model, among others or alone. One query."""
    rows = _links().filter(recommendationmodel__tenant=tenant, recommendationmodel__slug=slug)
    return list(rows.values_list("credential_id", flat=True))


def _links() -> Any:
    return RecommendationModel.credentials.through._default_manager  # noqa: SLF001 - Django's documented name
