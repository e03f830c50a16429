"""A studio with one of everything, named as in the documentation's examples, so that these work."""

from __future__ import annotations

from typing import Any, NamedTuple

from models_registry.catalogue.access import NarrowedTo
from models_registry.catalogue.services import default_set, model_create, version_create
from models_registry.loading.schedules import schedule_set
from models_registry.models import LoadState, RecommendationModel, Version
from models_registry.rollouts.services import rollout_reweight
from models_registry.rollouts.testers import set_tester
from recsite.api.operations.catalogue import NEW_MODEL
from tenants.automation import automation_token_issue
from tenants.credentials import credential_issue
from tenants.models import AutomationToken, Credential, Membership, Role, Scope, Tenant, User
from tenants.services import tenant_create
from tests.factories import DEFAULT_ANSWER, LAYOUT, LoadFactory, TableFactory

MODEL = "offers"
SERVED_MODEL = "levels"
VERSIONS = ["2026-10-c", "2026-11-a"]
UNUSED_VERSION = "2026-09-b"
MEMBER = "mara"
REJECTED_FENCE = 8
RUNNING_FENCE = 9
TOO_FEW_ROWS = {"checks": [{"name": "row count", "passed": False, "may_be_waived": True}]}
UNIT = "tester-7"
# Several: some get revoked on the way.
CLIENT_ID = [f"cr_seed{number:08}" for number in range(20)]
TOKEN_ID = [f"at_seed{number:08}" for number in range(20)]


class Scene(NamedTuple):
    """The studio, its admin, and what a job and a game's backend prove themselves with."""

    studio: Tenant
    admin: User
    token: str
    client_id: str
    client_secret: str


def make_scene(local_root: str) -> Scene:
    """Make it; Parquet files below the root may be read."""
    studio = tenant_create(
        slug="night-owl",
        name="Night Owl",
        actor=None,
        allowed_datasets=["night-owl-analytics.recommendations"],
        allowed_local_roots=[local_root],
    )
    admin = User.objects.create_user("admin")
    Membership.objects.create(tenant=studio, user=admin, role=Role.STUDIO_ADMIN)
    member = User.objects.create_user(MEMBER, made_for=studio)
    Membership.objects.create(tenant=studio, user=member, role=Role.VIEWER)
    _make_model(studio, admin, local_root)
    served = _make_served_model(studio, admin, local_root)
    for client_id in CLIENT_ID:
        issued = credential_issue(tenant=studio, name="Android", actor=admin).credential
        Credential.objects.for_tenant(studio).filter(pk=issued.pk).update(client_id=client_id)
    for public_id in TOKEN_ID:
        old = automation_token_issue(tenant=studio, name="Old job", scopes=["read"], actor=admin).token
        AutomationToken.objects.for_tenant(studio).filter(pk=old.pk).update(public_id=public_id)
    token = automation_token_issue(tenant=studio, name="Airflow", scopes=Scope.values, actor=admin).secret
    game = credential_issue(tenant=studio, name="Game backend", actor=admin, allowed_models=NarrowedTo([served]))
    return Scene(studio, admin, token, game.credential.client_id, game.secret)


def _make_model(studio: Tenant, admin: User, local_root: str) -> None:
    values: dict[str, Any] = {**NEW_MODEL, "slug": MODEL}
    model = model_create(tenant=studio, actor=admin, **values)
    for name in VERSIONS:
        version = version_create(
            model=model,
            name=name,
            source_kind="parquet",
            source_location=f"{local_root}/offers.parquet",
            actor=admin,
        )
        newer, older = (
            TableFactory.create(load=LoadFactory.create(version=version, fence=fence, state=LoadState.ACTIVE))
            for fence in (7, 6)
        )
        LoadFactory.create(version=version, fence=REJECTED_FENCE, state=LoadState.REJECTED, report=TOO_FEW_ROWS)
        LoadFactory.create(version=version, fence=RUNNING_FENCE, state=LoadState.WRITING)
        Version.objects.for_tenant(studio).filter(pk=version.pk).update(
            active_table=newer, previous_table=older, last_fence=RUNNING_FENCE, active_fence=7
        )
        schedule_set(version=version, kind="interval", every_minutes=240, actor=admin)
    for bp in (1000, 1500, 3000):
        rollout_reweight(model=model, weights_bp={0: 10_000 - bp, 1: bp}, actor=admin, reason="")
    set_tester(model=model, unit=UNIT, version=version, actor=admin)
    version_create(
        model=model,
        name=UNUSED_VERSION,
        source_kind="parquet",
        source_location=f"{local_root}/offers.parquet",
        actor=admin,
    )


def _make_served_model(studio: Tenant, admin: User, local_root: str) -> RecommendationModel:
    """Make a model that can always answer, whatever is done to the other: it was never loaded and has a default."""
    model = model_create(
        tenant=studio, slug=SERVED_MODEL, name="Levels", key_fields=["player_id"], layout=LAYOUT, actor=admin
    )
    version_create(
        model=model, name="v1", source_kind="parquet", source_location=f"{local_root}/levels.parquet", actor=admin
    )
    default_set(model=model, default_answer=DEFAULT_ANSWER, actor=admin)
    return model
