"""Credentials: issuing, rotating and revoking them, authenticating a caller, and minting its tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NewType, Protocol, assert_never

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from django.conf import settings
from django.db import OperationalError, transaction
from django.db.models import Q
from django.utils import timezone
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import Token

from serving.formats import tokens
from serving.formats.encoding import base64url_encode
from tenants import audit
from tenants.models import Algorithm, Credential, CredentialKind, Tenant, User, new_public_id
from tenants.rules import AlreadyMade, ChangedMeanwhile, RuleBroken, check_limit, check_reason, check_text
from tenants.services import apply_changes, lock_tenant
from tenants.signals import announce_after_commit

log = logging.getLogger(__name__)

SECRET_PREFIX = "rsk_"  # noqa: S105 - what all secrets begin with
MAX_SECRET_LENGTH = 200
LONGEST_OVERLAP = timedelta(days=30)
LAST_USED_EVERY = timedelta(minutes=1)
_NO_HASH = hashlib.sha256(b"").hexdigest()


class NotAuthenticated(Exception):
    """No such client, a wrong secret, a revoked credential, an ended studio: one answer for all of them."""


class UnknownModel(RuleBroken):
    """A token asked for a model that the credential may not ask for, or that does not exist."""


# Short names of models that a credential may ask for: whoever knows models makes them, after a look.
AskableModels = NewType("AskableModels", list[str])


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


@dataclass(frozen=True)
class Authenticated:
    """A caller that proved itself, and the generation of the secret it used."""

    credential: Credential
    generation: int


# --- Writes ---------------------------------------------------------------------------------------------------------


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
        AlreadyMade: there is one with this `public_id` (what follows `cr_` in its client id; a new one without).
    """
    secret = _new_secret()
    credential = Credential(
        tenant=tenant,
        kind=CredentialKind.SECRET,
        algorithm=Algorithm.HS256,
        secret_hash=_hash(secret),
        secret_hint=_hint(secret),
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

    Args:
        tenant: whose it is.
        name: where it is used.
        public_key: PEM.
        algorithm: EdDSA (Ed25519), ES256 or RS256 (2,048 to 4,096 bits): the only one its tokens may use.
        issuer: what `iss` in its tokens is.
        actor: who registers it.
        allowed_models: what it is narrowed to; None for all of the studio's.
        requests_per_second: its limit.
        burst: how many requests may come at once.
        public_id: see `credential_issue`.

    Raises:
        RuleBroken: the key is not of that kind, or another value will not do.
        AlreadyMade: see `credential_issue`.
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
    wanted: dict[str, Any] = {}
    if name is not None:
        wanted["name"] = check_text(name, field="name", what="The name", max_length=100)
    if requests_per_second is not None:
        wanted["requests_per_second"] = _check_rate(requests_per_second)
    if burst is not None:
        wanted["burst"] = _check_burst(burst)
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

    Args:
        credential: whose.
        actor: who does it.
        previous_until: when the secret that works now ends.
        based_on: the `generation` this was decided on; None to rotate whatever is there.

    Raises:
        ChangedMeanwhile: it has had a new secret since `based_on`.
        RuleBroken: it has no secret, is revoked, or the hour is naive or too far away.
    """
    if timezone.is_naive(previous_until):
        raise RuleBroken("The time needs a time zone.", field="previous_until")
    now = timezone.now()
    if previous_until > now + LONGEST_OVERLAP:
        raise RuleBroken("The old secret can keep working for at most 30 days.", field="previous_until")
    secret = _new_secret()
    with transaction.atomic():
        _lock(credential)
        if credential.kind != CredentialKind.SECRET:
            raise RuleBroken("This credential is a public key. Register the new key as another credential.")
        if based_on not in (None, credential.generation):
            raise ChangedMeanwhile("It has been given a new secret meanwhile. Nothing was changed; look at it again.")
        is_overlapping = previous_until > now
        before = {"generation": credential.generation, "secret": credential.secret_hint}
        credential.previous_secret_hash = credential.secret_hash if is_overlapping else ""
        credential.previous_until = previous_until if is_overlapping else None
        credential.secret_hash = _hash(secret)
        credential.secret_hint = _hint(secret)
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
    if requests_per_second is not None:
        credential.requests_per_second = _check_rate(requests_per_second)
    if burst is not None:
        credential.burst = _check_burst(burst)
    with transaction.atomic():
        lock_tenant(credential.tenant)
        if public_id and Credential.objects.unscoped().filter(client_id=credential.client_id).exists():
            raise AlreadyMade(f"The credential “{credential.name}” already exists.")
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


def _record(
    credential: Credential,
    actor: User | None,
    action: audit.Action,
    words: str,
    *,
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    audit.record(
        tenant=credential.tenant,
        actor=actor,
        action=action,
        subject=f"credential {credential.client_id}",
        summary=f"{words} “{credential.name}” ({credential.client_id}).",
        reason=reason,
        before=before,
        after=after,
    )
    announce_after_commit(credential.tenant_id)


def _check_rate(value: int) -> int:
    return check_limit(value, field="requests_per_second", what="The limit per second")


def _check_burst(value: int) -> int:
    return check_limit(value, field="burst", what="The burst")


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
    fits = (
        (algorithm == Algorithm.EDDSA and isinstance(key, Ed25519PublicKey))
        or (
            algorithm == Algorithm.ES256
            and isinstance(key, EllipticCurvePublicKey)
            and key.curve.name == SECP256R1.name
        )
        or (algorithm == Algorithm.RS256 and isinstance(key, RSAPublicKey) and _is_usual_rsa(key))
    )
    if not fits:
        raise RuleBroken(
            "The key does not fit the algorithm: EdDSA takes an Ed25519 key, ES256 a P-256 key, RS256 an RSA key of "
            "2,048 to 4,096 bits with the exponent 65,537.",
            field="algorithm",
        )
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _is_usual_rsa(key: RSAPublicKey) -> bool:
    """Tell whether a signature is checked in microseconds: every lane checks them between everybody's requests.

    With an exponent as long as the key it takes a hundred times as long, whoever's token it is.
    """
    return 2048 <= key.key_size <= 4096 and key.public_numbers().e <= 65_537


def _new_secret() -> str:
    return SECRET_PREFIX + base64url_encode(secrets.token_bytes(32))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _hint(secret: str) -> str:
    """Return what lets a person tell two secrets apart: 24 of 256 bits."""
    return f"{SECRET_PREFIX}…{secret[-4:]}"


# --- Authenticating and minting --------------------------------------------------------------------------------------


def credential_authenticate(client_id: str, client_secret: str, *, now: datetime | None = None) -> Authenticated:
    """Return the credential that a client id and a secret prove. One query, and one write a minute for `last_used_at`.

    A client id that does not exist costs what a wrong secret costs, and all secrets are compared in constant time.

    Raises:
        NotAuthenticated: for whatever reason; the caller is told no more.
    """
    now = now or timezone.now()
    credential = None
    if tokens.KID.fullmatch(client_id):
        found = Credential.objects.unscoped().filter(client_id=client_id, kind=CredentialKind.SECRET)
        credential = found.select_related("tenant").first()
    given = _hash(client_secret[: MAX_SECRET_LENGTH + 1])
    is_current = hmac.compare_digest(given, credential.secret_hash if credential else _NO_HASH)
    is_previous = hmac.compare_digest(given, (credential.previous_secret_hash if credential else "") or _NO_HASH)
    if credential is None or not client_secret or credential.revoked_at or credential.tenant.ended_at:
        raise NotAuthenticated
    is_overlapping = credential.previous_until is not None and now < credential.previous_until
    if is_current:
        generation = credential.generation
    elif is_previous and is_overlapping:
        generation = credential.generation - 1
    else:
        raise NotAuthenticated
    _note_use(credential, now)
    return Authenticated(credential, generation)


def _note_use(credential: Credential, now: datetime) -> None:
    """Record the use, at most once a minute however many processes see it; that it fails must not refuse a caller."""
    before = now - LAST_USED_EVERY
    if credential.last_used_at is not None and credential.last_used_at > before:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lte=before)
    try:
        Credential.objects.unscoped().filter(stale, pk=credential.pk).update(last_used_at=now)
    except OperationalError as error:
        log.warning("credential.use_not_recorded credential=%s problem=%s", credential.client_id, error)


class _CallerTokenBackend(TokenBackend):
    """simplejwt's backend with the header that names a credential's key, and that key."""

    def __init__(self, credential_id: str, generation: int) -> None:
        master_key_id, master_key = next(iter(tokens.parse_master_keys(settings.TOKEN_MASTER_KEYS).items()))
        key = tokens.derive_key(master_key, master_key_id, credential_id, generation)
        super().__init__(
            algorithm=Algorithm.HS256.value,
            signing_key=key,  # type: ignore[arg-type]  # annotated as text, handed to PyJWT, which takes bytes
            audience=settings.TOKEN_AUDIENCE,
            issuer=settings.TOKEN_ISSUER,
        )
        self.headers = tokens.header_parameters(credential_id, generation, master_key_id)

    def encode(self, payload: dict[str, Any]) -> str:
        claims = {**payload, "aud": self.audience, "iss": self.issuer}
        return jwt.encode(claims, self.prepared_signing_key, algorithm=self.algorithm, headers=self.headers)


class CallerToken(Token):
    """simplejwt's token, minted for one credential: no type and no id, which nothing here reads."""

    token_type = "access"  # noqa: S105 - a kind of token

    def __init__(self, credential_id: str, generation: int, lifetime: timedelta) -> None:
        self.lifetime = lifetime
        self._backend = _CallerTokenBackend(credential_id, generation)
        super().__init__()
        del self.payload[api_settings.TOKEN_TYPE_CLAIM]

    def set_jti(self) -> None:
        """Leave it out: a token is not looked up anywhere."""

    def get_token_backend(self) -> TokenBackend:
        """Return the backend with this credential's key."""
        return self._backend


def mint_token(
    *,
    credential: Credential,
    subject: str | None = None,
    models: AskableModels | None = None,
    expires_in_seconds: int | None = None,
    generation: int | None = None,
) -> tuple[str, int]:
    """Return a token signed with the credential's derived key, and for how many seconds it is good.

    Args:
        credential: one with a secret.
        subject: the player it is for; None for a server token.
        models: what it is narrowed to; None for all of the credential's.
        expires_in_seconds: 1 … 900; None for 900.
        generation: of the secret that the caller used; None for the current one. A token of the previous one ends
            with it.

    Raises:
        RuleBroken: a value will not do.
        UnknownModel: they are more than a token holds.
    """
    longest = int(settings.TOKEN_LIFETIME.total_seconds())
    seconds = longest if expires_in_seconds is None else expires_in_seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= longest:
        raise RuleBroken(f"expires_in must be a whole number of seconds from 1 to {longest}.", field="expires_in")
    if credential.kind != CredentialKind.SECRET:
        raise RuleBroken("The studio signs this credential's tokens itself.")
    generation = credential.generation if generation is None else generation
    if generation != credential.generation:
        if credential.previous_until is None or generation != credential.generation - 1:
            raise RuleBroken("This secret has been replaced.")
        seconds = max(1, min(seconds, int((credential.previous_until - timezone.now()).total_seconds())))
    token = CallerToken(credential.client_id, generation, timedelta(seconds=seconds))
    token["tenant"] = credential.tenant.slug
    if subject is not None:
        if not tokens.is_unit(subject):
            raise RuleBroken("sub must be 1 to 256 bytes of text without control characters.", field="sub")
        token["sub"] = subject
    if models is not None:
        token["models"] = models
    text = str(token)
    if len(text) > tokens.MAX_TOKEN_BYTES:
        raise UnknownModel("A token cannot name so many models. Leave models out to allow all of them.", field="models")
    return text, seconds
