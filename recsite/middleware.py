"""The one looser Content-Security-Policy: for the admin's path alone."""

from collections.abc import Callable

from csp.constants import SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse

Handler = Callable[[HttpRequest], HttpResponseBase]

# Unfold's Alpine evaluates the expressions in its attributes, and it styles elements in place. No inline script.
ADMIN_POLICY = {"script-src": [SELF, UNSAFE_EVAL], "style-src": [SELF, UNSAFE_INLINE]}


def admin_content_security_policy(get_response: Handler) -> Handler:
    """Loosen the policy for answers under the admin's path; every other path keeps the strict one."""
    loosened: Handler = csp_update(ADMIN_POLICY)(get_response)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        is_admin = request.path_info.startswith(reverse("admin:index"))
        return loosened(request) if is_admin else get_response(request)

    return middleware
