"""What signed snapshots tell a restored database, beyond what the drill of `tests/faults` goes through."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as project_settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from models_registry import publishing
from models_registry.models import RecommendationModel
from models_registry.publishing import publish_tenant
from models_registry.restoring import forgotten, take_back
from recsite.embedded import free_port
from serving.formats import snapshot
from tenants.credentials import credential_issue, credential_revoke
from tenants.models import AuditEntry, Credential, Tenant
from tenants.services import tenant_end
from tests import factories
from tests.integration.dashboard_scene import make_offers

pytestmark = pytest.mark.django_db(transaction=True)


def published(client: redis.Redis, tenant: Tenant) -> bytes:
    assert publish_tenant(tenant.pk)
    envelope: Any = client.get(snapshot.snapshot_name(project_settings.REDIS_PREFIX, tenant.public_id))
    return bytes(envelope)


def go_back(tenant: Tenant) -> None:
    """Have the studio's row say what it said before anything of the test was published."""
    Tenant.objects.filter(pk=tenant.pk).update(snapshot_revision=0, ended_at=None)


def said(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("restored", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_restored__studio_that_had_ended__is_ended_again(studio: Tenant, valkey: redis.Redis) -> None:
    tenant_end(tenant=studio, actor=None, reason="over")
    go_back(studio)
    assert said() == [
        f"{studio.slug}: the studio ended after the backup.",
        "1 found in 1 snapshots.",
        "1 would be good again: run this once more with --take-back.",
    ]
    assert said("--take-back")[-1] == "1 taken back again."
    studio.refresh_from_db()
    assert studio.ended_at is not None
    assert AuditEntry.objects.for_tenant(studio).latest("pk").reason.startswith("Taken back again")
    assert said() == ["0 found in 1 snapshots."]


def test_forgotten__things_that_were_made_after_the_backup__are_each_named(studio: Tenant, valkey: redis.Redis) -> None:
    offers = make_offers(studio)
    made = credential_issue(tenant=studio, name="new", actor=None).credential
    envelope = published(valkey, studio)
    go_back(studio)
    Credential.objects.unscoped().filter(pk=made.pk).delete()
    RecommendationModel.objects.unscoped().filter(pk=offers.model.pk).update(slug="of-then")
    assert [thing.words for thing in forgotten([envelope])] == [
        f"{studio.slug}: the credential {made.client_id} was made after the backup. Make another one.",
        f"{studio.slug}/offers: the model was made after the backup. Make it again.",
    ]
    assert take_back(forgotten([envelope])) == 0


def test_forgotten__the_snapshot_is_no_newer_or_not_ours__says_nothing(studio: Tenant, valkey: redis.Redis) -> None:
    credential = credential_issue(tenant=studio, name="Android", actor=None).credential
    Credential.objects.unscoped().filter(pk=credential.pk).update(revoked_at=timezone.now())
    without = published(valkey, studio)
    Credential.objects.unscoped().filter(pk=credential.pk).update(revoked_at=None)
    newest = published(valkey, studio)
    assert forgotten([newest, without]) == []
    assert forgotten([without, b"junk", without[:-1]]) == []
    go_back(studio)
    assert forgotten([newest, without]) == []
    assert len(forgotten([without, b"junk"])) == 1


def test_take_back__two_of_a_studio__no_snapshot_between_has_either(
    studio: Tenant, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = [credential_issue(tenant=studio, name=name, actor=None).credential for name in ("one", "two")]
    for credential in credentials:
        credential_revoke(credential=credential, actor=None, reason="")
    go_back(studio)
    Credential.objects.unscoped().update(revoked_at=None)
    pushed: list[bytes] = []
    monkeypatch.setattr(publishing, "_push", lambda _, __, envelope: pushed.append(envelope))
    assert said("--take-back")[-1] == "2 taken back again."
    trusted = snapshot.parse_public_keys(project_settings.SNAPSHOT_PUBLIC_KEYS)
    assert pushed
    assert all(not snapshot.open_snapshot(envelope, trusted).tenant.credentials for envelope in pushed)


def test_restored__nothing_to_compare_with__says_where_to_look(
    valkey: redis.Redis, tmp_path: Path, settings: Any
) -> None:
    factories.TenantFactory.create()
    for arguments in ((), (str(tmp_path),)):
        with pytest.raises(CommandError, match="Name the folders of lanes"):
            call_command("restored", *arguments)
    settings.TABLES_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(CommandError, match="Redis does not answer"):
        call_command("restored")
