"""What can be said of the image without building it; `deploy/image/build-here` builds it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from recsite.environment import BASE_DIR, Environment

IMAGE = BASE_DIR / "deploy" / "image"
TEXT = (IMAGE / "Dockerfile").read_text()
WHEEL = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())


def test_dockerfile__as_hadolint_reads_it__is_without_a_fault() -> None:
    linted = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), "--failure-threshold", "style", str(IMAGE / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_dockerfile__last_stage__runs_as_nobody_in_particular_from_a_named_version() -> None:
    last = TEXT.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    assert re.search(r"^ARG BASE=\S+/python:3\.\d+-slim-\w+$", TEXT, re.MULTILINE)


def test_dockerfile__settings_it_gives__exist() -> None:
    given = {name.lower() for name in re.findall(r"RECSITE_(\w+)=", TEXT)}
    assert given == {"var_dir", "commit", "log_format"}
    assert given <= set(Environment.model_fields)


def test_dockerignore__what_the_wheel_is_made_of__is_let_through_and_no_more() -> None:
    let_through = set(re.findall(r"^!(.+)$", (IMAGE / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    wheel = WHEEL["tool"]["hatch"]["build"]["targets"]["wheel"]
    made_of = {*wheel["packages"], *wheel["force-include"], "pyproject.toml", WHEEL["project"]["readme"], "LICENSE"}
    assert let_through == made_of | {"requirements/base.txt", "requirements/build.txt"}
    assert all((BASE_DIR / each).exists() for each in let_through)
