"""The demo's studios, people, credentials, models and versions: made once, through the services, as anybody would."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from django.db import transaction
from django.utils import timezone

from examples.generate import DEFAULT_PLAYERS, EXAMPLES, Example, keys_of, parquet_path, write_parquet
from models_registry.catalogue.access import NarrowedTo
from models_registry.catalogue.services import model_create, source_set, version_create
from models_registry.models import BASIS_POINTS, RecommendationModel, SourceKind, Version
from models_registry.rollouts.services import rollout_reweight
from recsite.demo.demo_file import DemoCredential, DemoFile, Person
from tenants.callers import NotAuthenticated, credential_authenticate
from tenants.credentials import credential_issue, credential_rotate
from tenants.models import Credential, Membership, Role, Tenant, User
from tenants.services import member_set, tenant_create, tenant_update

# Wide enough that one credential can be asked for everything as fast as this machine can.
REQUESTS_PER_SECOND, BURST = 500_000, 1_000_000
SAMPLE_KEYS = 100


@dataclass(frozen=True)
class DemoModel:
    """What a model has besides what the generator says of it.

    Attributes:
        weights_bp: basis points by version name.
    """

    name: str
    default_answer: Mapping[str, Any]
    weights_bp: Mapping[str, int]
    unit_field: str = ""


STUDIOS = {"aurora": "Aurora Games", "borealis": "Borealis Play"}
MODELS = {
    ("aurora", "offers"): DemoModel(
        name="Offers",
        unit_field="player_id",
        default_answer={"offer_id": 1, "discount": 0, "segment": "newcomer", "items": []},
        weights_bp={"2026-11-a": 7_000, "2026-11-b": 3_000},
    ),
    ("aurora", "difficulty"): DemoModel(
        name="Difficulty",
        default_answer={"enemy_health": 1, "lives": 5, "hints": True},
        weights_bp={"2026-11": BASIS_POINTS},
    ),
    ("borealis", "offers"): DemoModel(
        name="Offers",
        unit_field="player_id",
        default_answer={"bundle": "none", "price": 0.99, "gems": 0},
        weights_bp={"autumn": BASIS_POINTS},
    ),
}
PEOPLE = {"admin": "admin", "product_manager": "aurora-product", "studio": "aurora-admin"}


class OtherPlayers(RuntimeError):
    """The data was made for another number of players than is asked for now."""


def players_of(directory: Path) -> int | None:
    """Return how many players the larger studio's files hold; None where there are none yet."""
    largest = parquet_path(directory, EXAMPLES[0], EXAMPLES[0].versions[0])
    return pq.read_metadata(largest).num_rows if largest.exists() else None


def write_data(directory: Path, players: int | None) -> Iterator[str]:
    """Generate the Parquet files that are not there yet; yield a name for each one as it is finished.

    Without a number of players the larger studio has as many as it has already, 300,000 at first.

    Raises:
        OtherPlayers: there are files, of another number of players.
    """
    found = players_of(directory)
    if players is not None and found not in {None, players}:
        raise OtherPlayers(f"This demo has {found:,} players. `make demo-reset` starts anew with another number.")
    wanted = players or found or DEFAULT_PLAYERS
    for example in EXAMPLES:
        for version in example.versions:
            path = parquet_path(directory, example, version)
            if not path.exists():
                write_parquet(path, example, version, wanted)
                yield f"{example.studio}/{example.model}/{version}"


# --- People ---------------------------------------------------------------------------------------------------------


def make_people(known: Mapping[str, Any]) -> dict[str, Person]:
    """Make sure the three people can sign in; one whose password is not known (any more) gets a new one."""
    passwords = {entry: value["password"] for entry, value in known.items() if entry in PEOPLE}
    return {entry: _make_person(username, passwords.get(entry)) for entry, username in PEOPLE.items()}


def _make_person(username: str, known_password: str | None) -> Person:
    user = User.objects.filter(username=username).first()
    password = known_password or secrets.token_urlsafe(12)
    if user is None:
        is_staff = username == PEOPLE["admin"]
        user = User(username=username, is_staff=is_staff, is_superuser=is_staff)
    elif known_password:
        return Person(username=username, password=password)
    user.set_password(password)
    user.save()
    return Person(username=username, password=password)


# --- Studios, models, versions ----------------------------------------------------------------------------------------


def make_studios(data_dir: Path) -> None:
    """Make what is missing of the two studios; what is there, and what somebody changed since, stays."""
    admin = User.objects.get(username=PEOPLE["admin"])
    for slug, name in STUDIOS.items():
        # A studio is there whole or not at all, so that an interrupted first start leaves nothing half made.
        with transaction.atomic():
            tenant = Tenant.objects.filter(slug=slug).first() or tenant_create(slug=slug, name=name, actor=admin)
            if tenant.ended_at is not None:
                continue
            _allow(tenant, data_dir, admin)
            for example in (e for e in EXAMPLES if e.studio == slug):
                _make_model(tenant, example, data_dir, admin)
    aurora = Tenant.objects.get(slug="aurora")
    for entry, role in (("studio", Role.STUDIO_ADMIN), ("product_manager", Role.PRODUCT_MANAGER)):
        user = User.objects.get(username=PEOPLE[entry])
        if aurora.ended_at is None and not Membership.objects.for_tenant(aurora).filter(user=user).exists():
            member_set(tenant=aurora, user=user, role=role, actor=admin)


def _allow(tenant: Tenant, data_dir: Path, admin: User) -> None:
    """Let the studio read its own folder of the generated files, and be asked without a limit in the way."""
    root = str(data_dir / tenant.slug)
    if root not in tenant.allowed_local_roots:
        tenant_update(
            tenant=tenant,
            actor=admin,
            allowed_local_roots=[*tenant.allowed_local_roots, root],
            requests_per_second=REQUESTS_PER_SECOND,
            burst=BURST,
        )


def _make_model(tenant: Tenant, example: Example, data_dir: Path, admin: User) -> None:
    wanted = MODELS[example.studio, example.model]
    model = RecommendationModel.objects.for_tenant(tenant).filter(slug=example.model).first()
    is_new = model is None
    if model is None:
        model = model_create(
            tenant=tenant,
            slug=example.model,
            name=wanted.name,
            key_fields=example.key_fields,
            layout=example.layout,
            unit_field=wanted.unit_field,
            default_answer=wanted.default_answer,
            actor=admin,
        )
    for name in example.versions:
        version = Version.objects.for_tenant(tenant).filter(model=model, name=name).first()
        location = str(parquet_path(data_dir, example, name))
        if version is None:
            version_create(
                model=model, name=name, source_kind=SourceKind.PARQUET, source_location=location, actor=admin
            )
        elif version.source.kind == SourceKind.PARQUET and not Path(version.source.location).exists():
            # The project's folder was moved.
            source_set(version=version, kind=SourceKind.PARQUET, location=location, actor=admin)
    if is_new and len(example.versions) > 1:
        codes = dict(Version.objects.for_tenant(tenant).filter(model=model).values_list("name", "code"))
        weights_bp = {codes[name]: weight for name, weight in wanted.weights_bp.items()}
        rollout_reweight(model=model, weights_bp=weights_bp, actor=admin, reason="The demo's first weights")


def demo_versions() -> list[Version]:
    """Return the versions that the generator knows the rows of."""
    found: list[Version] = []
    for example in EXAMPLES:
        versions = Version.objects.unscoped().filter(model__tenant__slug=example.studio, model__slug=example.model)
        there = versions.filter(name__in=example.versions, model__tenant__ended_at=None)
        found += there.select_related("model__tenant", "active_table")
    return found


# --- Credentials ------------------------------------------------------------------------------------------------------


def make_credentials(known: DemoFile, players: int) -> list[DemoCredential]:
    """Make sure there is a working credential for each model; one whose secret is not known is given a new one."""
    admin = User.objects.get(username=PEOPLE["admin"])
    known_secrets = {(c["tenant"], c["model"]): (c["client_id"], c["client_secret"]) for c in known["credentials"]}
    live = RecommendationModel.objects.unscoped().select_related("tenant").filter(tenant__ended_at=None)
    entries = []
    for example in EXAMPLES:
        model = live.filter(tenant__slug=example.studio, slug=example.model).first()
        if model is None:
            continue
        secret = known_secrets.get((example.studio, example.model))
        client_id, client_secret = secret if secret is not None and _works(*secret) else _new_secret(model, admin)
        entries.append(
            DemoCredential(
                tenant=example.studio,
                model=example.model,
                client_id=client_id,
                client_secret=client_secret,
                key_fields=list(example.key_fields),
                sample_keys=_sample_keys(example, players),
            )
        )
    return entries


def _works(client_id: str, client_secret: str) -> bool:
    try:
        credential_authenticate(client_id, client_secret)
    except NotAuthenticated:
        return False
    return True


def _new_secret(model: RecommendationModel, admin: User) -> tuple[str, str]:
    name = f"Demo, {model.slug}"
    there = Credential.objects.for_tenant(model.tenant).filter(name=name, revoked_at=None).first()
    if there is None:
        issued = credential_issue(
            tenant=model.tenant,
            name=name,
            actor=admin,
            allowed_models=NarrowedTo([model]),
            requests_per_second=REQUESTS_PER_SECOND,
            burst=BURST,
        )
    else:
        issued = credential_rotate(credential=there, actor=admin, previous_until=timezone.now())
    return issued.credential.client_id, issued.secret


def _sample_keys(example: Example, players: int) -> list[dict[str, str]]:
    """Return 100 keys, evenly spread."""
    keys = list(keys_of(example, players))
    step = max(1, len(keys) // SAMPLE_KEYS)
    return [dict(zip(example.key_fields, key, strict=True)) for key in keys[step // 2 :: step][:SAMPLE_KEYS]]
