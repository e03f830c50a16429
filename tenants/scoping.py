"""Tenancy that fails closed: a query on a studio's rows must say whose rows it means, or say that it means all.

`Version.objects.for_tenant(tenant)` narrows; `.unscoped()` is the one escape, easy to grep for; rows reached from a
row in hand (`tenant.memberships.all()`, `model.versions.filter(…)`) are narrowed already. Anything else raises
`UnscopedQuery` when it would touch the database.

What this does not do. It cannot see SQL given to a cursor, nor a queryset that is wrapped in `Subquery` or `Exists`
(write `unscoped()` there: the outer query narrows). Joins from another table
(`Tenant.objects.filter(memberships__role=…)`) are that table's affair. Django's own machinery (cascades,
`refresh_from_db`, a foreign key's validation) goes through `_base_manager`, which is plain; the uniqueness checks of
model validation are let through here by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from django.db import models

if TYPE_CHECKING:
    from tenants.models import Tenant

M = TypeVar("M", bound=models.Model)

_is_validating: ContextVar[bool] = ContextVar("_is_validating", default=False)


class UnscopedQuery(RuntimeError):
    """A query on tenant-owned rows that names no tenant."""


class TenantOwnedQuerySet(models.QuerySet[M]):
    """A query that refuses to run until it is narrowed to a tenant."""

    _scope: Literal["none", "tenant", "all"] = "none"

    def for_tenant(self, tenant: Tenant) -> Self:
        """Narrow to one studio's rows.

        Raises:
            UnscopedQuery: there is no such studio (yet); NULL would otherwise match rows that are nobody's.
        """
        if tenant is None or tenant.pk is None:
            raise UnscopedQuery(f"{self.model.__name__}: for_tenant() needs a saved studio")
        path: str = getattr(self.model, "tenant_path", "tenant")
        return self.filter(**{path: tenant})._marked("tenant")  # noqa: SLF001 - a clone of this very class

    def unscoped(self) -> Self:
        """Mean every studio's rows: for platform staff, publishing and loading, never for a request of a studio."""
        return self.all()._marked("all")  # noqa: SLF001 - as above

    def _marked(self, scope: Literal["tenant", "all"]) -> Self:
        self._scope = scope
        return self

    def _clone(self) -> Self:
        clone: Self = super()._clone()  # type: ignore[misc]  # private in the stubs, stable in Django
        clone._scope = self._scope
        return clone

    def _require_scope(self) -> None:
        is_reached_from_a_row = self._hints.get("instance") is not None  # type: ignore[attr-defined]  # as above
        if (
            self._scope == "none"
            and not is_reached_from_a_row
            and not self.query.is_empty()
            and not _is_validating.get()
        ):
            raise UnscopedQuery(f"{self.model.__name__}: say for_tenant(…) or unscoped()")

    # --- What reads or writes rows: besides these, those that `_GUARDED` names --------------------------------------

    def bulk_create(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> list[M]:
        """Insert rows, which is free; what may overwrite a row that is there needs a scope."""
        if args or kwargs.get("update_conflicts"):
            self._require_scope()
        return super().bulk_create(objs, *args, **kwargs)

    def raw(self, *args: Any, **kwargs: Any) -> models.query.RawQuerySet[Any]:
        """Run raw SQL, which `for_tenant` does not narrow: only on `unscoped()`.

        Raises:
            UnscopedQuery: the query is not `unscoped()`.
        """
        if self._scope != "all":
            raise UnscopedQuery(f"{self.model.__name__}: raw SQL needs unscoped()")
        return super().raw(*args, **kwargs)

    # --- Everything that makes one query of several -------------------------------------------------------------------

    def resolve_expression(self, *args: Any, **kwargs: Any) -> Any:
        """Become part of another query, as in `filter(version__in=…)`."""
        self._require_scope()
        return super().resolve_expression(*args, **kwargs)

    vars(resolve_expression)["queryset_only"] = True  # a mark that Django reads off the method

    def _combinator_query(self, combinator: str, *other_qs: models.QuerySet[Any], **kwargs: Any) -> Self:
        self._require_scope_of(self, *other_qs)
        combined: Self = super()._combinator_query(combinator, *other_qs, **kwargs)  # type: ignore[misc]  # as above
        return combined

    def __or__(self, other: models.QuerySet[M]) -> Self:
        self._require_scope_of(self, other)
        return super().__or__(other)

    def __xor__(self, other: models.QuerySet[M]) -> Self:
        self._require_scope_of(self, other)
        return super().__xor__(other)

    @staticmethod
    def _require_scope_of(*queries: models.QuerySet[Any]) -> None:
        for query in queries:
            if isinstance(query, TenantOwnedQuerySet):
                query._require_scope()  # noqa: SLF001 - as above


# Everything else that reads or writes rows.
_GUARDED = [
    *("_fetch_all", "iterator", "aiterator", "count", "exists", "aggregate", "explain"),
    *("update", "bulk_update", "delete"),
]


def _guarded(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a queryset's method as Django has it, with Django's marks on it, behind the demand for a scope."""

    @wraps(plain)
    def method(self: TenantOwnedQuerySet[Any], *args: Any, **kwargs: Any) -> Any:
        self._require_scope()
        return plain(self, *args, **kwargs)

    return method


for _name in _GUARDED:
    setattr(TenantOwnedQuerySet, _name, _guarded(getattr(models.QuerySet, _name)))

TenantOwnedManager = models.Manager.from_queryset(TenantOwnedQuerySet)


@contextmanager
def _validating() -> Iterator[None]:
    token = _is_validating.set(True)
    try:
        yield
    finally:
        _is_validating.reset(token)


class TenantOwned(models.Model):
    """A row that belongs to a studio, directly or through `tenant_path`."""

    tenant_path: ClassVar[str] = "tenant"

    class Meta:
        abstract = True

    def validate_unique(self, exclude: Iterable[str] | None = None) -> None:
        """Let the queries through: uniqueness can span studios (a client id)."""
        with _validating():
            super().validate_unique(set(exclude or ()))

    def validate_constraints(self, exclude: Iterable[str] | None = None) -> None:
        """Let the queries through, as `validate_unique`."""
        with _validating():
            super().validate_constraints(set(exclude or ()))
