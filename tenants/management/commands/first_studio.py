"""`manage.py first_studio`: from an empty database to a sign-in and a studio."""

from __future__ import annotations

import getpass
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.urls import reverse
from django.utils.text import slugify
from typing_extensions import override

from tenants.first_use import (
    Beginning,
    beginning,
    check_new_staff,
    check_password,
    first_staff_create,
    first_studio_create,
)
from tenants.models import Tenant, User
from tenants.rules import RuleBroken, check_slug, check_text
from tenants.services import sources_sorted

T = TypeVar("T")
PASSWORD_VARIABLE = "RECSITE_FIRST_PASSWORD"  # noqa: S105 - a variable's name


class Command(BaseCommand):
    """Makes the first person of platform staff and the first studio, where they are missing."""

    help = (
        "Make the first account of platform staff and the first studio. Asks for what it needs; with --no-input it "
        f"takes options, and the password from {PASSWORD_VARIABLE}. If both exist, it changes nothing."
    )
    # A check may want the database, which this command is the one to prepare.
    requires_system_checks = ()

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--username", help="user name of the account (default: admin)")
        parser.add_argument("--email", help="e-mail address of the account (optional)")
        parser.add_argument("--studio-name", help="what the studio is called")
        parser.add_argument("--studio", help="its short name in addresses and tokens (default: made from the name)")
        parser.add_argument(
            "--source",
            action="append",
            help="where it may read tables: project.dataset, gs://bucket/folder/ or /a/folder; can be repeated",
        )
        parser.add_argument("--no-input", action="store_true", help="never prompt")

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        self.asks = not options["no_input"]
        self.options = options
        self._prepare_database()
        there = beginning()
        if there.staff is not None and there.studio is not None:
            self._say(f"Nothing to do: platform staff ({there.staff}) and a studio ({there.studio}) already exist.")
            self._say_next(there.staff, there.studio)
            return
        self._check_somebody_answers()
        try:
            staff, studio = self._make(there)
        except RuleBroken as error:
            raise CommandError(str(error)) from None
        except (KeyboardInterrupt, EOFError):
            raise CommandError("Stopped. Nothing was made.") from None
        self._say_next(staff, studio)

    # --- The database ------------------------------------------------------------------------------------------------

    def _prepare_database(self) -> None:
        """Make the tables where there are none; where there are older ones, leave that to `migrate`."""
        if connection.vendor == "sqlite":
            Path(str(connection.settings_dict["NAME"])).parent.mkdir(parents=True, exist_ok=True)
        try:
            executor = MigrationExecutor(connection)
            missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except DatabaseError as error:
            raise CommandError(f"The database does not answer: {error}. Is RECSITE_DATABASE_URL right?") from None
        if missing and executor.loader.applied_migrations:
            raise CommandError("The database is from an older release. Run the command migrate first.")
        if missing:
            self._check_somebody_answers()
            self._say("The database is empty. Making its tables …")
            call_command("migrate", verbosity=0, interactive=False)

    def _check_somebody_answers(self) -> None:
        if self.asks and not sys.stdin.isatty():
            raise CommandError("This is not an interactive terminal. Use --no-input with options; --help lists them.")

    # --- Asking and making -------------------------------------------------------------------------------------------

    def _make(self, there: Beginning) -> tuple[User, Tenant]:
        staff, studio = there.staff, there.studio
        person = {} if staff is not None else self._person()
        new = {} if studio is not None else self._studio()
        with transaction.atomic():
            if staff is None:
                staff = first_staff_create(**person)
            if studio is None:
                studio = first_studio_create(staff=staff, **new)
        if person:
            self._say(f"Made platform staff “{staff}”.")
        else:
            self._say(f"Platform staff already exists: {staff}.")
        if new:
            read = ", ".join(new["sources"]) or "nothing yet; allow sources in the admin before the first load"
            self._say(f"Made the studio “{studio}” ({studio.slug}), with {staff} as its admin. It may read: {read}.")
        else:
            self._say(f"A studio already exists: {studio} ({studio.slug}).")
        return staff, studio

    def _person(self) -> dict[str, Any]:
        if self.asks:
            self._say("The first account, with every right:")
        username = self._ask("username", "  User name", "admin", lambda text: check_new_staff(text).username)
        email = self._ask("email", "  E-mail (optional)", "", lambda text: check_new_staff(username, text).email)
        account = check_new_staff(username, email)
        password = os.environ.get(PASSWORD_VARIABLE, "")
        if password or not self.asks:
            if not password:
                raise CommandError(f"No password was given: set {PASSWORD_VARIABLE}.")
            check_password(password, account)
        else:
            password = self._ask_password(account)
        return {"username": username, "email": email, "password": password}

    def _studio(self) -> dict[str, Any]:
        if self.asks:
            self._say("The first studio:")
        name = self._ask(
            "studio_name", "  Name", None, lambda text: check_text(text, field="name", what="The name", max_length=100)
        )
        slug = self._ask("studio", "  Short name, in addresses and tokens", slugify(name)[:50], check_slug)
        given = self.options["source"]
        if given is None and self.asks:
            self._say("  Where may it read tables? project.dataset, gs://bucket/folder/ or /a/folder;")
            self._say("  separate several with spaces; leave it empty for none yet.")
            sources: list[str] = self._until_right("  Sources", "", lambda text: _sources(text.split()))
        else:
            sources = _sources(given or [])
        return {"slug": slug, "name": name, "sources": sources}

    def _ask(self, option: str, words: str, default: str | None, check: Callable[[str], str]) -> str:
        """Return an option's value, or what is typed, or the default; checked."""
        given = self.options[option]
        if given is not None or not self.asks:
            if given is None and default is None:
                raise CommandError(f"--{option.replace('_', '-')} is missing.")
            return check(default or "" if given is None else given)
        return self._until_right(words, default or "", check)

    def _until_right(self, words: str, default: str, check: Callable[[str], T]) -> T:
        while True:
            typed = input(f"{words} [{default}]: " if default else f"{words}: ").strip() or default
            try:
                return check(typed)
            except RuleBroken as error:
                self._say(f"    {error}")

    def _ask_password(self, account: User) -> str:
        while True:
            password = getpass.getpass("  Password (not shown): ")
            try:
                check_password(password, account)
            except RuleBroken as error:
                self._say(f"    {error}")
                continue
            if getpass.getpass("  Password again: ") == password:
                return password
            self._say("    The passwords differ.")

    # --- Saying ------------------------------------------------------------------------------------------------------

    def _say(self, words: str) -> None:
        self.stdout.write(words)

    def _say_next(self, staff: User, studio: Tenant) -> None:
        self._say(
            f"\nNext:\n"
            f"  1. Start the processes if they are not running yet; docs/production.md lists them.\n"
            f"  2. Open {dashboard_address()}{reverse('models', args=[studio.slug])} and sign in as {staff}.\n"
            f"  The page leads from there to a first answer: a model, a version, its load, a credential, a request."
        )


def _sources(entries: list[str]) -> list[str]:
    """Return the sources, checked."""
    return [source for sources in sources_sorted(entries).values() for source in sources]


def dashboard_address() -> str:
    """Return where the dashboard most likely is, as far as the settings say."""
    if settings.CSRF_TRUSTED_ORIGINS:
        return str(settings.CSRF_TRUSTED_ORIGINS[0]).rstrip("/")
    scheme = "https" if settings.SECURE_SSL_REDIRECT else "http"
    host = next((host for host in settings.ALLOWED_HOSTS if not host.startswith(("*", "."))), "localhost")
    port = ":8000" if host in ("localhost", "127.0.0.1") else ""
    return f"{scheme}://{host}{port}"
