"""Automation tokens: what scripts and schedulers use the API with. Issuing, revoking, authenticating."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from tenants import audit
from tenants.callers import NotAuthenticated, note_use
from tenants.credentials import new_secret, secret_hash, secret_hint
from tenants.models import AutomationToken, Scope, Tenant, User, new_public_id
from tenants.rules import AlreadyMade, RuleBroken, check_reason, check_text
from tenants.services import lock_tenant

TOKEN_PREFIX = "rsa_"  # noqa: S105 - what all automation tokens begin with
TOKEN_LENGTH = len(TOKEN_PREFIX) + 43


@dataclass(frozen=True)
class IssuedToken:
    """A token's row and the token itself, at the only moment at which it exists in readable form."""

    token: AutomationToken
    secret: str = field(repr=False)


# --- Writes ---------------------------------------------------------------------------------------------------------


def automation_token_issue(
    *,
    tenant: Tenant,
    name: str,
    scopes: Collection[str],
    actor: User | None,
    expires_at: datetime | None = None,
    public_id: str | None = None,
) -> IssuedToken:
    """Make a token of 256 random bits that may do in this studio what its scopes, one or more of `Scope`, say.

    Raises:
        RuleBroken: a value will not do, or the studio has ended.
        AlreadyMade: there is one with this `public_id` (what follows `at_` in its id; a new one without).
    """
    secret = new_secret(TOKEN_PREFIX)
    token = AutomationToken(
        tenant=tenant,
        public_id=f"at_{public_id or new_public_id()}",
        name=check_text(name, field="name", what="The name", max_length=100),
        scopes=_check_scopes(scopes),
        token_hash=secret_hash(secret),
        token_hint=secret_hint(secret),
        created_by=actor,
        expires_at=_check_expiry(expires_at),
    )
    with transaction.atomic():
        lock_tenant(tenant)
        if public_id and AutomationToken.objects.unscoped().filter(public_id=token.public_id).exists():
            raise AlreadyMade(f"The automation token “{token.name}” already exists.")
        token.save(force_insert=True)
        after = {"scopes": token.scopes, "expires_at": expires_at.isoformat() if expires_at else None}
        _record(token, actor, audit.Action.AUTOMATION_TOKEN_ISSUE, "Issued", after=after)
    return IssuedToken(token, secret)


def automation_token_revoke(*, token: AutomationToken, actor: User | None, reason: str) -> AutomationToken:
    """End a token at once. There is no way back.

    Raises:
        RuleBroken: it is revoked already, or the studio has ended.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        lock_tenant(token.tenant)
        token.refresh_from_db(from_queryset=AutomationToken.objects.unscoped())
        if token.revoked_at is not None:
            raise RuleBroken(f"The automation token “{token.name}” is revoked.")
        token.revoked_at = timezone.now()
        token.save(update_fields=["revoked_at"])
        _record(token, actor, audit.Action.AUTOMATION_TOKEN_REVOKE, "Revoked", reason=reason)
    return token


def _record(token: AutomationToken, actor: User | None, action: audit.Action, words: str, **values: Any) -> None:
    summary = f"{words} the automation token “{token.name}” ({token.public_id})."
    audit.record(token.tenant, actor, action, f"automation token {token.public_id}", summary, **values)


def _check_scopes(scopes: Collection[str]) -> list[str]:
    """Return the scopes in the order in which `Scope` lists them."""
    if isinstance(scopes, str) or not scopes or not set(scopes) <= set(Scope.values):
        raise RuleBroken("Choose at least one thing that the token may do.", field="scopes")
    return [scope for scope in Scope.values if scope in scopes]


def _check_expiry(expires_at: datetime | None) -> datetime | None:
    if expires_at is None:
        return None
    if timezone.is_naive(expires_at):
        raise RuleBroken("The time needs a time zone.", field="expires_at")
    if expires_at <= timezone.now():
        raise RuleBroken("This time has already passed.", field="expires_at")
    return expires_at


# --- Authenticating --------------------------------------------------------------------------------------------------


def automation_token_authenticate(secret: str, *, now: datetime | None = None) -> AutomationToken:
    """Return the row of a token, its studio with it. One query, and one write a minute for `last_used_at`.

    It is found by its hash: of 256 random bits nobody learns anything from how long that takes.

    Raises:
        NotAuthenticated: there is none, it is revoked or expired, or its studio has ended; the caller is told no more.
    """
    now = now or timezone.now()
    if len(secret) != TOKEN_LENGTH or not secret.startswith(TOKEN_PREFIX):
        raise NotAuthenticated
    found = AutomationToken.objects.unscoped().filter(token_hash=secret_hash(secret), revoked_at=None)
    token = found.select_related("tenant").first()
    if token is None or token.tenant.ended_at or (token.expires_at is not None and token.expires_at <= now):
        raise NotAuthenticated
    note_use(token, now)
    return token
