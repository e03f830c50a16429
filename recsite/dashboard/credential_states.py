"""A studio's credentials as its pages show them: what each may ask for, how much it is used, whether it still works."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple, assert_never

from django.utils import timezone

from models_registry.catalogue.access import narrowed_slugs
from models_registry.traffic.reading import requests_in_24_hours
from tenants.figures import age, number
from tenants.models import Credential, CredentialKind, Tenant

# Whoever has not asked for so long may still ask once a week.
LONG_UNUSED = timedelta(days=8)


class CredentialState(Enum):
    """Whether a credential works, in the words of its pill."""

    WORKS = "Works"
    TWO_SECRETS = "Two secrets"
    REVOKED = "Revoked"


LOOKS = {CredentialState.WORKS: "ok", CredentialState.TWO_SECRETS: "warn", CredentialState.REVOKED: "plain"}


class Revoking(NamedTuple):
    """What revoking would do, judged by what the credential was used for: a note's looks, and its sentences."""

    looks: str
    words: str


@dataclass(frozen=True)
class CredentialSummary:
    """A credential with its use.

    Attributes:
        models: short names of the models it is narrowed to; empty: it may ask for all.
        requests: in the last 24 hours.
        now: when it was looked at.
    """

    credential: Credential
    models: list[str]
    requests: int
    now: datetime

    @property
    def is_key(self) -> bool:
        """Tell whether its tokens are signed by the studio itself."""
        match CredentialKind(self.credential.kind):
            case CredentialKind.PUBLIC_KEY:
                return True
            case CredentialKind.SECRET:
                return False
            case unknown:
                assert_never(unknown)

    @property
    def state(self) -> CredentialState:
        """Whether it works."""
        if self.credential.revoked_at is not None:
            return CredentialState.REVOKED
        return CredentialState.TWO_SECRETS if self.old_secret_ends else CredentialState.WORKS

    @property
    def looks(self) -> str:
        """The colour of its pill."""
        return LOOKS[self.state]

    @property
    def old_secret_ends(self) -> datetime | None:
        """When the secret before this one ends; None where it has ended or there is none."""
        until = self.credential.previous_until
        return until if until is not None and until > self.now else None

    @property
    def revoking(self) -> Revoking:
        """Say whether it is safe to revoke."""
        used = self.credential.last_used_at
        if self.requests:
            return Revoking(
                "bad",
                f"It is in use: {number(self.requests)} requests in 24 hours, the last {age(used, self.now)}. Whoever "
                "uses it will be refused within 2 seconds. Give them another credential first, unless this one leaked.",
            )
        if used is None:
            return Revoking("ok", "It was never used, so nothing will miss it.")
        if self.now - used < LONG_UNUSED:
            return Revoking(
                "warn",
                f"No request in 24 hours; it was last used {age(used, self.now)}. A job that runs once a day or once a "
                "week may still need it.",
            )
        return Revoking("ok", f"It was last used {age(used, self.now)}, so most likely nothing will miss it.")


def credentials_of(tenant: Tenant) -> list[CredentialSummary]:
    """Return a studio's credentials: those that work by name, then the revoked ones, the last first. Three queries."""
    rows = Credential.objects.for_tenant(tenant).select_related("created_by")
    found = _summaries(rows)
    works = [summary for summary in found if summary.credential.revoked_at is None]
    revoked = [summary for summary in found if summary.credential.revoked_at is not None]
    return works + sorted(revoked, key=lambda summary: summary.credential.revoked_at or summary.now, reverse=True)


def credential_of(tenant: Tenant, client_id: str) -> CredentialSummary | None:
    """Return one of a studio's credentials, its tenant with it; None where there is none. Three queries."""
    rows = Credential.objects.for_tenant(tenant).filter(client_id=client_id)
    for summary in _summaries(rows.select_related("created_by")):
        summary.credential.tenant = tenant
        return summary
    return None


def _summaries(rows: Iterable[Any]) -> list[CredentialSummary]:
    found, now = list(rows), timezone.now()
    credential_ids = [credential.pk for credential in found]
    slugs, requests = narrowed_slugs(credential_ids), requests_in_24_hours(credential_ids, now=now)
    return [
        CredentialSummary(credential, slugs[credential.pk], requests.get(credential.pk, 0), now) for credential in found
    ]
