"""Signing in and out, for the dashboard and the admin alike."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from recsite.dashboard.forms.dashboard_form import InPlainWords
from recsite.dashboard.sign_in_limits import SignInRefused, TooManyFailures, note_failure, turn


class SignInForm(InPlainWords, AuthenticationForm):
    """Django's, in this project's words."""

    username = forms.CharField(
        label="User name",
        max_length=150,
        widget=forms.TextInput({"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"}),
    )
    password = forms.CharField(
        label="Password", strip=False, widget=forms.PasswordInput({"autocomplete": "current-password"})
    )
    error_messages = {  # noqa: RUF012 - as Django declares it
        "invalid_login": "User name and password do not fit together. Both tell capital letters from small ones.",
        "inactive": "This account is switched off. Ask platform staff about it.",
    }


class SignInPage(LoginView):
    """Asks for user name and password. Too many failures are answered by django-axes, with `locked_out.html`.

    Somebody who is signed in sees that they are, and is not sent on: where they come from may have refused them.
    """

    template_name = "dashboard/sign_in.html"
    authentication_form = SignInForm

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Sign in, unless this address has failed too often, or too many do at this moment."""
        try:
            with turn(request):
                return super().post(request, *args, **kwargs)
        except SignInRefused as refused:
            is_address = isinstance(refused, TooManyFailures)
            status = 429 if is_address else 503
            page = render(request, "dashboard/sign_in_refused.html", {"is_address": is_address}, status=status)
            page["Retry-After"] = str(refused.seconds)
            return page

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Count it, and show what is wrong."""
        if form.cleaned_data.get("password"):
            note_failure(self.request)
        return super().form_invalid(form)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return Django's context, and where to go on to."""
        return super().get_context_data(onward=self.get_success_url(), **kwargs)


class SignOut(LogoutView):
    """Ends the session. A POST only, so that no link and no image can sign anybody out."""

    http_method_names = ["post", "options"]  # noqa: RUF012 - as Django declares it
    next_page = "sign-in"
