"""Loads on pages: the looks of their states."""

from __future__ import annotations

from django import template

from models_registry.models import RUNNING_STATES, Load, LoadState

register = template.Library()

_LOOKS = {
    LoadState.ACTIVE: "ok",
    LoadState.CHECKED: "ok",
    LoadState.REJECTED: "warn",
    LoadState.FAILED: "bad",
    LoadState.SUPERSEDED: "plain",
}

_STAGES = {
    "extract": "Reading the source",
    "check": "Checking the rows",
    "compare": "Comparing with the table before",
    "write": "Writing the table",
    "verify": "Reading the table back",
}


@register.filter
def load_looks(load: Load) -> str:
    """Return the classes of the pill of a load's state."""
    return "plain busy" if load.state in RUNNING_STATES else _LOOKS[LoadState(load.state)]


@register.filter
def stage_words(name: str) -> str:
    """Return what a stage of a load does, by its name in the report."""
    return _STAGES.get(name, name.capitalize())


@register.filter
def asked_by(load: Load) -> str:
    """Return who asked for a load, as it stands after “by”."""
    if load.scheduled_for is not None:
        return "its schedule"
    if load.repairs_id is not None:
        return "the system, because memory lost a part of the table"
    return load.requested_by_name or "the system"
