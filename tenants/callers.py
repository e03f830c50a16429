"""Callers: authenticating one by its client id and secret, and minting its tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NewType

import jwt
from django.conf import settings
from django.db import OperationalError
from django.db.models import Q
from django.utils import timezone
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import Token
from typing_extensions import override

from serving.formats import tokens
from tenants.credentials import secret_hash
from tenants.models import Algorithm, AutomationToken, Credential, CredentialKind
from tenants.rules import RuleBroken

log = logging.getLogger(__name__)

MAX_SECRET_LENGTH = 200
LAST_USED_EVERY = timedelta(minutes=1)
_NO_HASH = hashlib.sha256(b"").hexdigest()

# Short names of models that a credential may ask for: whoever knows models makes them, after a look.
AskableModels = NewType("AskableModels", list[str])


class NotAuthenticated(Exception):
    """No such client, a wrong secret, a revoked credential, an ended studio: one answer for all of them."""


class UnknownModel(RuleBroken):
    """A token asked for a model that the credential may not ask for, or that does not exist."""


@dataclass(frozen=True)
class Authenticated:
    """A caller that proved itself, and the generation of the secret it used."""

    credential: Credential
    generation: int


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
    offered = secret_hash(client_secret[: MAX_SECRET_LENGTH + 1])
    is_current = hmac.compare_digest(offered, credential.secret_hash if credential else _NO_HASH)
    is_previous = hmac.compare_digest(offered, (credential.previous_secret_hash if credential else "") or _NO_HASH)
    if credential is None or not client_secret or credential.revoked_at or credential.tenant.ended_at:
        raise NotAuthenticated
    is_overlapping = credential.previous_until is not None and now < credential.previous_until
    if is_current:
        generation = credential.generation
    elif is_previous and is_overlapping:
        generation = credential.generation - 1
    else:
        raise NotAuthenticated
    note_use(credential, now)
    return Authenticated(credential, generation)


def note_use(proof: Credential | AutomationToken, now: datetime) -> None:
    """Record the use, at most once a minute however many processes see it; that it fails must not refuse a caller."""
    before = now - LAST_USED_EVERY
    if proof.last_used_at is not None and proof.last_used_at > before:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lte=before)
    try:
        type(proof).objects.unscoped().filter(stale, pk=proof.pk).update(last_used_at=now)
    except OperationalError as error:
        log.warning("caller.use_not_recorded kind=%s id=%s problem=%s", type(proof).__name__, proof.pk, error)


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

    @override
    def get_token_backend(self) -> TokenBackend:
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

    Without a subject, the player it is for, it is a server token; without models it may ask for all of the
    credential's. It lives 1 … 900 s, without a wish 900. The generation is that of the secret that the caller used,
    without one the current one: a token of the previous secret ends with it.

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
