"""Every page of the dashboard keeps to its fifteen queries, with data as an installation has after a while.

How long they take is measured by `make bench-pages`, with more of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from benchmarks.pages_data import Amount, fill
from benchmarks.pages_routes import STAFF, urls
from models_registry.publishing import publish_tenant
from tenants.models import User
from tests.integration.dashboard_scene import signed_in

pytestmark = pytest.mark.django_db(transaction=True)

AMOUNT = Amount(
    studios=3, models=5, versions=3, days=2, loads_a_day=12, changes=25, testers=12, credentials=6, audit_entries=60
)


def asked(clients: dict[str, Client]) -> Iterator[tuple[str, int, int, str]]:
    for name, url in urls():
        client = clients["staff" if name in STAFF else "owner0"]
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(url)
            answer.getvalue()
        yield url, answer.status_code, len(queries), "\n".join(query["sql"][:120] for query in queries)


def test_pages__with_much_data__make_at_most_fifteen_queries(valkey: redis.Redis) -> None:
    tenant = fill(AMOUNT)
    assert publish_tenant(tenant.pk)
    clients = {name: signed_in(User.objects.get(username=name)) for name in ("owner0", "staff")}
    pages = 0
    for url, status, queries, sql in asked(clients):
        assert status in {200, 302, 405}, (url, status)
        assert queries <= 15, f"{url}: {queries}\n{sql}"
        pages += status == 200
    assert pages > 30
