"""What the newest signed snapshots know and a database that was restored from a backup does not.

Snapshots in Redis and in the folders of lanes outlive the database. What was taken back after the backup (a credential
that was revoked, a studio that ended) would be good again with the first snapshot of the restored database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from models_registry.models import RecommendationModel
from models_registry.redis_clients import publishing_client
from serving.formats import snapshot
from tenants.credentials import credential_revoke
from tenants.models import Credential, Tenant
from tenants.services import tenant_end

REASON = "Taken back again after a backup was restored that was older than that."


@dataclass(frozen=True)
class Forgotten:
    """Something that happened after the backup.

    Attributes:
        words: what, and what to do about it, for whoever restored.
        takes_back: what must not be good again, and can be taken back again; None where people must see to it.
    """

    words: str
    takes_back: Tenant | Credential | None = None


def envelopes_in_redis() -> Iterator[bytes]:
    """Yield the envelopes that the map of revisions in Redis names; raises redis.RedisError."""
    client = publishing_client()
    names: Any = client.hkeys(snapshot.revisions_name(settings.REDIS_PREFIX))
    for name in names:
        envelope: Any = client.get(snapshot.snapshot_name(settings.REDIS_PREFIX, name.decode()))
        if envelope is not None:
            yield envelope


def envelopes_in(folder: Path) -> Iterator[bytes]:
    """Yield the envelopes that a lane left in its folder."""
    for path in sorted(folder.rglob("*.snapshot")):
        yield path.read_bytes()


def forgotten(envelopes: Iterable[bytes]) -> list[Forgotten]:
    """Return what the database does not know, by the newest good snapshot of each studio among these."""
    trusted = snapshot.parse_public_keys(settings.SNAPSHOT_PUBLIC_KEYS)
    newest: dict[str, snapshot.Snapshot] = {}
    for envelope in envelopes:
        try:
            found = snapshot.open_snapshot(envelope, trusted)
        except snapshot.BadSnapshot:
            continue
        if found.tenant.id not in newest or found.revision > newest[found.tenant.id].revision:
            newest[found.tenant.id] = found
    tenants = Tenant.objects.in_bulk(newest, field_name="public_id")
    return [
        said
        for found in sorted(newest.values(), key=lambda one: one.tenant.slug)
        for said in _of_studio(found, tenants.get(found.tenant.id))
    ]


def take_back(things: Iterable[Forgotten]) -> int:
    """Revoke and end again what was revoked and ended after the backup; return how many."""
    done = 0
    # In one transaction, since the first snapshot that is published must have all of it.
    with transaction.atomic():
        for thing in things:
            match thing.takes_back:
                case Credential() as credential:
                    credential_revoke(credential=credential, actor=None, reason=REASON)
                case Tenant() as tenant:
                    tenant_end(tenant=tenant, actor=None, reason=REASON)
                case None:
                    continue
                case unknown:
                    assert_never(unknown)
            done += 1
    return done


def _of_studio(found: snapshot.Snapshot, tenant: Tenant | None) -> Iterator[Forgotten]:
    known = found.tenant
    if tenant is None:
        if not known.is_ended:
            yield Forgotten(
                f"{known.slug}: the studio was made after the backup. Lanes go on with it until they start with an "
                "empty folder; make it again."
            )
        return
    if found.revision <= tenant.snapshot_revision or tenant.ended_at is not None:
        return
    if known.is_ended:
        yield Forgotten(f"{tenant.slug}: the studio ended after the backup.", tenant)
        return
    yield from _of_credentials(known, tenant)
    yield from _of_models(known, tenant)


def _of_credentials(known: snapshot.Tenant, tenant: Tenant) -> Iterator[Forgotten]:
    there = {credential.id: credential for credential in known.credentials}
    held = {one.client_id: one for one in Credential.objects.for_tenant(tenant).order_by("client_id")}
    for client_id, credential in held.items():
        what = f"{tenant.slug}: the credential “{credential.name}” ({client_id})"
        if credential.revoked_at is not None:
            continue
        if client_id not in there:
            yield Forgotten(f"{what} was revoked after the backup.", credential)
        elif any(key.generation > credential.generation for key in there[client_id].accepted):
            yield Forgotten(f"{what} got a new secret after the backup: the one before is good again. Replace it anew.")
    for client_id in sorted(there.keys() - held.keys()):
        yield Forgotten(f"{tenant.slug}: the credential {client_id} was made after the backup. Make another one.")


def _of_models(known: snapshot.Tenant, tenant: Tenant) -> Iterator[Forgotten]:
    rows = RecommendationModel.objects.for_tenant(tenant)
    layouts = dict(rows.values_list("slug").annotate(newest=Max("layouts__revision")))
    rollouts = dict(rows.values_list("slug").annotate(newest=Max("rollout_revisions__number")))
    versions = set(rows.values_list("slug", "versions__code", "versions__name"))
    for model in known.models:
        what = f"{tenant.slug}/{model.slug}"
        if model.slug not in layouts:
            yield Forgotten(f"{what}: the model was made after the backup. Make it again.")
            continue
        if any(layout.revision > (layouts[model.slug] or 0) for layout in model.layouts):
            yield Forgotten(
                f"{what}: its layout was changed after the backup. Change it in the same way again before any other, "
                "since clients of the bit-packed form know it by its number."
            )
        for version in model.versions:
            if (model.slug, version.code, version.name) not in versions:
                yield Forgotten(f"{what}: the version “{version.name}” was made after the backup. Make it again.")
        if model.allocation_revision > (rollouts[model.slug] or 0):
            yield Forgotten(f"{what}: its weights were changed after the backup. Look whether they are to be again.")
