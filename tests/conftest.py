"""Fixtures that several kinds of test share: a real Valkey, and the project's settings pointed at it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import hypothesis
import pytest
import redis
from django.conf import settings as project_settings
from django.core.cache import caches
from whitenoise.middleware import WhiteNoiseMiddleware
from xdist.scheduler import LoadScopeScheduling

from recsite import embedded
from recsite.embedded import EmbeddedValkey
from tenants.models import Role, Tenant, User
from tests import factories
from tests.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings

    from tests.bigquery.emulator import BigQuery

# Folders and files whose tests start real processes, or are those that take longest without.
SLOW = {"api", "browser", "faults", "doors", "bigquery", "demo", "upgrades", "test_pasted_commands.py"}
SLOW |= {"test_admin_pages.py", "test_bad_sources.py", "test_packing_blocks.py"}
SLOW |= {"test_loading.py", "test_loading_difference.py", "test_pages_queries.py"}
# Files that share what takes long to start run in one process.
UNITS = {"tests/browser/": "browser", "tests/bigquery/": "bigquery", "tests/contract/test_sources": "bigquery"}
UNITS |= {"tests/demo/test_every_player.py": "large demo", "tests/demo/test_panels.py": "large demo"}
# How long an example takes says more about this machine than about the code.
hypothesis.settings.register_profile("recsite", deadline=None)
hypothesis.settings.load_profile("recsite")


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """Yield one real valkey-server for the whole run."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"), options=("--save", "", "--appendonly", "no")).start()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: EmbeddedValkey, settings: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Yield a client of that server, emptied, with Django's settings (tables, caches, broker) pointed at it."""
    client = redis.Redis.from_url(valkey_server.url)
    client.flushall()
    settings.TABLES_REDIS_URL = valkey_server.url  # type: ignore[attr-defined]  # pytest-django's settings wrapper
    for name in ("default", "tables"):
        settings.CACHES[name]["LOCATION"] = valkey_server.url  # type: ignore[attr-defined]  # as above
    _forget_cache_connections()
    yield client
    client.close()
    _forget_cache_connections()


def _forget_cache_connections() -> None:
    caches.close_all()
    for alias in list(caches.settings):
        connections = caches._connections  # type: ignore[attr-defined]  # private; there is no other way to forget one
        if hasattr(connections, alias):
            delattr(connections, alias)


# --- BigQuery -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bigquery_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    """Yield one emulated BigQuery for the whole run."""
    # Google's client takes a second to import, which only these tests need to spend.
    from tests.bigquery.emulator import start_bigquery  # noqa: PLC0415

    with start_bigquery(tmp_path_factory.mktemp("bigquery")) as running:
        yield running


@pytest.fixture
def bigquery(bigquery_emulator: BigQuery, settings: Settings) -> BigQuery:
    """Return that BigQuery, its fronts reset, with the project's settings pointed at it."""
    bigquery_emulator.fronts.reset()
    settings.BIGQUERY_PROJECT = bigquery_emulator.client.project
    settings.BIGQUERY_API_ENDPOINT = bigquery_emulator.api_endpoint
    settings.BIGQUERY_STORAGE_ENDPOINT = bigquery_emulator.storage_endpoint
    return bigquery_emulator


# --- Who runs what --------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Have processes that share the tests (`-n 2`) draw from ports of their own."""
    if worker := getattr(config, "workerinput", None):
        number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        # Pairs of ports: Linux gives the even ones to clients and the odd ones to servers.
        embedded._chosen.update(port for port in range(1 << 16) if port // 2 % count != number)


class _ByUnit(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Hands out tests by file, and those together that share what takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByUnit:
    """Hand out tests in the order of `pytest_collection_modifyitems`."""
    config.option.loadscopereorder = False
    return _ByUnit(config, log)


def _unit(nodeid: str) -> str:
    """Return what runs in one process: a file, all files that need one thing which takes long to start, or a test.

    Each test of a fault takes seconds, and starts itself what it needs.
    """
    file = nodeid.partition("::")[0]
    if file.startswith("tests/faults/"):
        return nodeid
    return next((unit for start, unit in UNITS.items() if file.startswith(start)), file)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark by folder and file what is slow. That comes first, so that the end of a run is of small pieces."""
    for item in items:
        if SLOW & set(Path(item.path).parts):
            item.add_marker(pytest.mark.slow)
    yield
    slow = {_unit(item.nodeid) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: _unit(item.nodeid) not in slow)


# --- Databases ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let SQLite's test database be a file, as it is in production, so that threads have connections of their own."""
    database = project_settings.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database.setdefault("TEST", {})["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield the address of a real PostgreSQL. Where none can be started: a skip that says why, in CI a failure."""
    server = EmbeddedPostgres()
    try:
        server.start()
    except (OSError, KeyError, subprocess.SubprocessError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL here: {error} {getattr(error, 'output', None) or ''}")
    yield server.url
    server.stop()


# --- Pages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def static_files_found_once() -> Iterator[None]:
    """Have each test's client share what the first one's middleware found: looking takes 20 ms."""
    found: dict[str, Any] = {}
    find = WhiteNoiseMiddleware.add_files_from_finders

    def find_once(self: WhiteNoiseMiddleware) -> None:
        if not found:
            find(self)
            found.update(self.files)
        self.files.update(found)

    with patch.object(WhiteNoiseMiddleware, "add_files_from_finders", find_once):
        yield


# --- The cast -------------------------------------------------------------------------------------------------------


@pytest.fixture
def studio(db: None) -> Tenant:
    """Return the studio that `owner` and `teammate` belong to."""
    return factories.TenantFactory.create()


@pytest.fixture
def owner(studio: Tenant) -> User:
    """Return the studio's admin."""
    return factories.MembershipFactory.create(tenant=studio, role=Role.STUDIO_ADMIN).user


@pytest.fixture
def teammate(studio: Tenant) -> User:
    """Return a product manager of the studio."""
    return factories.MembershipFactory.create(tenant=studio, role=Role.PRODUCT_MANAGER).user


@pytest.fixture
def stranger(db: None) -> User:
    """Return the admin of another studio."""
    return factories.MembershipFactory.create(role=Role.STUDIO_ADMIN).user
