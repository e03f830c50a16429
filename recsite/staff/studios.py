"""Studios in the admin: what each may read, its limits, and ending one."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.contrib.filters.admin import RadioFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from models_registry.catalogue.selectors import with_model_count
from recsite.staff.pages import Label, ServiceForm, StaffAdmin, acting, change_url, column, show_refusal
from tenants.figures import age, number
from tenants.models import Tenant
from tenants.rules import RuleBroken
from tenants.services import tenant_create, tenant_end, tenant_update


class LinesField(forms.CharField):
    """A list of texts, one per line; spaces around them and empty lines do not count."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=UnfoldAdminTextareaWidget({"rows": 4, "spellcheck": "false"}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Show a list as lines; what was typed stays as it was typed."""
        return "\n".join(value) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        """Return the lines as a list."""
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Tell whether the lists differ."""
        return bool(list(initial or []) != self.to_python(data))


class StudioForm(ServiceForm):
    """A studio, new or not. What its sources may read is one entry per line."""

    allowed_datasets = LinesField(
        required=False,
        label="BigQuery datasets",
        help_text="One per line, as project.dataset. None: BigQuery is refused.",
    )
    allowed_gs_prefixes = LinesField(
        required=False,
        label="Bucket folders",
        help_text="One per line, as gs://bucket/folder/. None: gs:// is refused.",
    )
    allowed_local_roots = LinesField(
        required=False,
        label="Folders on the worker",
        help_text="One per line, as a whole path. None: local files are refused.",
    )

    class Meta:
        model = Tenant
        fields: ClassVar = ["name", "slug", "requests_per_second", "burst"]
        labels: ClassVar = {"slug": "Short name", "requests_per_second": "Requests per second", "burst": "Burst"}
        help_texts: ClassVar = {
            "slug": "In tokens and addresses; never changes.",
            "requests_per_second": "All of the studio's credentials together.",
            "burst": "Requests that may come at once before the limit bites.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("allowed_datasets", "allowed_gs_prefixes", "allowed_local_roots"):
            self.fields[name].initial = getattr(self.instance, name)

    def write(self) -> Tenant:
        """Make or change the studio."""
        data = self.cleaned_data
        confinement = {name: data[name] for name in data if name.startswith("allowed_")}
        limits = {name: data[name] for name in ("requests_per_second", "burst")}
        if self.instance.pk is None:
            made = tenant_create(slug=data["slug"], name=data["name"], actor=self.actor, **confinement)
            return tenant_update(tenant=made, actor=self.actor, **limits)
        return tenant_update(tenant=self.instance, actor=self.actor, name=data["name"], **confinement, **limits)


class EndForm(forms.Form):
    """Ending a studio: its short name typed, so that it is never done by a slip, and why."""

    typed = forms.CharField(label="Type its short name", widget=UnfoldAdminTextInputWidget())
    reason = forms.CharField(
        max_length=500, label="Why", help_text="Kept in the audit trail.", widget=UnfoldAdminTextareaWidget({"rows": 2})
    )

    def __init__(self, slug: str, data: Any = None) -> None:
        super().__init__(data)
        self.slug = slug
        self.fields["typed"].help_text = f"That is: {slug}"

    def clean_typed(self) -> str:
        """Refuse anything but the short name."""
        typed: str = self.cleaned_data["typed"]
        if typed != self.slug:
            raise forms.ValidationError(f"That is not “{self.slug}”.")
        return typed


class StateFilter(RadioFilter):
    """Studios that go on, or that have ended."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("live", "Live"), ("ended", "Ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow to the choice."""
        if self.value() in {"live", "ended"}:
            return queryset.filter(ended_at__isnull=self.value() == "live")
        return queryset


@admin.register(Tenant)
class StudioAdmin(StaffAdmin):
    """Studios."""

    can_add = can_change = True
    form = StudioForm
    list_display = ("name", "short_name", "state", "models_", "credentials_", "members_", "published")
    list_filter = (StateFilter,)
    search_fields = ("name", "slug", "public_id")
    actions_detail = ("end",)
    fieldsets = (
        (None, {"fields": ("name", "slug")}),
        (
            "What its sources may read",
            {"fields": ("allowed_datasets", "allowed_gs_prefixes", "allowed_local_roots")},
        ),
        ("Limits", {"fields": ("requests_per_second", "burst")}),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Count what each studio has along with it."""
        return with_model_count(super().get_queryset(request)).annotate(
            member_count=Count("memberships", distinct=True), credential_count=Count("credentials", distinct=True)
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Lock the short name: it is in tokens."""
        return ("slug",) if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse to change a studio that has ended."""
        return super().has_change_permission(request, obj) and getattr(obj, "ended_at", None) is None

    short_name = column("Short name", lambda studio: str(studio.slug), "slug")

    @display(description="State", label={"live": "success", "ended": "danger"}, ordering="ended_at")
    def state(self, studio: Any) -> Label:
        """Say whether it goes on."""
        return Label("ended", f"Ended {age(studio.ended_at)}") if studio.ended_at else Label("live", "Live")

    models_ = column("Models", lambda studio: number(studio.model_count), "model_count")
    credentials_ = column("Credentials", lambda studio: number(studio.credential_count), "credential_count")
    members_ = column("Members", lambda studio: number(studio.member_count), "member_count")
    published = column(
        "Published to serving", lambda studio: age(studio.snapshot_published_at), "snapshot_published_at"
    )

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """Leave the button out that would only be refused: one that has ended cannot be ended again."""
        studio = self.get_object(request, unquote(str(object_id)))
        return [] if studio is None or studio.ended_at else super().get_actions_detail(request, object_id)

    def dashboard_url(self, row: Tenant) -> str:
        """Return the address of its models."""
        return reverse("models", args=[row.slug])

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"studio {obj.slug}"

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show what the studio has, with the ways there."""
        studio = context.get("original")
        if studio is not None:
            context["facts"] = [
                {
                    "label": "Models",
                    "value": number(studio.model_count),
                    "url": _of(studio, "models_registry_recommendationmodel"),
                },
                {
                    "label": "Credentials",
                    "value": number(studio.credential_count),
                    "url": _of(studio, "tenants_credential"),
                },
                {"label": "Members", "value": number(studio.member_count), "url": _of(studio, "tenants_membership")},
                {"label": "Audit trail", "value": "open", "url": _of(studio, "tenants_auditentry")},
                {"label": "Published to serving", "value": age(studio.snapshot_published_at)},
            ]
            if studio.ended_at:
                context["notice"] = f"This studio ended {age(studio.ended_at)}. Serving refuses it; nothing changes."
        return super().render_change_form(request, context, *args, **kwargs)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Go on to the studio's own page, which leads from there; the form's other buttons do what they say."""
        if request.POST.keys() & {"_continue", "_addanother"}:
            usual: HttpResponse = super().response_add(request, obj, post_url_continue)
            return usual
        self.message_user(request, f"Made the studio {obj.name}.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("models", args=[obj.slug]))

    @action(description="End studio", url_path="end", permissions=["act"], variant=ActionVariant.DANGER)
    def end(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for the short name and a reason, then end the studio."""
        studio = self.get_row(request, object_id)
        form = EndForm(studio.slug, request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                tenant_end(tenant=studio, actor=acting(request), reason=form.cleaned_data["reason"])
            except RuleBroken as error:
                show_refusal(form, error)
            else:
                self.message_user(request, f"{studio.name} has ended.", messages.SUCCESS)
                return HttpResponseRedirect(change_url(studio))
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": studio,
            "title": f"End {studio.name}",
            "media": self.media,
            "form": form,
            "cancel_url": change_url(studio),
        }
        return TemplateResponse(request, "staff/end_studio.html", context, status=422 if form.errors else 200)


def _of(studio: Tenant, table: str) -> str:
    return f"{reverse(f'admin:{table}_changelist')}?studio={studio.pk}"
