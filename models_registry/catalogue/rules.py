"""What models, layouts, default answers, versions and sources must be. Each check refuses with `RuleBroken`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, assert_never

from models_registry.models import SourceKind
from serving.formats.layouts import BadLayout, BadValue, Layout
from tenants.models import Tenant
from tenants.rules import RuleBroken, unstorable

MAX_KEY_FIELDS = 8
# Each field costs every answer and every row of a load; no game shows as many.
MAX_LAYOUT_FIELDS = 256
# What these mean in a query string or a body is fixed (`model`, `unit`), or they hold the keys of a batch.
RESERVED_KEY_FIELDS = frozenset({"model", "unit", "keys"})
_KEY_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_BIGQUERY_TABLE = re.compile(r"([^\s`./*]+(?:\.[^\s`./*]+)*)\.([^\s`./*]+)\.([^\s`./*]+)")


def check_version_name(name: str) -> str:
    """Return the name: 1 to 60 letters, digits, dots, hyphens and underscores, so that it fits a path and a command."""
    if not _VERSION_NAME.fullmatch(name):
        raise RuleBroken(
            "A version's name can have 1 to 60 letters, digits, dots, hyphens and underscores, such as 2026-11-a.",
            field="name",
        )
    return name


def check_layout(fields: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the fields as JSON keeps them; the refusal names the field that will not do."""
    raw = [dict(field) if isinstance(field, Mapping) else field for field in fields]
    if len(raw) > MAX_LAYOUT_FIELDS:
        raise RuleBroken(
            f"A layout can have at most {MAX_LAYOUT_FIELDS} fields, and this one has {len(raw):,}. "
            "Put values of one type into a list.",
            field="layout",
        )
    try:
        Layout.parse(raw)
    except BadLayout as error:
        raise RuleBroken(f"Invalid layout: {error}.", field="layout") from None
    _check_storable(raw, "The layout", field="layout")
    return raw


def check_default(default: dict[str, Any] | None, fields: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a default answer that a layout cannot hold; the message names the field."""
    if default is not None:
        try:
            Layout.parse(fields).pack(default)
        except BadValue as error:
            raise RuleBroken(f"The default answer does not fit the layout: {error}.", field="default_answer") from None


def as_dict(default: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a default answer as JSON keeps it."""
    if default is not None and not isinstance(default, Mapping):
        raise RuleBroken("The default answer must be an object with the layout's fields.", field="default_answer")
    _check_storable(default, "The default answer", field="default_answer")
    return None if default is None else dict(default)


def _check_storable(value: Any, what: str, *, field: str) -> None:
    problem = unstorable(value)
    if problem:
        raise RuleBroken(f"{what} contains {problem}.", field=field)


def check_key_fields(key_fields: Sequence[str]) -> list[str]:
    """Return the key fields: 1 to 8 different names that can be query parameters and mean nothing else there."""
    names = [] if isinstance(key_fields, str) else list(key_fields)
    if not 1 <= len(names) <= MAX_KEY_FIELDS:
        raise RuleBroken(f"A model needs 1 to {MAX_KEY_FIELDS} key fields.", field="key_fields")
    for name in names:
        if not isinstance(name, str) or not _KEY_FIELD.fullmatch(name):
            raise RuleBroken(
                f"“{name}” is not a valid key field. Use up to 64 letters, digits and underscores.", field="key_fields"
            )
        if name in RESERVED_KEY_FIELDS:
            raise RuleBroken(
                f"“{name}” has another meaning in requests. Choose another name for the key field.", field="key_fields"
            )
    if len(set(names)) != len(names):
        raise RuleBroken("A key field is listed twice.", field="key_fields")
    return names


def check_unit_field(unit_field: str, key_fields: Sequence[str]) -> str:
    """Return the field that is bucketed: one of the key fields, or empty for the whole key."""
    if unit_field and unit_field not in key_fields:
        raise RuleBroken(
            "The unit field must be one of the key fields, or empty for the whole key.", field="unit_field"
        )
    return unit_field


def check_load_limit(field: str, value: float) -> float:
    """Return a limit of what a load may differ by; RuleBroken if it is none. `field` is a model's."""
    number = float(value)
    if field == "max_row_count_change" and not 0 < number <= 1000:
        raise RuleBroken("The allowed change in row count must be above 0 %.", field=field)
    if field == "max_psi" and not 0 < number <= 1000:
        raise RuleBroken("The allowed population stability index must be above 0.", field=field)
    if field == "min_coverage" and not 0 <= number <= 1:
        raise RuleBroken("The required share of keys must be from 0 % to 100 %.", field=field)
    return number


def check_client_age(seconds: int) -> int:
    """Return how long a client may keep an answer: 1 … 86,400 s."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= 86_400:
        raise RuleBroken("Clients can keep an answer for 1 to 86,400 whole seconds.", field="max_client_age_seconds")
    return seconds


def check_source(tenant: Tenant, kind: str, location: str) -> str:
    """Return the location, if it is one of this kind below what staff allow the studio.

    The loader checks again, with all that is known only then: links followed, a query's tables resolved.
    """
    location = location.strip()
    if kind not in SourceKind.values:
        raise RuleBroken("Choose one of the listed kinds of source.", field="source_kind")
    if not location:
        raise RuleBroken("Enter the source's location.", field="source_location")
    if "\0" in location:
        raise RuleBroken(
            "The source's location contains the NUL character (U+0000). Remove it.", field="source_location"
        )
    match SourceKind(kind):
        case SourceKind.PARQUET:
            _check_parquet_source(tenant, location)
        case SourceKind.BIGQUERY_TABLE:
            _check_some_dataset(tenant)
            _check_bigquery_table(tenant, location)
        case SourceKind.BIGQUERY_QUERY:
            _check_some_dataset(tenant)
        case _ as never:
            assert_never(never)
    return location


def _check_some_dataset(tenant: Tenant) -> None:
    if not tenant.allowed_datasets:
        raise _not_allowed("any BigQuery dataset")


def _check_bigquery_table(tenant: Tenant, location: str) -> None:
    table = _BIGQUERY_TABLE.fullmatch(location)
    if table is None:
        raise RuleBroken(f"“{location}” is not a table. Write project.dataset.table.", field="source_location")
    dataset = f"{table[1]}.{table[2]}"
    if dataset not in tenant.allowed_datasets:
        raise _not_allowed(f"the dataset {dataset}")


def _check_parquet_source(tenant: Tenant, location: str) -> None:
    is_in_bucket = location.startswith("gs://")
    if not is_in_bucket and (not location.startswith("/") or "://" in location):
        raise RuleBroken("Enter the full path of the Parquet files, or gs://bucket/….", field="source_location")
    if ".." in PurePosixPath(location).parts:
        raise RuleBroken("The path must not contain “..”.", field="source_location")
    if is_in_bucket:
        if not tenant.allowed_gs_prefixes:
            raise _not_allowed("any bucket")
        if not any(location.startswith(prefix) for prefix in tenant.allowed_gs_prefixes):
            raise _not_allowed(location)
        return
    if not tenant.allowed_local_roots:
        raise _not_allowed("any folder on the worker")
    if not any(PurePosixPath(location).is_relative_to(root) for root in tenant.allowed_local_roots):
        raise _not_allowed(location)


def _not_allowed(what: str) -> RuleBroken:
    return RuleBroken(f"This studio may not read {what}. Ask platform staff to allow it.", field="source_location")
