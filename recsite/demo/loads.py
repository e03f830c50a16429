"""The demo's loads: run by the worker, as in production. What Redis holds already is not loaded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.conf import settings
from django.utils import timezone

from models_registry.loading.requests import load_request
from models_registry.models import RUNNING_STATES, Load, LoadState, Table, Version
from models_registry.redis_clients import loading_client
from recsite.demo.screen import LoadDisplay
from serving.formats.keys import block_name
from tenants.models import User

NAMES_A_COMMAND = 1_000


class LoadFailed(RuntimeError):
    """A load did not end well; the message is its problem."""


def is_whole(table: Table | None) -> bool:
    """Tell whether Redis holds every block of a table. Asks for each block: for small tables."""
    if table is None:
        return False
    client = loading_client()
    blocks = 1 << table.block_bits
    for first in range(0, blocks, NAMES_A_COMMAND):
        numbers = range(first, min(first + NAMES_A_COMMAND, blocks))
        names = [block_name(settings.REDIS_PREFIX, table.table_id, number) for number in numbers]
        if client.exists(*names) != len(names):
            return False
    return True


def load_all(
    versions: Sequence[Version], actor: User | None, display: LoadDisplay, rest: Callable[[float], None]
) -> None:
    """Queue a load of each version and show them until all have ended.

    Raises:
        LoadFailed: one was rejected or failed.
    """
    names = {load_request(version=version, actor=actor).pk: _name(version) for version in versions}
    while True:
        loads = list(Load.objects.unscoped().filter(pk__in=names).order_by("pk"))
        for load in loads:
            _show(load, names[load.pk], display)
        if not any(load.state in RUNNING_STATES for load in loads):
            break
        rest(0.3)
    problems = [f"{names[load.pk]}: {load.problem}" for load in loads if load.state != LoadState.ACTIVE]
    if problems:
        raise LoadFailed("\n".join(problems))


def _name(version: Version) -> str:
    return f"{version.model.tenant.slug}/{version.model.slug}/{version.name}"


def _show(load: Load, name: str, display: LoadDisplay) -> None:
    state = LoadState(load.state)
    is_reading = state in {LoadState.QUEUED, LoadState.EXTRACTING, LoadState.CHECKING}
    ended = load.finished_at or timezone.now()
    display.show(
        name,
        state=str(state.label),
        rows=load.rows_read if is_reading else load.rows_written,
        rows_expected=load.rows_expected or load.rows_read or None,
        seconds=(ended - load.started_at).total_seconds() if load.started_at else 0.0,
    )
