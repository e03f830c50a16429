"""The admin's first page and its menu."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone

from models_registry.catalogue.selectors import data_at, is_late, weights_by_code
from models_registry.models import RUNNING_STATES, Load, LoadState, RecommendationModel, RolloutRevision, Version
from recsite.staff.columns import LOAD_COLOURS, newest_weights
from recsite.staff.pages import change_url
from tenants.models import Credential, Tenant

LINES = 8
_MENU: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("", (("Overview", "dashboard", "index"),)),
    (
        "Studios",
        (
            ("Studios", "sports_esports", "tenants_tenant_changelist"),
            ("Members", "groups", "tenants_membership_changelist"),
            ("Credentials", "key", "tenants_credential_changelist"),
            ("Automation tokens", "robot_2", "tenants_automationtoken_changelist"),
            ("Users", "person", "tenants_user_changelist"),
            ("Audit trail", "history", "tenants_auditentry_changelist"),
        ),
    ),
    (
        "Serving",
        (
            ("Models", "category", "models_registry_recommendationmodel_changelist"),
            ("Versions", "layers", "models_registry_version_changelist"),
            ("Loads", "download", "models_registry_load_changelist"),
            ("Load ranges", "splitscreen", "models_registry_loadrange_changelist"),
            ("Schedules", "event_repeat", "models_registry_schedule_changelist"),
            ("Weights history", "balance", "models_registry_rolloutrevision_changelist"),
            ("Testers", "science", "models_registry_override_changelist"),
            ("Tables", "table_rows", "models_registry_table_changelist"),
            ("Sources", "database", "models_registry_source_changelist"),
            ("Layouts", "view_column", "models_registry_layout_changelist"),
        ),
    ),
    (
        "System",
        (
            ("Repeated tasks", "schedule", "django_celery_beat_periodictask_changelist"),
            ("Failed sign-ins", "lock", "axes_accessattempt_changelist"),
            ("Sign-ins", "login", "axes_accesslog_changelist"),
        ),
    ),
)


def stylesheet(request: HttpRequest) -> str:
    """Return the address of what the admin's own pages need beyond Unfold's looks."""
    return static("staff/admin.css")


def favicon(request: HttpRequest) -> str:
    """Return the address of the mark that the dashboard's pages have too."""
    return static("mark.svg")


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the menu."""
    return [
        {
            "title": title,
            "separator": bool(title),
            "items": [{"title": name, "icon": icon, "link": reverse(f"admin:{view}")} for name, icon, view in items],
        }
        for title, items in _MENU
    ]


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add to the first page's context what is worth knowing at a glance. Eight queries, however much there is."""
    a_day_ago = timezone.now() - timedelta(hours=24)
    served = _served()
    loads = Load.objects.unscoped().select_related("version__model__tenant").defer("report", "source_location")
    counts = Load.objects.unscoped().aggregate(
        running=Count("pk", filter=Q(state__in=RUNNING_STATES)),
        done=Count("pk", filter=Q(state=LoadState.ACTIVE, finished_at__gte=a_day_ago)),
        bad=Count("pk", filter=Q(state__in=_BAD, is_dry_run=False, finished_at__gte=a_day_ago)),
    )
    attention = [line for line in served if line["words"]]
    loaded = {line["version"].model_id for line in served if line["version"].active_table}
    models = RecommendationModel.objects.unscoped().filter(tenant__ended_at=None).count()
    lists = "admin:models_registry_{}_changelist".format
    context.update(
        title="Overview",
        tiles=[
            {
                "label": "Studios",
                "value": Tenant.objects.filter(ended_at=None).count(),
                "url": reverse("admin:tenants_tenant_changelist") + "?state=live",
            },
            {
                "label": "Models served",
                "value": f"{len(loaded)} of {models}",
                "url": reverse(lists("recommendationmodel")),
            },
            {
                "label": "Credentials",
                "value": Credential.objects.unscoped().filter(revoked_at=None, tenant__ended_at=None).count(),
                "url": reverse("admin:tenants_credential_changelist") + "?state=active",
            },
            {"label": "Loads running", "value": counts["running"], "url": reverse(lists("load"))},
            {"label": "Loads done in 24 h", "value": counts["done"], "url": reverse(lists("load"))},
            {
                "label": "Failed or rejected in 24 h",
                "value": counts["bad"],
                "url": reverse(lists("load")),
                "is_bad": bool(counts["bad"]),
            },
        ],
        attention=attention[:LINES],
        attention_more=max(0, len(attention) - LINES),
        loads=[{"load": load, "url": change_url(load), "colour": LOAD_COLOURS[load.state]} for load in loads[:LINES]],
        changes=list(
            RolloutRevision.objects.unscoped()
            .filter(number__gt=1)
            .select_related("model__tenant")
            .defer("allocation")
            .order_by("-created_at", "-pk")[:5]
        ),
        has_studios=Tenant.objects.exists(),
    )
    return context


_BAD = [LoadState.FAILED, LoadState.REJECTED]


def _served() -> list[dict[str, Any]]:
    """Return every version that has a weight, with what is wrong with its data."""
    versions = (
        Version.objects.unscoped()
        .filter(model__tenant__ended_at=None)
        .select_related("model__tenant", "active_table__load")
        .defer("active_table__load__report", "active_table__load__source_location")
        .annotate(weights_bp=newest_weights("model"))
    )
    now = timezone.now()
    lines = []
    for version in versions:
        weight_bp = weights_by_code(version.weights_bp or {}).get(version.code, 0)
        if not weight_bp:
            continue
        table = version.active_table
        words = "not loaded" if table is None else "late" if is_late(version, now) else ""
        lines.append(
            {
                "version": version,
                "weight_bp": weight_bp,
                "words": words,
                "data_at": data_at(table) if table else None,
                "url": change_url(version),
            }
        )
    return sorted(lines, key=lambda line: -line["weight_bp"])
