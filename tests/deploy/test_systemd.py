"""The units for a plain machine: systemd accepts them, their commands exist, each has its secrets and no others'."""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from recsite.environment import BASE_DIR

UNITS = BASE_DIR / "deploy" / "systemd"
BIN = "/opt/recsite/bin/"
SECRETS = {"lane": "lane", "dashboard": "control", "worker": "control", "loader": "control", "beat": "control"}
SECRETS["migrate"] = "job"


def unit(name: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]  # as the standard library's manual does it
    read.read_string(re.sub(r"\\\n\s*", "", (UNITS / f"recsite-{name}.service").read_text()))
    return read


def test_units__in_the_folder__are_the_processes() -> None:
    assert {path.name for path in UNITS.glob("*.service")} == {f"recsite-{name}.service" for name in SECRETS}


@pytest.mark.parametrize("name", SECRETS)
def test_unit__of_each_process__has_its_own_secrets(name: str) -> None:
    assert unit(name)["Service"]["EnvironmentFile"] == f"/etc/recsite/{SECRETS[name]}.env"


@pytest.mark.parametrize("name", SECRETS)
def test_unit__of_each_process__calls_what_there_is(name: str) -> None:
    program, command, *options = shlex.split(unit(name)["Service"]["ExecStart"])
    if program != f"{BIN}recsite":
        assert (program, command) in {(f"{BIN}granian", "recsite.wsgi:application"), (f"{BIN}celery", "--app")}
        return
    parser = load_command_class(get_commands()[command], command).create_parser("recsite", command)
    assert isinstance(parser.parse_args(options), argparse.Namespace)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_units__as_systemd_reads_them__are_right_and_confined(tmp_path: Path) -> None:
    for program in ("recsite", "granian", "celery"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for path in UNITS.rglob("*.*"):
        if path.is_file():
            there = tmp_path / path.relative_to(UNITS)
            there.parent.mkdir(exist_ok=True)
            there.write_text(path.read_text().replace(BIN, f"{tmp_path}/"))
    analyze = shutil.which("systemd-analyze") or ""
    units = sorted(map(str, tmp_path.glob("*.service")))
    commands = [[analyze, "verify", "--man=no", *units]]
    # Out of 100, the less the better; a service without any of these settings has 96.
    commands += [[analyze, "security", "--offline=yes", "--threshold=25", "--no-pager", each] for each in units]
    for command in commands:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert not said.returncode, said.stdout + said.stderr
        assert "verify" not in command or not [line for line in said.stderr.splitlines() if str(tmp_path) in line]
