"""People in the admin: accounts, and roles in studios."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.contrib.filters.admin import BooleanRadioFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from recsite.staff.pages import Label, ServiceForm, StaffAdmin, StudioFilter, acting, column, instant
from tenants import audit
from tenants.figures import age
from tenants.models import Membership, Tenant, User
from tenants.rules import RuleBroken
from tenants.services import RELEASED, account_release, member_remove, member_set


@admin.register(User)
class PersonAdmin(UserAdmin, StaffAdmin):  # type: ignore[misc,type-arg]  # two admins in one; Unfold ships no types
    """Accounts. Only a superuser gives or takes staff rights, or touches an account that has them."""

    can_add = can_change = True
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    actions = None
    list_display = ("username", "full_name", "email", "studios", "is_active", "is_staff", "signed_in")
    list_filter = (("is_active", BooleanRadioFilter), ("is_staff", BooleanRadioFilter))
    search_fields = ("username", "first_name", "last_name", "email")
    filter_horizontal = ()
    readonly_fields = ("last_sign_in", "since", "made_for")
    actions_detail = ("change_password",)
    fieldsets = (
        (None, {"fields": ("username",)}),
        ("Person", {"fields": ("first_name", "last_name", "email", "made_for")}),
        ("May sign in", {"fields": ("is_active", "is_staff", "is_superuser")}),
        ("Times", {"fields": ("last_sign_in", "since")}),
    )

    last_sign_in = instant("last_login", "Last signed in")
    since = instant("date_joined", "Made")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring the roles along."""
        return super().get_queryset(request).prefetch_related("memberships__tenant")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Rights are a superuser's to give."""
        rights = () if acting(request).is_superuser else ("is_staff", "is_superuser")
        return (*self.readonly_fields, *rights)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether this person may change that account."""
        is_above = isinstance(obj, User) and (obj.is_staff or obj.is_superuser) and obj.pk != acting(request).pk
        return super().has_change_permission(request, obj) and (acting(request).is_superuser or not is_above)

    @action(description="Change password", url_path="change-password", permissions=["act"], icon="password")
    def change_password(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Lead to Django's own page for it."""
        return HttpResponseRedirect(reverse("admin:auth_user_password_change", args=[object_id]))

    full_name = column("Name", lambda person: person.get_full_name() or "–", "first_name")
    studios = column(
        "Studios",
        lambda person: ", ".join(f"{m.tenant} ({m.get_role_display()})" for m in person.memberships.all()) or "–",
    )
    signed_in = column("Last signed in", lambda person: age(person.last_login), "last_login")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls an account."""
        return f"account {obj.username}"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        """Save the account; `log_addition` and `log_change` write the trail in the same transaction.

        Only what the form changed: the password may have changed since the form read it. Whoever made an account may
        have its password, so one that gets staff rights loses it.
        """
        obj.save(update_fields=form.changed_data if change else None)
        if obj.made_for_id is not None and (obj.is_staff or obj.is_superuser):
            account_release(user=obj, actor=acting(request))
            note = f"{RELEASED} Set a new password (“Change password”) and hand it over."
            self.message_user(request, note, messages.WARNING)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:
        """Save nothing: an account has no rows of other tables, groups are not used."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Tell the audit trail."""
        self._record(request, obj, audit.Action.USER_CREATE, f"Made the account “{obj.username}”.")

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Tell the audit trail which fields changed, never their values."""
        parts = message if isinstance(message, list) else []
        fields = [name for part in parts for name in part.get("changed", {}).get("fields", [])]
        if fields:
            self._record(
                request, obj, audit.Action.USER_UPDATE, f"Changed the account “{obj.username}”: {', '.join(fields)}."
            )

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002 - Django's own name
        """Change a password and tell the audit trail, both or neither."""
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)

    def _record(self, request: HttpRequest, person: User, action: audit.Action, summary: str) -> None:
        rights = {"is_active": person.is_active, "is_staff": person.is_staff, "is_superuser": person.is_superuser}
        audit.record(
            tenant=None,
            actor=acting(request),
            action=action,
            subject=self.audit_subject(person),
            summary=summary,
            after=rights,
        )


class MembershipForm(ServiceForm):
    """A person's role in a studio."""

    note = ""

    class Meta:
        model = Membership
        fields: ClassVar = ["tenant", "user", "role"]
        labels: ClassVar = {"tenant": "Studio", "user": "Person"}
        help_texts: ClassVar = {"role": "Each role may do what the ones after it in this list may."}

    def write(self) -> Membership:
        """Set the role."""
        data = self.cleaned_data
        tenant: Tenant = data["tenant"] if self.instance.pk is None else self.instance.tenant
        user: User = data["user"] if self.instance.pk is None else self.instance.user
        given = member_set(tenant=tenant, user=user, role=data["role"], actor=self.actor)
        self.note = given.note
        return given.membership


@admin.register(Membership)
class MembershipAdmin(StaffAdmin):
    """Roles in studios."""

    can_add = can_change = can_delete = True
    form = MembershipForm
    actions = None
    studio_path, dashboard_page = "tenant", "members"
    list_display = ("person", "studio", "role_label", "since")
    list_filter = (StudioFilter, ("role", ChoicesDropdownFilter))
    list_select_related = ("tenant", "user")
    search_fields = ("user__username", "user__email", "tenant__name", "tenant__slug")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Lock studio and person: another one is another membership."""
        return ("studio", "user") if obj else ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Name the studio's field: a choice for a new role, text for one that exists."""
        return ("studio", "user", "role") if obj else ("tenant", "user", "role")

    person = column(
        "Person", lambda membership: str(membership.user.get_full_name() or membership.user.username), "user__username"
    )

    @display(
        description="Role",
        ordering="role",
        label={"studio_admin": "primary", "product_manager": "info", "viewer": "default"},
    )
    def role_label(self, membership: Any) -> Label:
        """Return the role."""
        return Label(membership.role, membership.get_role_display())

    since = column("Since", lambda membership: age(membership.created_at), "created_at")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        """Say what is left to do; the form has written."""
        super().save_model(request, obj, form, change)
        if form.note:
            self.message_user(request, form.note, messages.WARNING)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"member {obj.user.username}"

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Take the role away."""
        member_remove(tenant=obj.tenant, user=obj.user, actor=acting(request))

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Ask, then take the role away; a refusal is said on the membership's page."""
        try:
            return super().delete_view(request, object_id, extra_context)
        except RuleBroken as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:tenants_membership_change", args=[object_id]))
