"""The audit trail: one entry with every change, in the same transaction."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from django.db import transaction

from tenants.models import AuditEntry, Tenant, User

SYSTEM = "system"


class NotInTransaction(RuntimeError):
    """An entry written outside the transaction of the change it tells of."""


_automation: ContextVar[str | None] = ContextVar("_automation", default=None)


def act_as(automation: str | None) -> None:
    """Name what acts where no person does, in this thread from now on: an automation token; None ends it."""
    _automation.set(automation)


def name_of(actor: User | None) -> str:
    """Return the name an entry keeps of who did it; without a person it is the automation that acts, or the system."""
    return actor.get_username() if actor is not None else _automation.get() or SYSTEM


def record(
    *,
    tenant: Tenant | None,
    actor: User | None,
    action: str,
    subject: str,
    summary: str,
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Write one entry. Nothing secret may be in any argument.

    Args:
        tenant: whose trail it belongs to; None for the platform's own.
        actor: who did it; None for the system.
        action: `noun.verb`, such as `credential.revoke`.
        subject: what it was done to, such as `credential Android client`.
        summary: one sentence a person understands; cut at 500 characters.
        reason: why, in the actor's words.
        before: what the changed values were, as JSON holds them.
        after: what they became.

    Raises:
        NotInTransaction: no transaction is open, so that the change could be kept and its entry lost.
    """
    if not transaction.get_connection().in_atomic_block:
        raise NotInTransaction(action)
    return AuditEntry.objects.create(
        tenant=tenant,
        actor=actor,
        actor_name=name_of(actor),
        action=action,
        subject=subject[:200],
        summary=summary[:500],
        reason=reason[:500],
        before=before,
        after=after,
    )
