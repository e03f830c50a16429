"""Credentials of a studio: issuing, registering, changing, rotating and revoking them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, assert_never

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from django.db import transaction
from django.utils import timezone

from serving.formats.encoding import base64url_encode
from tenants import audit
from tenants.models import Algorithm, Credential, CredentialKind, Tenant, User, new_public_id
from tenants.rules import (
    AlreadyMade,
    ChangedMeanwhile,
    LimitReached,
    RuleBroken,
    check_limits,
    check_reason,
    check_text,
)
from tenants.services import apply_changes, lock_tenant
from tenants.signals import announce_after_commit

SECRET_PREFIX = "rsk_"  # noqa: S105 - what all secrets begin with
LONGEST_OVERLAP = timedelta(days=30)
# That are not revoked. Every lane keeps them all, and takes them in between two requests of everybody's players.
MAX_CREDENTIALS = 1_000


class AllowedModels(Protocol):
    """What a credential is narrowed to. The app that has the models implements and keeps it."""

    @property
    def slugs(self) -> list[str]:
        """Their short names, sorted; empty: all of the studio's."""

    def save(self, credential: Credential) -> list[str]:
        """Narrow a saved credential, in the caller's transaction; return the short names before.

        Raises:
            RuleBroken: a model is another studio's.
        """


@dataclass(frozen=True)
class IssuedCredential:
    """A credential and its secret, at the only moment at which the secret exists in readable form."""

    credential: Credential
    secret: str = field(repr=False)


def credential_issue(
    *,
    tenant: Tenant,
    name: str,
    actor: User | None,
    allowed_models: AllowedModels | None = None,
    requests_per_second: int | None = None,
    burst: int | None = None,
    public_id: str | None = None,
) -> IssuedCredential:
    """Make a credential with a secret of 256 random bits. Without `allowed_models` it may ask for all of the studio's.

    Raises:
        RuleBroken: a value will not do, a model is another studio's, or the studio has ended.
        LimitReached: the studio has as many as it may.
        AlreadyMade: there is one with this `public_id` (what follows `cr_` in its client id; a new one without).
    """
    secret = new_secret(SECRET_PREFIX)
    credential = Credential(
        tenant=tenant,
        kind=CredentialKind.SECRET,
        algorithm=Algorithm.HS256,
        secret_hash=secret_hash(secret),
        secret_hint=secret_hint(secret),
    )
    _create(credential, name, actor, allowed_models, requests_per_second, burst, public_id)
    return IssuedCredential(credential, secret)


def credential_register_key(  # noqa: PLR0913 - what such a credential is
    *,
    tenant: Tenant,
    name: str,
    public_key: str,
    algorithm: str,
    issuer: str,
    actor: User | None,
    allowed_models: AllowedModels | None = None,
    requests_per_second: int | None = None,
    burst: int | None = None,
    public_id: str | None = None,
) -> Credential:
    """Register the public half of a key with which the studio's backend signs player tokens itself.

    It is PEM. The algorithm, EdDSA (Ed25519), ES256 or RS256 (2,048 to 4,096 bits), is the only one its tokens may use,
    and the issuer what their `iss` must be. The rest is as in `credential_issue`.

    Raises:
        RuleBroken: the key is not of that kind, or another value will not do.
        LimitReached, AlreadyMade: as there.
    """
    credential = Credential(
        tenant=tenant,
        kind=CredentialKind.PUBLIC_KEY,
        algorithm=algorithm,
        public_key=_check_public_key(public_key, algorithm),
        issuer=check_text(issuer, field="issuer", what="The issuer", max_length=200),
    )
    _create(credential, name, actor, allowed_models, requests_per_second, burst, public_id)
    return credential


def credential_update(
    *,
    credential: Credential,
    actor: User | None,
    name: str | None = None,
    allowed_models: AllowedModels | None = None,
    requests_per_second: int | None = None,
    burst: int | None = None,
) -> Credential:
    """Change what is given; None leaves a value alone, `allowed_models` without models widens it to all.

    Raises:
        RuleBroken: a value will not do, or it is revoked.
    """
    wanted: dict[str, Any] = {**check_limits(requests_per_second, burst)}
    if name is not None:
        wanted["name"] = check_text(name, field="name", what="The name", max_length=100)
    with transaction.atomic():
        _lock(credential)
        before, after = apply_changes(credential, wanted)
        if allowed_models is not None:
            slugs = allowed_models.save(credential)
            if slugs != allowed_models.slugs:
                before["allowed_models"], after["allowed_models"] = slugs, allowed_models.slugs
        if after:
            _record(credential, actor, audit.Action.CREDENTIAL_UPDATE, "Changed", before=before, after=after)
    return credential


def credential_rotate(
    *, credential: Credential, actor: User | None, previous_until: datetime, based_on: int | None = None
) -> IssuedCredential:
    """Issue a new secret for a credential; the one before works until `previous_until`, at most 30 days from now.

    An hour that has passed ends the old secret, and its tokens, at once. A secret that was itself still overlapping
    ends now: at most two are ever accepted.

    Raises:
        ChangedMeanwhile: it has had a new secret since `based_on`, the `generation` that this was decided on.
        RuleBroken: it has no secret, is revoked, or the hour is naive or too far away.
    """
    if timezone.is_naive(previous_until):
        raise RuleBroken("The time needs a time zone.", field="previous_until")
    now = timezone.now()
    if previous_until > now + LONGEST_OVERLAP:
        raise RuleBroken("The old secret can keep working for at most 30 days.", field="previous_until")
    secret = new_secret(SECRET_PREFIX)
    with transaction.atomic():
        _lock(credential)
        if credential.kind != CredentialKind.SECRET:
            raise RuleBroken("This credential is a public key. Register the new key as another credential.")
        if based_on not in (None, credential.generation):
            raise ChangedMeanwhile(
                "Somebody replaced this secret in the meantime. Nothing was changed. Reload the page."
            )
        is_overlapping = previous_until > now
        before = {"generation": credential.generation, "secret": credential.secret_hint}
        credential.previous_secret_hash = credential.secret_hash if is_overlapping else ""
        credential.previous_until = previous_until if is_overlapping else None
        credential.secret_hash = secret_hash(secret)
        credential.secret_hint = secret_hint(secret)
        credential.generation += 1
        credential.save(
            update_fields=["previous_secret_hash", "previous_until", "secret_hash", "secret_hint", "generation"]
        )
        after = {
            "generation": credential.generation,
            "secret": credential.secret_hint,
            "previous_until": previous_until.isoformat() if is_overlapping else None,
        }
        _record(credential, actor, audit.Action.CREDENTIAL_ROTATE, "Rotated the secret of", before=before, after=after)
    return IssuedCredential(credential, secret)


def credential_revoke(*, credential: Credential, actor: User | None, reason: str) -> Credential:
    """End a credential and all its tokens, in every lane within 2 s. There is no way back.

    Raises:
        RuleBroken: it is revoked already.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        _lock(credential)
        credential.revoked_at = timezone.now()
        credential.save(update_fields=["revoked_at"])
        _record(credential, actor, audit.Action.CREDENTIAL_REVOKE, "Revoked", reason=reason)
    return credential


def client_id_of(public_id: str) -> str:
    """Return the client id of the credential that is made with a `public_id`."""
    return f"cr_{public_id}"


def _create(
    credential: Credential,
    name: str,
    actor: User | None,
    allowed_models: AllowedModels | None,
    requests_per_second: int | None,
    burst: int | None,
    public_id: str | None,
) -> None:
    credential.name = check_text(name, field="name", what="The name", max_length=100)
    credential.client_id = client_id_of(public_id or new_public_id())
    credential.created_by = actor
    for field_name, limit in check_limits(requests_per_second, burst).items():
        setattr(credential, field_name, limit)
    with transaction.atomic():
        lock_tenant(credential.tenant)
        if public_id and Credential.objects.unscoped().filter(client_id=credential.client_id).exists():
            raise AlreadyMade(f"The credential “{credential.name}” already exists.")
        if Credential.objects.for_tenant(credential.tenant).filter(revoked_at=None).count() >= MAX_CREDENTIALS:
            raise LimitReached(
                f"This studio already has the maximum of {MAX_CREDENTIALS:,} credentials. Revoke one first.",
                field="name",
            )
        credential.save(force_insert=True)
        if allowed_models is not None:
            allowed_models.save(credential)
        after = {
            "client_id": credential.client_id,
            "algorithm": credential.algorithm,
            "issuer": credential.issuer,
            "allowed_models": [] if allowed_models is None else allowed_models.slugs,
            "requests_per_second": credential.requests_per_second,
            "burst": credential.burst,
        }
        match CredentialKind(credential.kind):
            case CredentialKind.PUBLIC_KEY:
                action, words = audit.Action.CREDENTIAL_REGISTER_KEY, "Registered the key"
            case CredentialKind.SECRET:
                action, words = audit.Action.CREDENTIAL_ISSUE, "Issued"
            case unknown:
                assert_never(unknown)
        _record(credential, actor, action, words, after=after)


def _lock(credential: Credential) -> None:
    """Read a credential anew under its studio's lock; RuleBroken if it is revoked."""
    lock_tenant(credential.tenant)
    credential.refresh_from_db(from_queryset=Credential.objects.unscoped())
    if credential.revoked_at is not None:
        raise RuleBroken(f"The credential “{credential.name}” is revoked.")


def _record(credential: Credential, actor: User | None, action: audit.Action, words: str, **values: Any) -> None:
    summary = f"{words} “{credential.name}” ({credential.client_id})."
    audit.record(credential.tenant, actor, action, f"credential {credential.client_id}", summary, **values)
    announce_after_commit(credential.tenant_id)


def _check_public_key(pem: str, algorithm: str) -> str:
    """Return the key as PEM in its plain form; RuleBroken unless it is one of that algorithm."""
    if "PRIVATE KEY" in pem:
        raise RuleBroken(
            "This is a private key. Register the public key instead, and make a new pair: this one has leaked.",
            field="public_key",
        )
    try:
        key = load_pem_public_key(pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise RuleBroken("This is not a public key in PEM format.", field="public_key") from None
    if algorithm not in Algorithm.values or not _fits(key, Algorithm(algorithm)):
        raise RuleBroken(
            "The key does not fit the algorithm: EdDSA takes an Ed25519 key, ES256 a P-256 key, RS256 an RSA key of "
            "2,048 to 4,096 bits with the exponent 65,537.",
            field="algorithm",
        )
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _fits(key: PublicKeyTypes, algorithm: Algorithm) -> bool:
    """Tell whether tokens of that algorithm are signed with the private half of such a key."""
    match algorithm:
        case Algorithm.EDDSA:
            return isinstance(key, Ed25519PublicKey)
        case Algorithm.ES256:
            return isinstance(key, EllipticCurvePublicKey) and key.curve.name == SECP256R1.name
        case Algorithm.RS256:
            return isinstance(key, RSAPublicKey) and _is_usual_rsa(key)
        case Algorithm.HS256:
            return False
        case _ as never:
            assert_never(never)


def _is_usual_rsa(key: RSAPublicKey) -> bool:
    """Tell whether a signature is checked in microseconds: every lane checks them between everybody's requests.

    With an exponent as long as the key it takes a hundred times as long, whoever's token it is.
    """
    return 2048 <= key.key_size <= 4096 and key.public_numbers().e <= 65_537


def new_secret(prefix: str) -> str:
    """Return a secret of 256 random bits after four characters that say what it is."""
    return prefix + base64url_encode(secrets.token_bytes(32))


def secret_hash(secret: str) -> str:
    """Return what is kept of a secret: it is 256 random bits, so that a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def secret_hint(secret: str) -> str:
    """Return what lets a person tell two secrets apart: the prefix, and 24 of 256 bits."""
    return f"{secret[:4]}…{secret[-4:]}"
