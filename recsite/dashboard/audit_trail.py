"""The audit trail as people read it: what changed in words, narrowed by who, what, about what and when."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple

from django.db.models import Q
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from models_registry.catalogue.codes import CodeNames, code_names
from models_registry.models import Version
from tenants.audit import Kind
from tenants.figures import NOTHING, exact, number, percent
from tenants.models import AuditEntry, Role, Scope, Tenant
from tenants.paging import Page, page_of

PAGE_SIZE = 50
LONGEST_VALUE = 300

_LABELS = {
    "active_table": "Table",
    "allowed_datasets": "May read datasets",
    "allowed_gs_prefixes": "May read buckets",
    "allowed_local_roots": "May read folders",
    "allowed_models": "May ask for",
    "burst": "Requests at once",
    "default_answer": "Default answer",
    "expires_at": "Ends",
    "fence": "Load",
    "generation": "Secret number",
    "max_client_age_seconds": "Phones keep an answer for (s)",
    "max_psi": "Distribution may shift by (PSI)",
    "max_row_count_change": "Row count may change by",
    "min_coverage": "Least share of keys",
    "next_run_at": "Next run",
    "previous_until": "Old secret ends",
    "requests_per_second": "Requests a second",
    "scopes": "May",
    "unit": "Tester",
}
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_WEIGHTS = "weights_bp"


@dataclass(frozen=True)
class TrailFilter:
    """What is asked for; an empty value asks for everything.

    Attributes:
        who: a part of the actor's name.
        kind: a `Kind`'s value.
        about: a part of the subject.
        since: the first day, in the current time zone.
        until: the last day, in the current time zone.
    """

    who: str = ""
    kind: str = ""
    about: str = ""
    since: date | None = None
    until: date | None = None

    def narrow(self, rows: Any) -> Any:
        """Return the rows that are asked for."""
        if self.who:
            rows = rows.filter(actor_name__icontains=self.who)
        if self.kind:
            wanted = Q()
            for noun in Kind(self.kind).nouns:
                wanted |= Q(action__startswith=f"{noun}.")
            rows = rows.filter(wanted)
        if self.about:
            rows = rows.filter(subject__icontains=self.about)
        zone = timezone.get_current_timezone()
        if self.since:
            rows = rows.filter(at__gte=datetime.combine(self.since, time.min, zone))
        if self.until:
            rows = rows.filter(at__lt=datetime.combine(self.until + timedelta(days=1), time.min, zone))
        return rows


class Change(NamedTuple):
    """One value before and after, in words; None where there was or is none."""

    label: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class TrailLine:
    """An entry as the page shows it."""

    entry: AuditEntry
    changes: list[Change]
    subject_url: str

    @property
    def is_long(self) -> bool:
        """Tell whether its values are shown on request alone: many, or all of something new."""
        return len(self.changes) > 4 or (self.entry.before is None and len(self.changes) > 1)


def trail_rows(tenant: Tenant, wanted: TrailFilter) -> Any:
    """Return the entries that are asked for, the newest first."""
    return wanted.narrow(AuditEntry.objects.for_tenant(tenant)).order_by("-pk")


def trail_page(tenant: Tenant, wanted: TrailFilter, *, after: int | str | None = None) -> Page[TrailLine]:
    """Return one page of lines, after what `read_cursor` read. Two queries."""
    # By id, not by time: many entries can be of one instant.
    page = page_of(trail_rows(tenant, wanted), by="pk", limit=PAGE_SIZE, after=after, is_descending=True)
    names = _code_names(tenant, page.rows)
    lines = [TrailLine(entry, _changes(entry, names), _subject_url(tenant, entry.subject)) for entry in page.rows]
    return Page(lines, page.next_cursor, None)


# --- In words ---------------------------------------------------------------------------------------------------------


def _code_names(tenant: Tenant, entries: Iterable[AuditEntry]) -> dict[str, CodeNames]:
    """Return by model which versions had which code when; one query, none where no entry has weights."""
    slugs = {entry.subject.removeprefix("model ") for entry in entries if _WEIGHTS in (entry.after or {})}
    if not slugs:
        return {}
    found: dict[str, list[Version]] = {}
    for version in Version.objects.for_tenant(tenant).filter(model__slug__in=slugs).select_related("model"):
        found.setdefault(version.model.slug, []).append(version)
    return {slug: code_names(versions) for slug, versions in found.items()}


def _changes(entry: AuditEntry, names: Mapping[str, CodeNames]) -> list[Change]:
    before, after = entry.before or {}, entry.after or {}
    changes = []
    for name in dict.fromkeys([*before, *after]):
        if name == _WEIGHTS:
            held = names.get(entry.subject.removeprefix("model "))
            versions = {str(code): name for code, name in held.at(entry.at).items()} if held else {}
            changes += _weights(before.get(name) or {}, after.get(name) or {}, versions)
        elif name not in before or name not in after or before[name] != after[name]:
            was = _words(name, before[name]) if name in before else None
            becomes = _words(name, after[name]) if name in after else None
            changes.append(Change(_LABELS.get(name, name.replace("_", " ").capitalize()), was, becomes))
    return changes


def _weights(before: Mapping[str, int], after: Mapping[str, int], names: Mapping[str, str]) -> list[Change]:
    codes = sorted({*before, *after}, key=int)
    return [
        Change(names.get(code, f"version {code}"), percent(before.get(code, 0)), percent(after.get(code, 0)))
        for code in codes
        if before.get(code, 0) != after.get(code, 0)
    ]


def _words(name: str, value: Any) -> str:
    if name == "allowed_models" and value == []:
        return "all models"
    if name == "role" and value in Role.values:
        return str(Role(value).label)
    if name == "scopes" and isinstance(value, list):
        return "; ".join(str(Scope(scope).label) if scope in Scope.values else str(scope) for scope in value)
    if isinstance(value, dict):
        return _short(json.dumps(value, ensure_ascii=False))
    if isinstance(value, list):
        are_plain = all(isinstance(item, str | int | float) for item in value)
        return _short((", ".join(map(str, value)) or "none") if are_plain else json.dumps(value, ensure_ascii=False))
    return _short(_plain(value))


def _plain(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, str) and _MOMENT.match(value):
        try:
            return exact(datetime.fromisoformat(value))
        except ValueError:
            return value
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _subject_url(tenant: Tenant, subject: str) -> str:
    """Return the page of what an entry is about, where it has one."""
    kind, _, name = subject.partition(" ")
    model, _, version = name.partition("/")
    pages: dict[str, tuple[str, list[str]]] = {
        "model": ("rollout", [name]),
        "version": ("version", [model, version]),
        "credential": ("credential", [name]),
        "member": ("members", []),
    }
    route, arguments = pages.get(kind, ("", []))
    try:
        return reverse(route, args=[tenant.slug, *arguments]) if route else ""
    except NoReverseMatch:
        return ""
