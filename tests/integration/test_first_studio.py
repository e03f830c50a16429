"""`manage.py first_studio`: from nothing to a sign-in and a studio, typed or by options, and again."""

from __future__ import annotations

import io
import os
import pty
import select
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from tenants.management.commands.first_studio import PASSWORD_VARIABLE, dashboard_address
from tenants.models import AuditEntry, Membership, Role, Tenant, User
from tests import factories
from tests.doors.processes import ROOT, environment
from tests.integration.dashboard_scene import get, post

PASSWORD = "a long walk in november"


def run(**options: Any) -> str:
    out = io.StringIO()
    call_command("first_studio", no_input=True, stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)


@pytest.mark.django_db
@pytest.mark.usefixtures("password")
def test_first_studio__nothing_there__makes_both_and_leads_to_the_first_step() -> None:
    said = run(studio_name="Aurora Games", source=["analytics.recs", "gs://b/out/", "/srv/tables"])
    studio = Tenant.objects.get()
    assert (studio.slug, studio.name) == ("aurora-games", "Aurora Games")
    assert studio.allowed_datasets == ["analytics.recs"]
    assert studio.allowed_gs_prefixes == ["gs://b/out/"]
    assert studio.allowed_local_roots == ["/srv/tables"]
    staff = User.objects.get()
    assert (staff.username, staff.is_staff, staff.is_superuser) == ("admin", True, True)
    assert Membership.objects.for_tenant(studio).get().role == Role.STUDIO_ADMIN
    assert AuditEntry.objects.unscoped().filter(action="user.create", tenant=None).count() == 1
    assert PASSWORD not in said
    address = f"/studios/{studio.slug}/models"
    assert f"{address} and sign in as admin" in said
    client = Client()
    post(client, "/sign-in", {"username": "admin", "password": PASSWORD})
    assert "From here to a first answer" in get(client, address).text


@pytest.mark.django_db
@pytest.mark.usefixtures("password")
def test_first_studio__run_again__changes_nothing_and_says_so() -> None:
    run(studio_name="Aurora", username="mara")
    before = (User.objects.get().password, AuditEntry.objects.unscoped().count())
    said = run(studio_name="Other", username="other")
    assert "Nothing to do: platform staff (mara) and a studio (Aurora) already exist." in said
    assert (User.objects.get().password, AuditEntry.objects.unscoped().count()) == before
    assert Tenant.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("password")
@pytest.mark.parametrize("there", ["staff", "studio"])
def test_first_studio__one_of_them_there__makes_the_other(there: str) -> None:
    if there == "staff":
        factories.UserFactory.create(username="boss", is_staff=True)
        assert "Platform staff already exists: boss." in run(studio_name="Aurora")
    else:
        factories.TenantFactory.create(name="Lark")
        assert "A studio already exists: Lark" in run()
    assert User.objects.filter(is_staff=True).count() == 1
    assert Tenant.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "secret", "said"),
    [
        ({}, PASSWORD, "--studio-name is missing."),
        ({"studio_name": "A"}, "", f"No password was given: set {PASSWORD_VARIABLE}."),
        ({"studio_name": "A"}, "short", "This password is too short."),
        ({"studio_name": "A", "username": "a b"}, PASSWORD, "A user name can have only letters, digits"),
        ({"studio_name": "A", "username": "Taken"}, PASSWORD, "The account “Taken” already exists"),
        ({"studio_name": "A", "email": "x"}, PASSWORD, "“x” is not a valid e-mail address."),
        ({"studio_name": "A", "studio": "a b"}, PASSWORD, "is not a valid short name"),
        ({"studio_name": "A", "source": ["gs://b"]}, PASSWORD, "is not a folder of a bucket"),
    ],
)
def test_first_studio__a_value_will_not_do__is_said_and_nothing_is_made(
    options: dict[str, Any], secret: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.UserFactory.create(username="taken")
    monkeypatch.setenv(PASSWORD_VARIABLE, secret)
    with pytest.raises(CommandError, match=said.replace("(", r"\(")):
        run(**options)
    assert not Tenant.objects.exists()
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    ("origins", "hosts", "https", "address"),
    [
        (["https://recs.example.com"], ["recs.example.com"], True, "https://recs.example.com"),
        ([], ["recs.example.com"], True, "https://recs.example.com"),
        ([], ["localhost", "127.0.0.1"], False, "http://localhost:8000"),
        ([], ["*", ".example.com"], False, "http://localhost:8000"),
    ],
)
def test_dashboard_address__follows_the_settings(
    origins: list[str], hosts: list[str], https: bool, address: str, settings: Any
) -> None:
    settings.CSRF_TRUSTED_ORIGINS, settings.ALLOWED_HOSTS, settings.SECURE_SSL_REDIRECT = origins, hosts, https
    assert dashboard_address() == address


# --- As a process, on a database that is not there --------------------------------------------------------------------


def environment_of(tmp_path: Path) -> dict[str, str]:
    database = f"sqlite:///{tmp_path}/new/folder/recsite.sqlite3"
    return environment("redis://127.0.0.1:1/0", tmp_path, RECSITE_DATABASE_URL=database)


COMMAND = [sys.executable, "manage.py", "first_studio"]


@pytest.mark.slow
def test_first_studio__typed__asks_until_it_is_right_and_shows_no_password(tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment_of(tmp_path),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # getpass asks the terminal that controls the process: this one.
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509 - it starts no thread
    ) as process:
        os.close(theirs)
        said = ""
        for prompt, answer in [
            ("User name [admin]: ", ""),
            ("E-mail (optional): ", "mara@studio"),
            ("E-mail (optional): ", "mara@studio.example"),
            ("Password (not shown): ", "short"),
            ("Password (not shown): ", PASSWORD),
            ("Password again: ", "another one entirely"),
            ("Password (not shown): ", PASSWORD),
            ("Password again: ", PASSWORD),
            ("Name: ", "Aurora Games"),
            ("Short name, in addresses and tokens [aurora-games]: ", ""),
            ("Sources: ", "gs://bucket"),
            ("Sources: ", "gs://bucket/out/ analytics.recs"),
        ]:
            said += read_until(terminal, prompt)
            os.write(terminal, f"{answer}\n".encode())
        said += read_until(terminal, "a request.")
        assert process.wait(timeout=30) == 0
    os.close(terminal)
    assert "The database is empty. Making its tables" in said
    assert "This password is too short." in said
    assert "The passwords differ." in said
    assert "Made the studio “Aurora Games” (aurora-games)" in said
    assert PASSWORD not in said


def read_until(terminal: int, end: str) -> str:
    said = b""
    deadline = time.monotonic() + 60
    while end not in said.decode(errors="replace"):
        assert time.monotonic() < deadline, said.decode(errors="replace")
        if select.select([terminal], [], [], 1)[0]:
            said += os.read(terminal, 4096)
    return said.decode()


@pytest.mark.django_db
def test_first_studio__nobody_to_ask_or_an_older_database__says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(CommandError, match=r"This is not an interactive terminal\. Use --no-input"):
        call_command("first_studio")
    MigrationRecorder.Migration.objects.filter(app="tenants").latest("id").delete()
    with pytest.raises(CommandError, match=r"Run the command migrate first\."):
        call_command("first_studio")


@pytest.mark.slow
def test_first_studio__nobody_to_ask_and_an_empty_database__leaves_it_empty(tmp_path: Path) -> None:
    ended = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment_of(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "This is not an interactive terminal." in ended.stderr
    assert "Making its tables" not in ended.stdout
    with closing(sqlite3.connect(tmp_path / "new" / "folder" / "recsite.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


@pytest.mark.slow
def test_first_studio__no_database__says_so_without_a_traceback(tmp_path: Path) -> None:
    variables = environment_of(tmp_path) | {"RECSITE_DATABASE_URL": "postgres://x:y@127.0.0.1:1/recsite"}
    ended = subprocess.run(
        COMMAND, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "The database does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_command_line__no_settings__says_which_and_where_they_are_told_without_a_traceback(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RECSITE_")}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "first_studio"],
        env={**variables, "RECSITE_ENV_FILE": str(tmp_path / "none.env")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "RECSITE_SECRET_KEY: Field required" in ended.stderr
    assert "docs/production.md" in ended.stderr
    assert "Traceback" not in ended.stderr
