"""What the dashboard's processes count themselves, besides django-prometheus' numbers and the DRF door's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from prometheus_client import Counter

from recsite.postgresql.base import connection_failed
from serving.metrics import Definition

MINT_FAILURES = (
    "invalid_client",
    "invalid_request",
    "invalid_scope",
    "unsupported_grant_type",
    "body_too_large",
    "unavailable",
    "other",
)
DATABASE_ACTS = ("connect", "statement")
_MINTED = Definition(
    "recsite_tokens_minted_total", "counter", "Tokens minted at `POST /api/v1/token`, by tenant.", ("tenant",)
)
_NOT_MINTED = Definition(
    "recsite_token_mint_failures_total",
    "counter",
    "Requests there that got none, by the answer's code: invalid_client (401), invalid_request, invalid_scope, "
    "unsupported_grant_type, body_too_large, unavailable (503: the database), other.",
    ("reason",),
)
_DATABASE_ERRORS = Definition(
    "recsite_db_errors_total",
    "counter",
    "What the database did not do for the dashboard's processes: connect, or a statement, because it was away, hung or "
    "took too long. A broken constraint is none.",
    ("act",),
)
DEFINITIONS = (_MINTED, _NOT_MINTED, _DATABASE_ERRORS)

_minted, _not_minted, _database_errors = (
    Counter(definition.name, definition.help, definition.labels) for definition in DEFINITIONS
)
# From 0 on, so that the first of a kind is an increase.
for _reason in MINT_FAILURES:
    _not_minted.labels(_reason)
for _act in DATABASE_ACTS:
    _database_errors.labels(_act)


def count_minted(tenant: str) -> None:
    """Count a token."""
    _minted.labels(tenant).inc()


def count_not_minted(code: str) -> None:
    """Count a request that got none."""
    _not_minted.labels(code if code in MINT_FAILURES else "other").inc()


def count_database_errors() -> None:
    """Have the errors of every connection counted from now on."""
    connection_created.connect(_watch, dispatch_uid="recsite.watch_database")
    connection_failed.connect(_note_failed, dispatch_uid="recsite.note_database_failed")


def _note_failed(**_: Any) -> None:
    _database_errors.labels("connect").inc()


def _watch(connection: BaseDatabaseWrapper, **_: Any) -> None:
    # It is told again whenever the wrapper connects anew.
    if _execute not in connection.execute_wrappers:
        connection.execute_wrappers.append(_execute)


def _execute(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:  # noqa: FBT001 - as Django calls it
    try:
        return execute(sql, params, many, context)
    except (OperationalError, InterfaceError):
        _database_errors.labels("statement").inc()
        raise
