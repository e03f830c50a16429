"""Tenancy that fails closed: a query on a studio's rows must say whose rows it means, or say that it means all.

`Version.objects.for_tenant(tenant)` narrows; `.unscoped()` is the one escape, easy to grep for; rows reached from a
row in hand (`tenant.models.all()`, `model.versions.filter(…)`) are narrowed already. Anything else raises
`UnscopedQuery` when it would touch the database. What this does not do: it cannot see raw SQL, and Django's own
machinery (cascades, `refresh_from_db`, constraint checks) goes through `_base_manager`, which is plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from django.db import models

if TYPE_CHECKING:
    from tenants.models import Tenant

M = TypeVar("M", bound=models.Model)


class UnscopedQuery(RuntimeError):
    """A query on tenant-owned rows that names no tenant."""


class TenantOwnedQuerySet(models.QuerySet[M]):
    """A query that refuses to run until it is narrowed to a tenant."""

    _is_scoped = False

    def for_tenant(self, tenant: Tenant) -> Self:
        """Narrow to one studio's rows."""
        path: str = getattr(self.model, "tenant_path", "tenant")
        narrowed = self.filter(**{path: tenant})
        narrowed._is_scoped = True
        return narrowed

    def unscoped(self) -> Self:
        """Mean every studio's rows: for platform staff, publishing and loading, never for a request of a studio."""
        everything = self._chain()
        everything._is_scoped = True
        return everything

    def _clone(self) -> Self:
        clone: Self = super()._clone()  # type: ignore[misc]  # private in the stubs, stable in Django
        clone._is_scoped = self._is_scoped
        return clone

    def _require_scope(self) -> None:
        if not self._is_scoped and self._hints.get("instance") is None:  # type: ignore[attr-defined]  # as above
            raise UnscopedQuery(f"{self.model.__name__}: say for_tenant(…) or unscoped()")

    def _fetch_all(self) -> None:
        self._require_scope()
        super()._fetch_all()  # type: ignore[misc]  # as above

    def iterator(self, *args: Any, **kwargs: Any) -> Any:
        """See Django."""
        self._require_scope()
        return super().iterator(*args, **kwargs)

    def count(self) -> int:
        """See Django."""
        self._require_scope()
        return super().count()

    def exists(self) -> bool:
        """See Django."""
        self._require_scope()
        return super().exists()

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See Django."""
        self._require_scope()
        return super().aggregate(*args, **kwargs)

    def update(self, **kwargs: Any) -> int:
        """See Django."""
        self._require_scope()
        return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        """See Django."""
        self._require_scope()
        return super().delete()


TenantOwnedManager = models.Manager.from_queryset(TenantOwnedQuerySet)


class TenantOwned(models.Model):
    """A row that belongs to a studio, directly or through `tenant_path`."""

    tenant_path: ClassVar[str] = "tenant"

    class Meta:
        abstract = True
