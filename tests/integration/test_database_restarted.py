"""A database that drops its connections, as PostgreSQL does when it is restarted: requests and loads go on."""

from __future__ import annotations

import psycopg
import pytest
from django.core.signals import request_finished, request_started
from django.db import connection

from tenants.models import Tenant
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

on_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite has no connections that could be lost; test_postgres.py runs it"
)


def drop_connections() -> None:
    """End all connections to the database, from another one."""
    place = connection.settings_dict
    with psycopg.connect(
        host=place["HOST"], port=place["PORT"], user=place["USER"], dbname="postgres", autocommit=True
    ) as administrator:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        assert administrator.execute(ended, [place["NAME"]]).fetchall()


@on_postgresql
def test_request__after_a_restart__has_a_new_connection() -> None:
    made = factories.TenantFactory.create()
    request_started.send(sender=None)
    assert Tenant.objects.count() == 1
    request_finished.send(sender=None)
    drop_connections()

    request_started.send(sender=None)
    assert Tenant.objects.get() == made
