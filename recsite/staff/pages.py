"""What every page of the admin shares: who may see it, whose rows it shows, where the dashboard has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, ClassVar

from django import forms
from django.contrib.admin import SimpleListFilter
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from tenants.access import is_platform_staff
from tenants.models import Tenant, User
from tenants.rules import RuleBroken, whole_number
from tenants.scoping import TenantOwned


class Label(tuple[str, str]):
    """A coloured word: the colour is looked up by its kind; where there is no colour it reads as its words."""

    __slots__ = ()

    def __new__(cls, kind: str, words: str) -> Label:  # noqa: D102 - the class says it
        return super().__new__(cls, (kind, words))

    def __str__(self) -> str:
        return self[1]


def acting(request: HttpRequest) -> User:
    """Return the person at the keyboard.

    Raises:
        PermissionDenied: they are not signed in (no admin page is reached so).
    """
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


# --- Forms ----------------------------------------------------------------------------------------------------------


def show_refusal(form: forms.BaseForm, error: RuleBroken) -> None:
    """Put a service's refusal next to the field it is about, or above the form."""
    form.add_error(error.field if error.field in form.fields else None, str(error))


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    """A form whose last check is the write itself: valid means that the service has accepted it.

    So a refusal stands next to its field and nothing typed is lost, and there is no second set of rules to keep. The
    service runs in a savepoint; `instance` becomes what it returns. Model validation is left out: services do that.
    """

    actor: ClassVar[User | None] = None

    def write(self) -> models.Model:
        """Call the service with the cleaned data; return the row that was made or changed."""
        raise NotImplementedError

    def _post_clean(self) -> None:
        if self.errors:
            return
        try:
            with transaction.atomic():
                self.instance = self.write()
        except RuleBroken as error:
            show_refusal(self, error)

    def save(self, commit: bool = True) -> Any:  # noqa: FBT001, FBT002 - Django's own signature
        """Return the row: it has been written."""
        return self.instance


# --- Pages ----------------------------------------------------------------------------------------------------------


class StaffAdmin(ModelAdmin):
    """The admin of one table, for platform staff: every studio's rows.

    Nothing is added, changed or deleted unless the class says so, and then by a service. What is a studio's is changed
    in the dashboard, which platform staff may enter; a row's page leads there.
    """

    can_add = can_change = can_delete = False
    list_filter_submit = True
    list_fullwidth = True
    list_per_page = 50
    # Where the studio of a row is found, as a path of Django's; empty for a table that is no studio's.
    studio_path = ""
    # The dashboard's page about a row, by the name of its address, and the paths to what that says after the studio.
    dashboard_page = ""
    dashboard_paths: Sequence[str] = ()
    change_form_outer_before_template = "staff/_above.html"
    view_on_site = False
    actions_on_top = True

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the table is listed for this person."""
        return is_platform_staff(request.user)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether this person may look."""
        return is_platform_staff(request.user)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether this person may add a row here."""
        return self.can_add and is_platform_staff(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether this person may change a row here."""
        return self.can_change and is_platform_staff(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether this person may delete a row here."""
        return self.can_delete and is_platform_staff(request.user)

    def has_act_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether this person may use the page's own actions, which call services."""
        return is_platform_staff(request.user)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return every studio's rows: platform staff see them all."""
        rows = super().get_queryset(request)
        return rows.unscoped() if issubclass(self.model, TenantOwned) else rows

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Tell whether an address may narrow the list so: only by what the list shows or filters by.

        Django lets any column of the table be asked about, and bit by bit what no page shows: the hash of a secret.
        """
        known = {self.date_hierarchy, *self.list_display}
        for one in self.list_filter:
            is_simple = isinstance(one, type) and issubclass(one, SimpleListFilter)
            known.add(one.parameter_name if is_simple else one[0] if isinstance(one, tuple) else one)
        is_known = any(name == lookup or lookup.startswith(f"{name}__") for name in known if isinstance(name, str))
        return is_known and super().lookup_allowed(lookup, value, request)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Offer the studios that go on."""
        if db_field.remote_field.model is Tenant:
            kwargs.setdefault("queryset", Tenant.objects.filter(ended_at=None))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Django's own signature
        """Tell the form who acts."""
        form = super().get_form(request, obj, change=change, **kwargs)
        if issubclass(form, ServiceForm):
            form.actor = acting(request)
        return form

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        """Leave it: a ServiceForm has written, and any other form is a mistake."""
        if not isinstance(form, ServiceForm):
            raise TypeError(f"{type(form).__name__} is no ServiceForm")

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:
        """Leave it, as `save_model`."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        """Leave it: the audit trail has it."""

    log_change = log_addition

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        """Leave it: the audit trail has it."""

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Send to the audit trail, which is the one history there is."""
        subject = self.audit_subject(self.get_row(request, object_id))
        return HttpResponseRedirect(f"{reverse('admin:tenants_auditentry_changelist')}?{urlencode({'q': subject})}")

    @display(description="Studio")
    def studio(self, obj: Any) -> Any:
        """Return whose row it is."""
        return follow(obj, self.studio_path)

    def dashboard_url(self, row: Any) -> str:
        """Return the address of the dashboard's page about a row, empty if there is none."""
        tenant = follow(row, self.studio_path) if self.dashboard_page else None
        if tenant is None:
            return ""
        return reverse(self.dashboard_page, args=[tenant.slug, *(follow(row, path) for path in self.dashboard_paths)])

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Lead to the dashboard, and offer one way to save, not three."""
        row = context.get("original")
        context["dashboard_url"] = self.dashboard_url(row) if row is not None else ""
        context.update(show_save_and_add_another=False, show_save_and_continue=False)
        return super().render_change_form(request, context, *args, **kwargs)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls a row."""
        return str(obj)

    def get_row(self, request: HttpRequest, object_id: str) -> Any:
        """Return a row by the id in the address.

        Raises:
            Http404: there is none.
        """
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        return row


class OwnerFilter(DropdownFilter):
    """Rows that belong to one studio or model, reached by the table's `studio_path` or `model_path`."""

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: StaffAdmin) -> None:
        self.path: str = getattr(model_admin, f"{self.parameter_name}_path")
        super().__init__(request, params, model, model_admin)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Narrow to the choice."""
        chosen = whole_number(self.value() or "")
        return queryset if chosen is None else queryset.filter(**{self.path: chosen})


class StudioFilter(OwnerFilter):
    """Rows of one studio."""

    title = parameter_name = "studio"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the studios."""
        return [(str(pk), name) for pk, name in Tenant.objects.values_list("pk", "name")]


class ReadOnlyAdmin(StaffAdmin):
    """The admin of a table that nobody edits here."""

    list_disable_select_all = True
    actions: Sequence[str] | None = None


def column(description: str, show: Callable[[Any], Any], ordering: str | None = None) -> Any:
    """Return a column of a list, which is a line of a row's page too: what `show` makes of a row."""

    @display(description=description, ordering=ordering)
    def shown(_: Any, row: Any) -> Any:
        return show(row)

    return shown


def instant(field: str, description: str) -> Any:
    """Return a column that shows an instant of a row to the second, in UTC."""

    def words(row: Any) -> str:
        at = getattr(row, field)
        return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "–"

    return column(description, words, field)


def follow(row: Any, path: str) -> Any:
    """Return what a path of Django's (`version__model`) leads to from a row."""
    return reduce(getattr, path.split("__"), row)


def change_url(row: models.Model) -> str:
    """Return the address of a row's page."""
    table = row._meta  # noqa: SLF001 - Django's documented door to a model's names
    return reverse(f"admin:{table.app_label}_{table.model_name}_change", args=[row.pk])


def link_to(row: models.Model | None, text: str | None = None) -> SafeString | str:
    """Return a link to a row's page, or a dash where there is no row."""
    if row is None:
        return "–"
    return format_html('<a class="text-link" href="{}">{}</a>', change_url(row), text or str(row))


def list_link(table: type[models.Model], text: str, **narrowed: Any) -> SafeString:
    """Return a link to a table's list, narrowed by its filters."""
    names = table._meta  # noqa: SLF001 - Django's documented door to a model's names
    url = reverse(f"admin:{names.app_label}_{names.model_name}_changelist")
    return format_html('<a class="text-link" href="{}?{}">{}</a>', url, urlencode(narrowed), text)
