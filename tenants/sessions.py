"""Sessions of browsers, in the database under a hash of their key: whoever reads it, or a backup, is not signed in."""

from __future__ import annotations

import hashlib
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends import db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.http import HttpRequest
from django.utils import timezone
from typing_extensions import override

from tenants.models import User

# What the column holds. 160 bits of a key that has as many need no salt and no slow hash.
_LENGTH = 40


class SessionStore(db.SessionStore):
    """Django's, which keeps the key itself. Its asynchronous methods are left alone: no view is asynchronous."""

    @override
    def exists(self, session_key: str) -> bool:
        return super().exists(stored_as(session_key))

    @override
    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        made = super().create_model_instance(data)
        made.session_key = stored_as(made.session_key)
        return made

    @override
    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(stored_as(key))

    def _get_session_from_db(self) -> AbstractBaseSession | None:
        found = self.model.objects.filter(
            session_key=stored_as(self.session_key or ""), expire_date__gt=timezone.now()
        ).first()
        if found is None:
            self._session_key = None
        return found


def stored_as(session_key: str) -> str:
    """Return under what a session stands in the database; `session_key` is what the cookie holds."""
    return hashlib.sha256(session_key.encode(errors="replace")).hexdigest()[:_LENGTH]


def shorten_for_staff(request: HttpRequest, user: User, **_: Any) -> None:
    """Receive Django's `user_logged_in`: whoever may do everything signs in each working day."""
    if user.is_staff:
        request.session.set_expiry(int(settings.STAFF_SESSION_AGE.total_seconds()))
