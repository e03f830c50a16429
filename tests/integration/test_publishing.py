from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import redis
from celery import current_app
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings as project_settings
from django.db import connection, transaction
from django.utils import timezone

from models_registry import publishing
from models_registry.catalogue.access import NarrowedTo
from models_registry.catalogue.services import default_set
from models_registry.loading.requests import table_roll_back
from models_registry.models import Override, RecommendationModel, Table, TableState, Version
from models_registry.publishing import build_tenant, digest_of, publish_tenant, republish_all
from models_registry.rollouts.services import rollout_reweight, rollout_serve_default
from models_registry.rollouts.testers import set_tester
from models_registry.tasks import republish
from recsite.embedded import EmbeddedValkey, free_port
from serving.formats import snapshot
from serving.formats.encoding import base64url_encode
from serving.formats.layouts import Layout
from serving.formats.seals import TenantSeals
from serving.prepared import PreparedModel
from tenants.credentials import (
    credential_issue,
    credential_register_key,
    credential_revoke,
    credential_rotate,
    credential_update,
)
from tenants.models import Credential, Tenant
from tenants.services import tenant_end, tenant_update
from tests.factories import (
    DEFAULT_ANSWER,
    LAYOUT,
    CredentialFactory,
    LayoutFactory,
    ModelFactory,
    OverrideFactory,
    RolloutRevisionFactory,
    TableFactory,
    TenantFactory,
    VersionFactory,
)
from tests.integration.test_credentials import ED25519

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def model(studio: Tenant) -> RecommendationModel:
    """Return a model with two versions at 50/50, the first of them with two tables."""
    model = ModelFactory.create(tenant=studio, slug="offers")
    version, _ = VersionFactory.create_batch(2, model=model)
    version.previous_table, version.active_table = TableFactory.create_batch(2, load__version=version)
    version.save()
    RolloutRevisionFactory.create(model=model, weights={0: 5000, 1: 5000})
    return model


def in_redis(client: redis.Redis, tenant: Tenant) -> snapshot.Snapshot:
    envelope: Any = client.get(snapshot.snapshot_name(project_settings.REDIS_PREFIX, tenant.public_id))
    assert envelope is not None
    return snapshot.open_snapshot(envelope, snapshot.parse_public_keys(project_settings.SNAPSHOT_PUBLIC_KEYS))


def revision_in_redis(client: redis.Redis, tenant: Tenant) -> int:
    raw: Any = client.hget(snapshot.revisions_name(project_settings.REDIS_PREFIX), tenant.public_id)
    return int(raw)


# --- What is in a snapshot ------------------------------------------------------------------------------------------


def test_build_tenant__a_model_in_use__has_all_that_serving_needs(model: RecommendationModel) -> None:
    OverrideFactory.create(version=Version.objects.unscoped().get(code=1), unit="tester")
    content = build_tenant(model.tenant)
    assert (content.id, content.slug, content.is_ended) == (model.tenant.public_id, model.tenant.slug, False)
    [built] = content.models
    assert (built.slug, built.key_fields, built.unit_field) == ("offers", ("player_id",), "player_id")
    assert (built.default, built.default_revision, built.max_client_age_seconds) == (DEFAULT_ANSWER, 1, 60)
    assert (built.phase, built.allocation_revision, len(built.allocation)) == (1, 1, 10_000)
    assert built.allocation.count(0) == built.allocation.count(1) == 5000
    assert built.overrides == {"tester": 1}
    assert [(layout.revision, layout.default, layout.default_revision) for layout in built.layouts] == [
        (0, DEFAULT_ANSWER, 1)
    ]
    assert Layout.parse(built.layouts[0].fields).pack(DEFAULT_ANSWER)
    first, second = built.versions
    assert (first.code, second.code, second.active, second.previous) == (0, 1, None, None)
    active, previous = Table.objects.unscoped().order_by("-pk")
    assert first.active is not None
    assert first.previous is not None
    assert (first.active.id, first.previous.id) == (active.table_id, previous.table_id)
    assert (first.active.row_count, first.active.loaded_at) == (10, int(active.created_at.timestamp()))


def test_build_tenant__model_without_a_rollout__is_left_out(model: RecommendationModel) -> None:
    ModelFactory.create(tenant=model.tenant)
    assert [built.slug for built in build_tenant(model.tenant).models] == ["offers"]


def test_build_tenant__layout_no_version_uses__is_left_out(model: RecommendationModel) -> None:
    newer = LayoutFactory.create(model=model, fields=LAYOUT[:1])
    LayoutFactory.create(model=model, fields=LAYOUT[1:])
    OverrideFactory.create(version=VersionFactory.create(model=model, layout=newer))
    [built] = build_tenant(model.tenant).models
    assert [layout.revision for layout in built.layouts] == [0, 1]
    assert [version.layout_revision for version in built.versions] == [0, 0, 1]


def test_build_tenant__layouts_with_defaults_of_their_own__also_those_of_the_release_before(
    model: RecommendationModel,
) -> None:
    given = {"discount": 0.5}
    own = LayoutFactory.create(model=model, fields=LAYOUT[1:], default_answer=given, default_revision=4)
    before = LayoutFactory.create(model=model, fields=LAYOUT[::-1], default_answer=None, default_revision=0)
    for layout in (own, before):
        OverrideFactory.create(version=VersionFactory.create(model=model, layout=layout))
    [built] = build_tenant(model.tenant).models
    assert [(layout.default, layout.default_revision) for layout in built.layouts] == [
        (DEFAULT_ANSWER, 1),
        (given, 4),
        (DEFAULT_ANSWER, 1),
    ]


def test_build_tenant__default_for_everybody__is_that_for_testers_too_until_it_ends(
    model: RecommendationModel,
) -> None:
    tables = Version.objects.unscoped().order_by("code").values_list("active_table", "previous_table")
    OverrideFactory.create(version=Version.objects.unscoped().get(code=0), unit="tester")
    before = build_tenant(model.tenant).models
    rollout_serve_default(model=model, actor=None, reason="")
    [built] = build_tenant(model.tenant).models
    assert built.serves_default
    served = PreparedModel(built, "x", TenantSeals({}, "t1"))
    assert all(version.active.id == "" and version.previous is None for version in served.versions.values())
    assert {version.default_record for version in served.versions.values()} == {'{"offer_id":1,"discount":0.05}'}
    assert served.overrides == {"tester": 0}
    kept = list(tables)
    rollout_serve_default(model=model, actor=None, reason="", serves_default=False)
    assert build_tenant(model.tenant).models == tuple(
        msgspec.structs.replace(one, allocation_revision=3) for one in before
    )
    assert list(tables) == kept


def test_build_tenant__version_that_nobody_can_reach__is_left_out_with_its_layout(model: RecommendationModel) -> None:
    wide = LayoutFactory.create(model=model, fields=LAYOUT[::-1])
    unreached = VersionFactory.create(model=model, layout=wide)
    [built] = build_tenant(model.tenant).models
    assert [version.code for version in built.versions] == [0, 1]
    assert [layout.revision for layout in built.layouts] == [0]
    OverrideFactory.create(version=unreached)
    [built] = build_tenant(model.tenant).models
    assert [version.code for version in built.versions] == [0, 1, unreached.code]
    assert [layout.revision for layout in built.layouts] == [0, wide.revision]
    assert PreparedModel(built, "x", TenantSeals({}, "t1")).versions.keys() == {0, 1, unreached.code}


def test_build_tenant__version_without_players_that_was_loaded__is_in_it(model: RecommendationModel) -> None:
    loaded = VersionFactory.create(model=model)
    loaded.active_table = TableFactory.create(load__version=loaded)
    loaded.save()
    [built] = build_tenant(model.tenant).models
    assert [version.code for version in built.versions] == [0, 1, loaded.code]


@pytest.mark.parametrize("state", [TableState.WRITING, TableState.DROPPING, TableState.DROPPED])
def test_build_tenant__table_that_is_not_whole__is_left_out(model: RecommendationModel, state: str) -> None:
    previous = model.versions.get(code=0).previous_table
    assert previous is not None
    Table.objects.unscoped().filter(pk=previous.pk).update(state=state)
    [built] = build_tenant(model.tenant).models
    assert built.versions[0].active is not None
    assert built.versions[0].previous is None


def test_build_tenant__newest_revision__is_the_one_that_is_served(model: RecommendationModel) -> None:
    for weights in ({0: 10_000}, {1: 10_000}):
        RolloutRevisionFactory.create(model=model, weights=weights)
    [built] = build_tenant(model.tenant).models
    assert (built.allocation_revision, built.allocation) == (3, b"\1" * 10_000)


def test_build_tenant__other_studios_rows__are_not_in_it(model: RecommendationModel) -> None:
    before = digest_of(build_tenant(model.tenant))
    other = OverrideFactory.create().model
    RolloutRevisionFactory.create(model=other)
    CredentialFactory.create(tenant=other.tenant)
    assert digest_of(build_tenant(model.tenant)) == before


def test_build_tenant__credentials__name_their_keys_and_hold_no_secret(model: RecommendationModel) -> None:
    tenant = model.tenant
    ours = credential_issue(tenant=tenant, name="Android", actor=None, allowed_models=NarrowedTo([model]))
    theirs = credential_register_key(
        tenant=tenant, name="Backend", public_key=ED25519, algorithm="EdDSA", issuer="lark", actor=None
    )
    revoked = credential_issue(tenant=tenant, name="Lost", actor=None).credential
    credential_revoke(credential=revoked, actor=None, reason="lost")
    content = build_tenant(tenant)
    built = {credential.id: credential for credential in content.credentials}
    assert set(built) == {ours.credential.client_id, theirs.client_id}
    mine, key = built[ours.credential.client_id], built[theirs.client_id]
    assert (mine.models, mine.algorithm, mine.issuer) == (("offers",), "HS256", project_settings.TOKEN_ISSUER)
    assert mine.accepted == (snapshot.AcceptedKey(1, "test1"),)
    assert (key.models, key.algorithm, key.issuer, key.accepted) == (None, "EdDSA", "lark", ())
    assert key.public_key == ED25519
    encoded = snapshot.content_digest_input(content)
    assert ours.secret.encode() not in encoded
    assert ours.credential.secret_hash.encode() not in encoded


def test_build_tenant__two_master_keys__accepts_both_and_during_an_overlap_the_older_secret_too(
    studio: Tenant, settings: Any
) -> None:
    settings.TOKEN_MASTER_KEYS = f"new:{'A' * 43},{project_settings.TOKEN_MASTER_KEYS},old:{'B' * 42}A"
    credential = credential_issue(tenant=studio, name="Android", actor=None).credential
    [built] = build_tenant(studio).credentials
    assert built.accepted == (snapshot.AcceptedKey(1, "new"), snapshot.AcceptedKey(1, "test1"))
    until = timezone.now() + timedelta(hours=1)
    credential_rotate(credential=credential, actor=None, previous_until=until)
    [built] = build_tenant(studio).credentials
    assert built.accepted == (
        snapshot.AcceptedKey(2, "new"),
        snapshot.AcceptedKey(2, "test1"),
        snapshot.AcceptedKey(1, "new", int(until.timestamp())),
        snapshot.AcceptedKey(1, "test1", int(until.timestamp())),
    )
    Credential.objects.unscoped().update(previous_until=timezone.now() - timedelta(seconds=1))
    [built] = build_tenant(studio).credentials
    assert built.accepted == (snapshot.AcceptedKey(2, "new"), snapshot.AcceptedKey(2, "test1"))


def test_build_tenant__an_ended_studio__is_a_tombstone(model: RecommendationModel) -> None:
    CredentialFactory.create(tenant=model.tenant)
    tenant_end(tenant=model.tenant, actor=None, reason="over")
    content = build_tenant(model.tenant)
    assert (content.is_ended, content.credentials, content.models) == (True, (), ())


def test_build_tenant__many_models__takes_the_same_queries_as_one(
    model: RecommendationModel, django_assert_num_queries: Any
) -> None:
    for _ in range(5):
        version = VersionFactory.create(model__tenant=model.tenant)
        RolloutRevisionFactory.create(model=version.model)
        version.model.credentials.set([CredentialFactory.create(tenant=model.tenant)])
    with django_assert_num_queries(6):
        assert len(build_tenant(model.tenant).models) == 6


# --- Publishing -----------------------------------------------------------------------------------------------------


def test_publish_tenant__all_well__redis_database_and_listeners_agree(
    model: RecommendationModel, valkey: redis.Redis
) -> None:
    listener = valkey.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(snapshot.announcements_name(project_settings.REDIS_PREFIX))
    assert listener.get_message(timeout=5) is None
    before = time.time()
    assert publish_tenant(model.tenant.pk)
    tenant = Tenant.objects.get(pk=model.tenant.pk)
    published = in_redis(valkey, tenant)
    assert published.tenant == build_tenant(tenant)
    assert tenant.snapshot_digest == digest_of(published.tenant)
    assert tenant.snapshot_revision == published.revision == revision_in_redis(valkey, tenant)
    assert before * 1000 - 1 <= published.revision <= time.time() * 1000
    assert before - 1 <= published.issued_at <= time.time()
    assert tenant.snapshot_published_at is not None
    message: Any = listener.get_message(timeout=5)
    assert message["data"].decode() == tenant.public_id
    listener.close()


def test_publish_tenant__clock_behind_the_last_revision__goes_on_from_it(studio: Tenant, valkey: redis.Redis) -> None:
    ahead = int(time.time() * 1000) + 3_600_000
    Tenant.objects.update(snapshot_revision=ahead)
    publish_tenant(studio.pk)
    publish_tenant(studio.pk)
    assert in_redis(valkey, studio).revision == ahead + 2


def test_publish_tenant__database_restored_from_a_backup__moves_forward(studio: Tenant, valkey: redis.Redis) -> None:
    publish_tenant(studio.pk)
    first = in_redis(valkey, studio).revision
    Tenant.objects.update(snapshot_revision=0, snapshot_digest="")
    assert republish_all() == 1
    assert in_redis(valkey, studio).revision > first


@pytest.fixture
def redis_away(settings: Any) -> None:
    """Point the control plane at a port where nobody listens."""
    settings.TABLES_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"


@pytest.mark.usefixtures("redis_away")
def test_publish_tenant__redis_away__says_so_and_leaves_the_row_for_beat(
    studio: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    tenant_update(tenant=studio, actor=None, burst=7)
    studio.refresh_from_db()
    assert (studio.burst, studio.snapshot_digest, studio.snapshot_revision) == (7, "", 0)
    assert f"publishing.failed tenant={studio.pk}" in caplog.text
    assert republish_all() == 0
    assert "publishing.failed tenant=all" in caplog.text


def test_republish_all__redis_is_back__publishes_what_failed(
    studio: Tenant, valkey: redis.Redis, settings: Any
) -> None:
    there = settings.TABLES_REDIS_URL
    settings.TABLES_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    tenant_update(tenant=studio, actor=None, burst=7)
    settings.TABLES_REDIS_URL = there
    assert republish() == 1
    assert in_redis(valkey, studio).tenant.burst == 7


def test_publish_tenant__redis_hangs__gives_up_and_later_publishes(
    studio: Tenant, valkey: redis.Redis, valkey_server: EmbeddedValkey
) -> None:
    publish_tenant(studio.pk)
    valkey_server.pause()
    try:
        assert not publish_tenant(studio.pk)
    finally:
        valkey_server.resume()
    assert publish_tenant(studio.pk)
    studio.refresh_from_db()
    assert in_redis(valkey, studio).revision == studio.snapshot_revision


CHANGES: dict[str, Callable[[RecommendationModel, Credential], object]] = {
    "limits": lambda model, _: tenant_update(tenant=model.tenant, actor=None, burst=7),
    "end": lambda model, _: tenant_end(tenant=model.tenant, actor=None, reason="over"),
    "credential": lambda model, _: credential_issue(tenant=model.tenant, name="x", actor=None),
    "narrowed": lambda model, c: credential_update(credential=c, actor=None, allowed_models=NarrowedTo([model])),
    "rotated": lambda _, c: credential_rotate(credential=c, actor=None, previous_until=timezone.now()),
    "revoked": lambda _, c: credential_revoke(credential=c, actor=None, reason=""),
    "weights": lambda m, _: rollout_reweight(model=m, weights_bp={0: 10_000}, actor=None, reason=""),
    "default": lambda model, _: default_set(model=model, default_answer=None, actor=None),
    "table": lambda model, _: table_roll_back(version=model.versions.get(code=0), actor=None, reason=""),
    "override": lambda m, _: set_tester(model=m, unit="t", version=m.versions.get(code=1), actor=None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change__of_what_serving_must_know__is_published_after_commit_and_not_before(
    model: RecommendationModel, valkey: redis.Redis, change: Callable[[RecommendationModel, Credential], object]
) -> None:
    credential = CredentialFactory.create(tenant=model.tenant)
    publish_tenant(model.tenant.pk)
    before = in_redis(valkey, model.tenant)
    with transaction.atomic():
        change(model, credential)
        assert in_redis(valkey, model.tenant) == before
    after = in_redis(valkey, model.tenant)
    assert after.tenant != before.tenant
    assert after.revision > before.revision
    assert after.tenant == build_tenant(Tenant.objects.get(pk=model.tenant.pk))


# --- Publishing again -----------------------------------------------------------------------------------------------


def test_republish_all__nothing_changed__does_nothing(model: RecommendationModel, valkey: redis.Redis) -> None:
    TenantFactory.create()
    assert republish_all() == 2
    before = in_redis(valkey, model.tenant)
    assert republish_all() == 0
    assert in_redis(valkey, model.tenant) == before


def test_publish_tenant__another_type_in_place_of_the_map__reaches_lanes_all_the_same(
    model: RecommendationModel, valkey: redis.Redis
) -> None:
    republish_all()
    other = TenantFactory.create()
    publish_tenant(other.pk)
    name = snapshot.revisions_name(project_settings.REDIS_PREFIX)
    valkey.delete(name)
    valkey.set(name, "x")
    assert publish_tenant(model.tenant_id)
    assert revision_in_redis(valkey, model.tenant) == Tenant.objects.get(pk=model.tenant_id).snapshot_revision
    republish_all()
    assert revision_in_redis(valkey, other)


def test_republish_all__another_type_in_place_of_map_and_snapshot__published_again(
    model: RecommendationModel, valkey: redis.Redis
) -> None:
    republish_all()
    for name in (
        snapshot.revisions_name(project_settings.REDIS_PREFIX),
        snapshot.snapshot_name(project_settings.REDIS_PREFIX, model.tenant.public_id),
    ):
        valkey.delete(name)
        valkey.lpush(name, "x")
    assert republish_all() >= 1
    assert revision_in_redis(valkey, model.tenant) == in_redis(valkey, model.tenant).revision


def test_republish_all__redis_flushed__publishes_everything_tombstones_too(studio: Tenant, valkey: redis.Redis) -> None:
    ended = TenantFactory.create(ended_at=timezone.now())
    republish_all()
    valkey.flushall()
    assert republish_all() == 2
    assert in_redis(valkey, ended).tenant.is_ended
    assert not in_redis(valkey, studio).tenant.is_ended


def let_minutes_pass(minutes: float) -> None:
    """Make every snapshot older, and its last check."""
    for tenant in Tenant.objects.all():
        assert tenant.snapshot_published_at is not None
        assert tenant.snapshot_checked_at is not None
        passed = timedelta(minutes=minutes)
        Tenant.objects.filter(pk=tenant.pk).update(
            snapshot_published_at=tenant.snapshot_published_at - passed,
            snapshot_checked_at=tenant.snapshot_checked_at - passed,
        )


@pytest.mark.parametrize("studios", [1, 12])
def test_republish_all__nothing_changed__takes_two_queries_however_many_studios(
    valkey: redis.Redis, django_assert_num_queries: Any, studios: int
) -> None:
    TenantFactory.create_batch(studios)
    republish_all()
    locking = 2 if connection.vendor == "postgresql" else 0
    with django_assert_num_queries(2 + locking):
        assert republish_all() == 0


def test_republish_all__changed_behind_the_services_back__is_found_within_minutes_and_published_alone(
    model: RecommendationModel, valkey: redis.Redis
) -> None:
    other = TenantFactory.create()
    republish_all()
    before = in_redis(valkey, other)
    Override.objects.create(model=model, unit="t", version=model.versions.get(code=1))
    assert republish_all() == 0
    let_minutes_pass(5)
    assert republish_all() == 1
    assert in_redis(valkey, model.tenant).tenant.models[0].overrides == {"t": 1}
    assert in_redis(valkey, other) == before


def test_republish_all__no_time_to_check_all__takes_the_longest_unchecked_first_and_the_rest_later(
    valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = TenantFactory.create_batch(3)
    republish_all()
    Tenant.objects.update(burst=7)
    let_minutes_pass(6)
    Tenant.objects.filter(pk=tenants[1].pk).update(snapshot_checked_at=timezone.now() - timedelta(hours=1))
    monkeypatch.setattr(publishing, "CHECKING_SECONDS", 0)
    assert republish_all() == 1
    assert [in_redis(valkey, tenant).tenant.burst == 7 for tenant in tenants] == [False, True, False]
    assert [republish_all() for _ in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_republish_all__a_change_was_committed_and_never_published__is_found_at_once(
    model: RecommendationModel,
    valkey: redis.Redis,
    change: Callable[[RecommendationModel, Credential], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credential = CredentialFactory.create(tenant=model.tenant)
    publish_tenant(model.tenant.pk)
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "publish_tenant", lambda _: False)  # the process dies right after the commit
        change(model, credential)
    before = in_redis(valkey, model.tenant)
    assert republish_all() == 1
    after = in_redis(valkey, model.tenant)
    assert after.tenant != before.tenant
    assert after.tenant == build_tenant(Tenant.objects.get(pk=model.tenant.pk))
    assert republish_all() == 0


def test_announce_after_commit__transaction_rolls_back__marks_nothing(studio: Tenant, valkey: redis.Redis) -> None:
    publish_tenant(studio.pk)
    with transaction.atomic():
        tenant_update(tenant=studio, actor=None, burst=7)
        transaction.set_rollback(True)
    assert republish_all() == 0


def test_republish_all__overlap_of_a_rotation_ends__publishes_without_the_old_secret(
    studio: Tenant, valkey: redis.Redis
) -> None:
    credential = credential_issue(tenant=studio, name="Android", actor=None).credential
    credential_rotate(credential=credential, actor=None, previous_until=timezone.now() + timedelta(hours=1))
    assert len(in_redis(valkey, studio).tenant.credentials[0].accepted) == 2
    Credential.objects.unscoped().update(previous_until=timezone.now())
    assert republish_all() == 1
    assert len(in_redis(valkey, studio).tenant.credentials[0].accepted) == 1


def test_republish_all__snapshot_is_old__is_signed_in_the_roster_and_not_published(
    model: RecommendationModel, valkey: redis.Redis
) -> None:
    republish_all()
    before = in_redis(valkey, model.tenant)
    let_minutes_pass(11 * 60)
    assert republish_all() == 0
    assert in_redis(valkey, model.tenant) == before
    roster = roster_in_redis(valkey)
    assert abs(roster.issued_at - time.time()) < 5
    raw: Any = valkey.get(snapshot.snapshot_name(project_settings.REDIS_PREFIX, model.tenant.public_id))
    assert roster.tenants == (snapshot.Listed(model.tenant.public_id, before.revision, snapshot.content_digest(raw)),)


def test_republish_all__snapshot_twelve_hours_old__is_signed_anew_for_lanes_that_read_no_roster(
    studio: Tenant, valkey: redis.Redis
) -> None:
    republish_all()
    before = in_redis(valkey, studio)
    let_minutes_pass(12 * 60 + 1)
    assert republish_all() == 1
    after = in_redis(valkey, studio)
    assert after.tenant == before.tenant
    assert after.revision > before.revision


def test_republish_all__another_key_signs_now__signs_all_with_it_at_once(
    model: RecommendationModel, valkey: redis.Redis, settings: Any
) -> None:
    TenantFactory.create(ended_at=timezone.now())
    republish_all()
    private_key = Ed25519PrivateKey.generate()
    settings.SNAPSHOT_PRIVATE_KEY = f"test10:{base64url_encode(private_key.private_bytes_raw())}"
    assert [republish_all(), republish_all()] == [2, 0]
    trusted = {"test10": private_key.public_key()}
    for tenant in Tenant.objects.all():
        envelope: Any = valkey.get(snapshot.snapshot_name(project_settings.REDIS_PREFIX, tenant.public_id))
        assert snapshot.open_snapshot(envelope, trusted).tenant.id == tenant.public_id
    listed: Any = valkey.get(snapshot.roster_name(project_settings.REDIS_PREFIX))
    assert len(snapshot.open_roster(listed, trusted).tenants) == 2


def test_republish_all__the_clock_was_ahead__all_is_published_anew_once_it_is_right(
    studio: Tenant, valkey: redis.Redis
) -> None:
    republish_all()
    let_minutes_pass(-60)
    assert [republish_all(), republish_all()] == [1, 0]
    studio.refresh_from_db()
    assert studio.snapshot_checked_at is not None
    assert studio.snapshot_checked_at <= timezone.now()


def test_roster__a_change_could_not_be_published__what_was_before_it_is_not_signed_again(
    studio: Tenant, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TenantFactory.create()
    credential = credential_issue(tenant=studio, name="Android", actor=None).credential
    republish_all()
    monkeypatch.setattr(publishing, "publish_tenant", lambda *_, **__: False)
    credential_revoke(credential=credential, actor=None, reason="")
    republish_all()
    assert [bool(listed.digest) for listed in roster_in_redis(valkey).tenants] == [
        tenant.pk == other.pk for tenant in Tenant.objects.order_by("pk")
    ]


def test_republish_all__one_studio_cannot_be_built__publishes_the_others_and_says_so(
    model: RecommendationModel, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    RecommendationModel.objects.unscoped().update(default_answer={"offer_id": 2**70})
    other = TenantFactory.create()
    assert republish_all() == 1
    assert in_redis(valkey, other).tenant.slug == other.slug
    assert f"publishing.failed tenant={model.tenant_id}" in caplog.text


def test_beat__every_task_it_is_told_of__exists_and_a_run_that_waited_too_long_is_dropped() -> None:
    current_app.loader.import_default_modules()
    for name, entry in project_settings.CELERY_BEAT_SCHEDULE.items():
        assert entry["task"] in current_app.tasks, name
        # The name that the database scheduler reads; it passes over `expires` in silence.
        assert entry["options"]["expire_seconds"] > 0


# --- At the same time -----------------------------------------------------------------------------------------------


def in_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_publish_tenant__another_one_is_at_its_set__waits_and_writes_the_newer_state_last(
    studio: Tenant, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = publishing._push
    order: list[str] = []
    slow_is_there, slow_may_go, other_pushed = threading.Event(), threading.Event(), threading.Event()

    def slow_first(tenant_id: str, revision: int, envelope: bytes) -> None:
        if not slow_is_there.is_set():
            slow_is_there.set()
            assert slow_may_go.wait(30)
            order.append("slow")
        else:
            order.append("other")
            other_pushed.set()
        push(tenant_id, revision, envelope)

    monkeypatch.setattr(publishing, "_push", slow_first)
    slow = in_thread(lambda: publish_tenant(studio.pk))
    assert slow_is_there.wait(30)
    other = in_thread(lambda: tenant_update(tenant=Tenant.objects.get(pk=studio.pk), actor=None, burst=7))
    assert not other_pushed.wait(0.5)
    slow_may_go.set()
    slow.join(60)
    other.join(60)
    assert order == ["slow", "other"]
    studio.refresh_from_db()
    published = in_redis(valkey, studio)
    assert published.tenant.burst == 7
    assert published.revision == studio.snapshot_revision == revision_in_redis(valkey, studio)


def test_republish_all__another_goes_through_all__gives_up_at_once(studio: Tenant, valkey: redis.Redis) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with publishing._alone() as is_alone:
            assert is_alone
            has_begun.set()
            assert may_end.wait(30)

    holder = in_thread(hold)
    assert has_begun.wait(30)
    assert republish_all() == 0
    may_end.set()
    holder.join(30)
    assert republish_all() == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one lock for all writers")
def test_publishing__one_studios_lock_is_held__neither_a_save_nor_the_other_studios_wait(
    studio: Tenant, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TenantFactory.create()
    monkeypatch.setattr(publishing, "PATIENCE_SECONDS", 0.2)
    has_begun, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with publishing._advisory_lock(studio.pk, 0) as is_ours:
            assert is_ours
            has_begun.set()
            assert may_end.wait(60)

    holder = in_thread(hold)
    assert has_begun.wait(30)
    started = time.monotonic()
    tenant_update(tenant=studio, actor=None, burst=7)
    assert republish_all() == 1
    assert time.monotonic() - started < 10
    assert in_redis(valkey, other).tenant.slug == other.slug
    may_end.set()
    holder.join(30)
    assert republish_all() == 1
    assert in_redis(valkey, studio).tenant.burst == 7


def test_publish_tenant__many_changes_and_two_beats_at_once__ends_with_the_database_in_redis(
    studio: Tenant, valkey: redis.Redis
) -> None:
    def change(first: int) -> None:
        for number in range(first, first + 8):
            tenant_update(tenant=Tenant.objects.get(pk=studio.pk), actor=None, burst=number)

    def beat() -> None:
        for _ in range(8):
            republish_all()

    threads = [in_thread(lambda: change(100)), in_thread(lambda: change(200)), in_thread(beat), in_thread(beat)]
    for thread in threads:
        thread.join(120)
    tenant = Tenant.objects.get(pk=studio.pk)
    published = in_redis(valkey, tenant)
    assert published.tenant == build_tenant(tenant)
    assert published.tenant.burst in {107, 207}
    assert published.revision == tenant.snapshot_revision == revision_in_redis(valkey, tenant)
    assert tenant.audit_entries.count() == 16


# --- Whom there is to know --------------------------------------------------------------------------------------------


def roster_in_redis(client: redis.Redis) -> snapshot.Roster:
    envelope: Any = client.get(snapshot.roster_name(project_settings.REDIS_PREFIX))
    return snapshot.open_roster(envelope, snapshot.parse_public_keys(project_settings.SNAPSHOT_PUBLIC_KEYS))


@pytest.mark.django_db(transaction=True)
def test_republish_all__no_tenant__says_so_signed(valkey: redis.Redis) -> None:
    assert republish_all() == 0
    assert roster_in_redis(valkey).tenant_ids == ()


@pytest.mark.django_db(transaction=True)
def test_republish_all__lists_those_that_were_published(model: RecommendationModel, valkey: redis.Redis) -> None:
    republish_all()
    republish_all()
    assert roster_in_redis(valkey).tenant_ids == (model.tenant.public_id,)


@pytest.mark.django_db(transaction=True)
def test_republish_all__map_is_whole_and_a_snapshot_is_gone__is_published_again(
    model: RecommendationModel, valkey: redis.Redis
) -> None:
    republish_all()
    valkey.delete(snapshot.snapshot_name(project_settings.REDIS_PREFIX, model.tenant.public_id))
    assert republish_all() == 1
    assert in_redis(valkey, model.tenant).tenant.slug == model.tenant.slug
