"""Every address that the URLconf has, for the tests that must forget none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver


def routes(entries: Sequence[Any] | None = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Yield each route below these entries (all there are) with its path as Django writes it."""
    for entry in get_resolver().url_patterns if entries is None else entries:
        path = f"{prefix}{entry.pattern}"
        if isinstance(entry, URLResolver):
            yield from routes(entry.url_patterns, path)
        elif isinstance(entry, URLPattern):
            yield path, entry


def studio_routes() -> Iterator[str]:
    """Yield the name (else the path) of each address of a studio's pages."""
    for path, route in routes():
        if path.startswith("studios/<"):
            yield route.name or path
