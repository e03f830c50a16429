"""Loads and schedules on pages: the looks of their states, and what they are in words."""

from __future__ import annotations

from django import template

from models_registry.loading.report import StageName
from models_registry.loading.schedules import in_words, words
from models_registry.models import RUNNING_STATES, Load, LoadState

register = template.Library()
register.filter("schedule_words", words)
register.filter("minutes_words", in_words)

# Both name everything there is; a test says so.
LOOKS = {
    **dict.fromkeys(RUNNING_STATES, "plain busy"),
    LoadState.ACTIVE: "ok",
    LoadState.CHECKED: "ok",
    LoadState.REJECTED: "warn",
    LoadState.FAILED: "bad",
    LoadState.SUPERSEDED: "plain",
    LoadState.CANCELLED: "plain",
}
STAGES: dict[str, str] = {
    StageName.EXTRACT: "Reading the source",
    StageName.CHECK: "Checking the rows",
    StageName.COMPARE: "Comparing with what is served",
    StageName.WRITE: "Writing the table",
    StageName.VERIFY: "Reading the table back",
}


@register.filter
def load_looks(load: Load) -> str:
    """Return the classes of the pill of a load's state."""
    return LOOKS[LoadState(load.state)]


@register.filter
def stage_words(name: str) -> str:
    """Return what a stage of a load does, by its name in the report; an old report may name another."""
    return STAGES.get(name, name.capitalize())


@register.filter
def asked_by(load: Load) -> str:
    """Return who asked for a load, as it stands after “by”."""
    if load.scheduled_for is not None:
        return "its schedule"
    if load.repairs_id is not None:
        return "the system, because Redis lost part of the table"
    return load.requested_by_name or "the system"
