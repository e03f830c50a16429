"""A person's own password: changing it, and setting it with the link that somebody was given."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.forms import PasswordChangeForm, SetPasswordForm
from django.contrib.auth.views import PasswordChangeView, PasswordResetConfirmView
from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from recsite.dashboard.forms.dashboard_form import InPlainWords
from tenants.models import User
from tenants.people import link_holds, lock_account, record_password_change

_RULES = "At least 10 characters, not a common password, and not like the user name."


class NewPasswordForm(InPlainWords, SetPasswordForm):  # type: ignore[type-arg]  # generic in the stubs alone
    """Django's, in this project's words."""

    error_messages = {"password_mismatch": "The passwords differ."}  # noqa: RUF012 - as Django declares it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, label_suffix="", **kwargs)
        new, again = self.fields["new_password1"], self.fields["new_password2"]
        new.label, new.help_text = "New password", _RULES
        again.label, again.help_text = "The same once more", ""


class OwnPasswordForm(NewPasswordForm, PasswordChangeForm):
    """Django's, in this project's words."""

    error_messages = {  # noqa: RUF012 - as Django declares it
        **NewPasswordForm.error_messages,
        "password_incorrect": "This is not your password now.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["old_password"].label = "Password now"


@method_decorator(never_cache, name="dispatch")
class OwnPasswordPage(PasswordChangeView):
    """Asks for the password now and a new one. Other sessions of the person end; this one goes on."""

    template_name = "dashboard/password.html"
    form_class = OwnPasswordForm
    success_url = reverse_lazy("home")

    def form_valid(self, form: Any) -> HttpResponse:
        """Save it and tell the audit trail, both or neither."""
        checked = form.user.password
        with transaction.atomic():
            lock_account(form.user)
            if form.user.password != checked:  # It ended meanwhile, and so did the right to set another.
                form.add_error("old_password", form.error_messages["password_incorrect"])
                return self.form_invalid(form)
            response = super().form_valid(form)
            record_password_change(form.user, is_by_link=False)
        messages.success(self.request, "Your password is changed. Wherever else you were signed in, you no longer are.")
        return response


class SetPasswordPage(PasswordResetConfirmView):
    """Takes a new password from whoever has the link, once, and signs them in.

    The link's token is moved from the address into the session at once, and ends with the password that it sets.
    """

    template_name = "dashboard/set_password.html"
    form_class = NewPasswordForm
    success_url = reverse_lazy("home")
    post_reset_login = True
    post_reset_login_backend = "django.contrib.auth.backends.ModelBackend"

    def dispatch(self, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Hold the account from the look at its link to the last write, so that nobody gives it more in between."""
        with transaction.atomic():
            return super().dispatch(*args, **kwargs)

    def get_user(self, uidb64: str) -> User | None:
        """Return whose link it is; None also where the account opens more now than a link may."""
        user: User | None = super().get_user(uidb64)
        if user is None:
            return None
        lock_account(user)
        return user if link_holds(user) else None

    def form_valid(self, form: Any) -> HttpResponse:
        """Save it and tell the audit trail."""
        response = super().form_valid(form)
        record_password_change(form.user, is_by_link=True)
        messages.success(self.request, f"Your password is set. Next time sign in as {form.user.get_username()}.")
        return response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return Django's context, and whose password it is."""
        return super().get_context_data(person=self.user, **kwargs)
