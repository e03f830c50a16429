"""Every page of the dashboard with an address that `pages_data` has filled; enumerated, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver, reverse

from models_registry.models import Load, Table, TableState
from tenants.models import AutomationToken, Credential, Membership, Tenant

# Not pages of the dashboard: what programs ask, and the admin. Of the rest, what only takes a POST answers 405.
OTHERS = {"admin", "api", "v1", "metrics", "healthz", "readyz"}
# Pages outside a studio; with a session of platform staff, who see every studio.
STAFF = {"home"}
# Addresses that are worth asking in several ways.
QUERIES = {
    "traffic": ("?period=hour", "?period=day", "?period=week", "?period=month"),
    "model-traffic": ("?period=hour", "?period=day", "?period=week", "?period=month"),
    "why": ("", "?player_id=p000042"),
}


class UnknownParameter(LookupError):
    """An address has a parameter that nobody has said a value for."""


def urls() -> Iterator[tuple[str, str]]:
    """Yield every page's name and address in the first studio.

    Raises:
        UnknownParameter: a new address names something that has no value here yet.
    """
    values = _values(Tenant.objects.get(slug="studio-0"))
    for pattern, prefix in _patterns(get_resolver(), ""):
        name = pattern.name or ""
        path = f"{prefix}{pattern.pattern}"
        if path.partition("/")[0] in OTHERS or not name:
            continue
        wanted = list(pattern.pattern.regex.groupindex)
        missing = [parameter for parameter in wanted if parameter not in values]
        if missing:
            raise UnknownParameter(f"{name}: what is {', '.join(missing)}? Add it to pages_routes._values.")
        url = reverse(name, kwargs={parameter: values[parameter] for parameter in wanted})
        for query in QUERIES.get(name, ("",)):
            yield name, f"{url}{query}"


def _values(tenant: Tenant) -> dict[str, Any]:
    of_version = {"version__model__slug": "model-0", "version__name": "v0"}
    load = Load.objects.for_tenant(tenant).filter(**of_version).latest("fence")
    tables = Table.objects.for_tenant(tenant).filter(**of_version, state=TableState.READY)
    credential = Credential.objects.for_tenant(tenant).earliest("pk")
    return {
        "studio": tenant.slug,
        "model": "model-0",
        "version": "v0",
        "number": 1,
        "load": load.pk,
        "client_id": credential.client_id,
        "table": tables.earliest("pk").table_id,
        "username": Membership.objects.for_tenant(tenant).latest("pk").user.username,
        "token": AutomationToken.objects.for_tenant(tenant).earliest("pk").public_id,
        "uidb64": "MQ",
    }


def _patterns(resolver: URLResolver, prefix: str) -> Iterator[tuple[URLPattern, str]]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            yield from _patterns(entry, f"{prefix}{entry.pattern}")
        elif isinstance(entry, URLPattern):
            yield entry, prefix
