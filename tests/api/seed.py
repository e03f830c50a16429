"""Fills the database of a server process: a studio with one of everything. Prints what callers need, as JSON."""

from __future__ import annotations

import json
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")
django.setup()

from django.test import Client  # noqa: E402 - after the setup, as all below

from models_registry.models import LoadState, Version  # noqa: E402
from models_registry.services import default_set, model_create, override_set, version_create  # noqa: E402
from tenants.automation import automation_token_issue  # noqa: E402
from tenants.credentials import credential_issue  # noqa: E402
from tenants.models import AutomationToken, Credential, Role, Scope, User  # noqa: E402
from tenants.services import member_set, tenant_create  # noqa: E402
from tests.api.names import CLIENT_ID, MEMBER, MODEL, SERVED_MODEL, TOKEN_ID, UNIT, VERSIONS  # noqa: E402
from tests.factories import DEFAULT_ANSWER, LAYOUT, LoadFactory, TableFactory  # noqa: E402


def main(local_root: str) -> None:
    """Fill it; Parquet files below the root may be read."""
    studio = tenant_create(
        slug="night-owl",
        name="Night Owl",
        actor=None,
        allowed_datasets=["night-owl-analytics.recommendations"],
        allowed_local_roots=[local_root],
    )
    admin = User.objects.create_user("admin")
    member_set(tenant=studio, user=admin, role=Role.STUDIO_ADMIN, actor=None)
    member_set(tenant=studio, user=User.objects.create_user(MEMBER), role=Role.VIEWER, actor=None)
    model = model_create(
        tenant=studio,
        slug=MODEL,
        name="Offers",
        key_fields=["player_id"],
        unit_field="player_id",
        layout=LAYOUT,
        default_answer=DEFAULT_ANSWER,
        actor=admin,
    )
    for name in VERSIONS:
        version = version_create(
            model=model,
            name=name,
            source_kind="parquet",
            source_location=f"{local_root}/offers.parquet",
            actor=admin,
        )
        tables = [
            TableFactory.create(load=LoadFactory.create(version=version, fence=fence, state=LoadState.ACTIVE))
            for fence in (2, 1)
        ]
        Version.objects.for_tenant(studio).filter(pk=version.pk).update(
            active_table=tables[0], previous_table=tables[1], last_fence=2, active_fence=2
        )
    override_set(model=model, unit=UNIT, version=version, actor=admin)
    # Ids that tests know beforehand.
    for client_id in CLIENT_ID:
        issued = credential_issue(tenant=studio, name="Android", actor=admin).credential
        Credential.objects.for_tenant(studio).filter(pk=issued.pk).update(client_id=client_id)
    for public_id in TOKEN_ID:
        token = automation_token_issue(tenant=studio, name="Old job", scopes=["read"], actor=admin).token
        AutomationToken.objects.for_tenant(studio).filter(pk=token.pk).update(public_id=public_id)
    issued_token = automation_token_issue(tenant=studio, name="Airflow", scopes=Scope.values, actor=admin)
    browser = Client()
    browser.force_login(admin)
    # What is done to the other model must not make this one unable to answer: it was never loaded and stays so.
    levels = model_create(
        tenant=studio, slug=SERVED_MODEL, name="Levels", key_fields=["player_id"], layout=LAYOUT, actor=admin
    )
    version_create(
        model=levels,
        name="v1",
        source_kind="parquet",
        source_location=f"{local_root}/levels.parquet",
        actor=admin,
    )
    default_set(model=levels, default_answer=DEFAULT_ANSWER, actor=admin)
    game = credential_issue(tenant=studio, name="Game backend", actor=admin, allowed_models=[levels])
    callers = {
        "token": issued_token.secret,
        "session": browser.cookies["sessionid"].value,
        "client_id": game.credential.client_id,
        "client_secret": game.secret,
    }
    print(json.dumps(callers))  # noqa: T201 - read by who started it


main(sys.argv[1])
