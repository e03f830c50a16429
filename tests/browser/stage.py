"""A process beside the site's that makes what a test needs in the site's database: studios with people and data.

It reads one command a line, as JSON (name, arguments), and answers each with one line of JSON. Tests can't do this in
their own process: Playwright's event loop runs there, and Django's database refuses to work beside one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")
django.setup()

import pyarrow as pa  # noqa: E402 - after the setup, as are those below
import pyarrow.parquet as pq  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from models_registry.catalogue.services import model_create, model_update, version_create  # noqa: E402
from models_registry.loading.requests import load_request  # noqa: E402
from models_registry.loading.running import run_load  # noqa: E402
from models_registry.models import Load, RecommendationModel, TrafficPosition, TrafficSource, TrafficSpan, Version  # noqa: E402
from models_registry.rollouts.services import rollout_reweight  # noqa: E402
from models_registry.rollouts.testers import set_tester  # noqa: E402
from tenants.automation import automation_token_issue  # noqa: E402
from tenants.credentials import credential_issue  # noqa: E402
from tenants.models import Membership, Role, Tenant, User  # noqa: E402
from tenants.people import member_add, password_link  # noqa: E402
from tenants.services import tenant_create  # noqa: E402
from tests.browser.site import MODEL, PLAYERS  # noqa: E402
from tests.factories import DEFAULT_ANSWER, LAYOUT, PASSWORD_HASH, TrafficFactory  # noqa: E402

Json = dict[str, Any]


def make_studio(slug: str, folder: str) -> Json:
    """Make a studio with a person of each role, an automation token and a credential; it may read the folder."""
    tenant = tenant_create(slug=slug, name=slug.replace("-", " ").title(), actor=None, allowed_local_roots=[folder])
    people = {role: _person(f"{slug}-{role.value.replace('_', '-')}") for role in Role}
    for role, person in people.items():
        Membership.objects.create(tenant=tenant, user=person, role=role)
    admin = people[Role.STUDIO_ADMIN]
    token = automation_token_issue(tenant=tenant, name="Airflow", scopes=["read"], actor=admin)
    game = credential_issue(tenant=tenant, name="Game backend", actor=admin)
    return {
        "people": {role.value: person.username for role, person in people.items()},
        "sessions": {role.value: _session(person) for role, person in people.items()},
        "read_token": token.secret,
        "token_id": token.token.public_id,
        "client_id": game.credential.client_id,
        "client_secret": game.secret,
    }


def make_model(slug: str, folder: str, weights: dict[str, int]) -> Json:
    """Make the studio's model with versions of these weights (in basis points), all of them loaded, and a default."""
    tenant = Tenant.objects.get(slug=slug)
    admin = User.objects.get(username=f"{slug}-studio-admin")
    model = model_create(
        tenant=tenant,
        slug=MODEL,
        name="Offers in the shop",
        key_fields=["player_id"],
        unit_field="player_id",
        layout=LAYOUT,
        default_answer=DEFAULT_ANSWER,
        actor=admin,
    )
    # Every player gets the same offer here, so that a new offer is a new distribution.
    model_update(model=model, max_psi=1000, actor=admin)
    for number, name in enumerate(weights):
        path = Path(folder) / f"{name}.parquet"
        write_rows(str(path), number)
        version = version_create(model=model, name=name, source_kind="parquet", source_location=str(path), actor=admin)
        _load(version, admin)
    if len(weights) > 1:
        weights_bp = {code: weights[name] for code, name in enumerate(weights)}
        rollout_reweight(model=model, weights_bp=weights_bp, actor=admin, reason="A first split")
    return {}


def write_rows(path: str, offer_id: int, players: int = PLAYERS) -> Json:
    """Write a source in which every player gets this offer; one of 5,000 does not fit the layout."""
    rows = {
        "player_id": [f"p{number:06}" for number in range(players)],
        "offer_id": [offer_id] * players,
        "discount": [0.25] * players,
    }
    pq.write_table(pa.table(rows), path)
    return {}


def _load(version: Version, admin: User) -> Load:
    """Load a version, here or in the site's worker, whichever takes it first; return it once it has ended."""
    load = load_request(version=version, actor=admin)
    run_load(load.pk)
    while load.finished_at is None:
        time.sleep(0.05)
        load.refresh_from_db()
    return load


def add_history(slug: str) -> Json:
    """Give the studio's model a tester, traffic, a kept table and a rejected load; return the names of the last two."""
    tenant = Tenant.objects.get(slug=slug)
    admin = User.objects.get(username=f"{slug}-studio-admin")
    model = RecommendationModel.objects.for_tenant(tenant).get(slug=MODEL)
    versions = list(Version.objects.for_tenant(tenant).filter(model=model))
    set_tester(model=model, unit="tester-7", version=versions[0], actor=admin, note="Mara's phone")
    version = versions[1]
    _load(version, admin)
    path = version.source.location
    write_rows(path, offer_id=5000)
    rejected = _load(version, admin)
    write_rows(path, offer_id=1)
    version.refresh_from_db()
    kept = version.previous_table
    assert kept is not None
    now = timezone.now().replace(second=0, microsecond=0)
    for span, latest in ((TrafficSpan.HOUR, now.replace(minute=0)), (TrafficSpan.FIVE_MINUTES, _five_minutes(now))):
        for version in versions:
            for age in range(48):
                for source, answers in ((TrafficSource.TABLE, 900 + 10 * age), (TrafficSource.DEFAULT, 20)):
                    starts_at = latest - age * timedelta(seconds=span)
                    TrafficFactory.create(
                        version=version, span=span, starts_at=starts_at, source=source, answers=answers
                    )
    # What charts show as known: counted up to now.
    TrafficPosition.objects.update_or_create(pk=1)
    return {"load": rejected.pk, "table": kept.table_id}


def _five_minutes(moment: datetime) -> datetime:
    return moment.replace(minute=moment.minute - moment.minute % 5)


def make_link(slug: str) -> Json:
    """Add somebody new to a studio; return the path of the link with which they set a password."""
    tenant = Tenant.objects.get(slug=slug)
    person = member_add(tenant=tenant, who=f"new@{slug}.example", role=Role.VIEWER, actor=None).membership.user
    return {"path": password_link(tenant=tenant, user=person, actor=None).path}


def make_person(username: str, is_staff: bool = False) -> Json:
    """Make somebody who belongs to no studio."""
    person = _person(username, is_staff=is_staff)
    return {"session": _session(person)}


def _person(username: str, *, is_staff: bool = False) -> User:
    return User.objects.create(username=username, password=PASSWORD_HASH, is_staff=is_staff, is_superuser=is_staff)


def _session(person: User) -> str:
    browser = Client()
    browser.force_login(person)
    return browser.cookies["sessionid"].value


COMMANDS: dict[str, Callable[..., Json]] = {
    command.__name__: command for command in (make_studio, make_model, write_rows, add_history, make_link, make_person)
}


def main() -> None:
    """Do what is asked until nobody asks any more."""
    print("{}", flush=True)  # noqa: T201 - tells that it is ready
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](**arguments)), flush=True)  # noqa: T201 - read by who asked


if __name__ == "__main__":
    main()
