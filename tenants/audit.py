"""The audit trail: one entry with every change, in the same transaction."""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Self

from django.db import models, transaction

from tenants.models import AuditEntry, Tenant, User

SYSTEM = "system"


class Kind(models.TextChoices):
    """What the trail can be narrowed to."""

    WEIGHTS = "weights", "Weights and testers"
    MODELS = "models", "Models and versions"
    LOADS = "loads", "Loads and tables"
    CREDENTIALS = "credentials", "Credentials and tokens"
    PEOPLE = "people", "Members and accounts"
    STUDIO = "studio", "The studio itself"
    PLATFORM = "platform", "The platform"  # never in a studio's trail

    @property
    def nouns(self) -> list[str]:
        """Return the nouns of its actions; each noun has one kind."""
        return list(dict.fromkeys(action.noun for action in Action if action.kind is self))


class Action(StrEnum):
    """Everything that leaves an entry: `noun.verb` as the database keeps it, its kind, and words for people.

    A value never changes: old entries have it. One that is no longer written goes, and its entries show its value.
    """

    kind: Kind
    words: str

    def __new__(cls, value: str, kind: Kind, words: str) -> Self:
        """Return an action with its kind and words."""
        action = str.__new__(cls, value)
        action._value_ = value
        action.kind = kind
        action.words = words
        return action

    ROLLOUT_REWEIGHT = "rollout.reweight", Kind.WEIGHTS, "Weights changed"
    ROLLOUT_SWITCH_OFF = "rollout.switch_off", Kind.WEIGHTS, "Version switched off"
    ROLLOUT_GO_BACK = "rollout.go_back", Kind.WEIGHTS, "Weights restored"
    ROLLOUT_SERVE_DEFAULT = "rollout.serve_default", Kind.WEIGHTS, "Default served to everybody"
    ROLLOUT_SERVE_AGAIN = "rollout.serve_again", Kind.WEIGHTS, "Recommendations served again"
    ROLLOUT_NEW_PHASE = "rollout.new_phase", Kind.WEIGHTS, "Phase begun"
    OVERRIDE_SET = "override.set", Kind.WEIGHTS, "Tester set"
    OVERRIDE_REMOVE = "override.remove", Kind.WEIGHTS, "Tester removed"
    MODEL_CREATE = "model.create", Kind.MODELS, "Model created"
    MODEL_UPDATE = "model.update", Kind.MODELS, "Model changed"
    MODEL_SET_DEFAULT = "model.set_default", Kind.MODELS, "Default answer changed"
    LAYOUT_ADD = "layout.add", Kind.MODELS, "Layout added"
    VERSION_CREATE = "version.create", Kind.MODELS, "Version created"
    VERSION_ARCHIVE = "version.archive", Kind.MODELS, "Version archived"
    SOURCE_SET = "source.set", Kind.MODELS, "Source changed"
    SCHEDULE_SET = "schedule.set", Kind.MODELS, "Schedule set"
    SCHEDULE_REMOVE = "schedule.remove", Kind.MODELS, "Schedule removed"
    FRESHNESS_SET = "freshness.set", Kind.MODELS, "Freshness limit changed"
    LOAD_REQUEST = "load.request", Kind.LOADS, "Load requested"
    LOAD_ACTIVATE = "load.activate", Kind.LOADS, "Table activated"
    LOAD_CANCEL = "load.cancel", Kind.LOADS, "Load cancelled"
    LOAD_ACTIVATE_ANYWAY = "load.activate_anyway", Kind.LOADS, "Failed checks waived"
    TABLE_ROLL_BACK = "table.roll_back", Kind.LOADS, "Table rolled back"
    TABLE_LOST = "table.lost", Kind.LOADS, "Table lost"
    TABLE_FOUND = "table.found", Kind.LOADS, "Table found again"
    CREDENTIAL_ISSUE = "credential.issue", Kind.CREDENTIALS, "Credential issued"
    CREDENTIAL_REGISTER_KEY = "credential.register_key", Kind.CREDENTIALS, "Public key registered"
    CREDENTIAL_UPDATE = "credential.update", Kind.CREDENTIALS, "Credential changed"
    CREDENTIAL_ROTATE = "credential.rotate", Kind.CREDENTIALS, "Secret rotated"
    CREDENTIAL_REVOKE = "credential.revoke", Kind.CREDENTIALS, "Credential revoked"
    AUTOMATION_TOKEN_ISSUE = "automation_token.issue", Kind.CREDENTIALS, "Automation token issued"
    AUTOMATION_TOKEN_REVOKE = "automation_token.revoke", Kind.CREDENTIALS, "Automation token revoked"
    MEMBER_SET = "member.set", Kind.PEOPLE, "Role set"
    MEMBER_REMOVE = "member.remove", Kind.PEOPLE, "Member removed"
    USER_CREATE = "user.create", Kind.PEOPLE, "Account created"
    USER_UPDATE = "user.update", Kind.PEOPLE, "Account changed"
    USER_LINK = "user.link", Kind.PEOPLE, "Sign-in link made"
    USER_SET_PASSWORD = "user.set_password", Kind.PEOPLE, "Password set"
    USER_RELEASE = "user.release", Kind.PEOPLE, "Account taken over"
    TENANT_CREATE = "tenant.create", Kind.STUDIO, "Studio created"
    TENANT_UPDATE = "tenant.update", Kind.STUDIO, "Studio changed"
    TENANT_END = "tenant.end", Kind.STUDIO, "Studio ended"
    TASK_RUN = "task.run", Kind.PLATFORM, "Task run by hand"
    TASK_SWITCH_ON = "task.switch_on", Kind.PLATFORM, "Task switched on"
    TASK_SWITCH_OFF = "task.switch_off", Kind.PLATFORM, "Task switched off"
    SIGN_IN_UNLOCK = "sign_in.unlock", Kind.PLATFORM, "Sign-in unlocked"

    @property
    def noun(self) -> str:
        """Return what is acted on."""
        return self.value.partition(".")[0]


_WORDS = {action.value: action.words for action in Action}


def words_of(action: str) -> str:
    """Return an entry's action in words; one that nothing writes any more is its own words."""
    return _WORDS.get(action, action)


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
    tenant: Tenant | None,
    actor: User | None,
    action: Action,
    subject: str,
    summary: str,
    *,
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Write one entry. Nothing secret may be in any argument.

    Without a tenant it is in the platform's own trail, without an actor the system's deed. The subject is what it was
    done to (`credential cr_…`), the summary a sentence for people, cut at 500 characters, the reason the actor's own
    words. `before` and `after` are the changed values as JSON holds them.

    Raises:
        NotInTransaction: no transaction is open, so that the change could be kept and its entry lost.
    """
    if not transaction.get_connection().in_atomic_block:
        raise NotInTransaction(action)
    return AuditEntry.objects.create(
        tenant=tenant,
        actor=actor,
        actor_name=name_of(actor),
        action=action.value,
        subject=subject[:200],
        summary=summary[:500],
        reason=reason[:500],
        before=before,
        after=after,
    )
