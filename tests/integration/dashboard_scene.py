"""A studio with a model of three versions, loaded in a real Valkey, and ways to look at pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import unescape
from typing import Any, NamedTuple

import redis
from django.conf import settings
from django.test import Client
from django.utils import timezone

from models_registry.models import LoadState, RecommendationModel, RolloutRevision, Table, Version
from models_registry.publishing import publish_tenant
from serving.formats.layouts import Layout
from tenants.models import Tenant, User
from tests import factories
from tests.table_blocks import table_blocks


class Offers(NamedTuple):
    """The model and its versions: a with 60 %, b with 30 %, c with 10 %."""

    model: RecommendationModel
    a: Version
    b: Version
    c: Version

    @property
    def url(self) -> str:
        """The address of its rollout page."""
        return f"/studios/{self.model.tenant.slug}/models/{self.model.slug}"


def make_offers(tenant: Tenant, *, weights: dict[int, int] | None = None, **values: Any) -> Offers:
    """Make the model with its three versions, each loaded an hour ago with 1,000 rows, and its rollout."""
    model = factories.ModelFactory.create(tenant=tenant, slug="offers", name="Offers in the shop", **values)
    versions = [factories.VersionFactory.create(model=model, name=f"2026-11-{letter}") for letter in "abc"]
    for version in versions:
        factories.SourceFactory.create(version=version)
        give_table(version)
    factories.RolloutRevisionFactory.create(model=model, weights=weights or {0: 6000, 1: 3000, 2: 1000})
    return Offers(model, *versions)


def give_table(version: Version, *, rows: int = 1_000, at: datetime | None = None) -> Table:
    """Give a version a whole table whose data was read at that time (an hour ago)."""
    at = at or timezone.now() - timedelta(hours=1)
    load = factories.LoadFactory.create(version=version, state=LoadState.ACTIVE, started_at=at)
    table: Table = factories.TableFactory.create(load=load, row_count=rows)
    version.active_table = table
    version.last_fence = version.active_fence = load.fence
    version.save(update_fields=["active_table", "last_fence", "active_fence"])
    return table


def put_rows(valkey: redis.Redis, version: Version, rows: Sequence[tuple[list[str], dict[str, Any]]]) -> None:
    """Write the one block of a version's table, and publish the studio."""
    table = version.active_table
    assert table is not None
    layout = Layout.parse(version.layout.fields)
    by_key = {tuple(key): record for key, record in rows}
    valkey.mset(table_blocks(settings.REDIS_PREFIX, table.table_id, by_key, layout, 0))
    assert publish_tenant(version.model.tenant_id)


def signed_in(person: User) -> Client:
    """Return a browser in which somebody is signed in."""
    client = Client()
    client.force_login(person)
    return client


class Page(NamedTuple):
    """An answer, and what a person reads on it."""

    status: int
    html: str
    text: str
    location: str


def page(response: Any) -> Page:
    """Return an answer as a person reads it: tags left out, spaces as one."""
    html = response.getvalue().decode()
    body = re.sub(r"<(script|title)\b.*?</\1>", " ", html, flags=re.DOTALL)
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())
    return Page(response.status_code, html, text, response.headers.get("Location", ""))


def get(client: Client, url: str, **headers: str) -> Page:
    """Open a page."""
    return page(client.get(url, headers=headers))


def post(client: Client, url: str, values: dict[str, Any] | None = None, **headers: str) -> Page:
    """Send a form."""
    return page(client.post(url, values or {}, headers=headers))


def field_value(html: str, name: str) -> str:
    """Return the value of an input of that name."""
    found = re.search(rf'<input[^>]*\bname="{re.escape(name)}"[^>]*>', html)
    assert found is not None, f"no input {name}"
    value = re.search(r'\bvalue="([^"]*)"', found[0])
    return unescape(value[1]) if value else ""


def newest(model: RecommendationModel) -> RolloutRevision:
    """Return the revision that is served."""
    return RolloutRevision.objects.unscoped().filter(model=model).latest("number")
