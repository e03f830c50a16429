"""The locked requirements hold what pyproject.toml asks for; checked without asking any registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE = PROJECT["project"]["dependencies"]
GROUPS = PROJECT["dependency-groups"]


def _pins(name: str) -> dict[str, set[Version]]:
    """Return the versions that a requirements file pins of each distribution; several where platforms differ."""
    pins: dict[str, set[Version]] = {}
    for match in re.finditer(
        r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^ ;\\]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE
    ):
        pins.setdefault(canonicalize_name(match[1]), set()).add(Version(match[2]))
    return pins


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("base.txt", BASE),
        ("dev.txt", [*BASE, *GROUPS["dev"]]),
        ("bqemulator.txt", GROUPS["bqemulator"]),
        ("bench.txt", GROUPS["bench"]),
    ],
)
def test_requirements_file__each_dependency__is_pinned_within_its_range(file: str, wanted: list[str]) -> None:
    pins = _pins(file)
    for requirement in map(Requirement, wanted):
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{file} lacks {requirement.name}: run `make lock`"
        assert all(v in requirement.specifier for v in versions), f"{requirement} is not {versions}: run `make lock`"


def test_dev_requirements__what_base_pins__is_pinned_the_same() -> None:
    dev = _pins("dev.txt")
    for name, versions in _pins("base.txt").items():
        assert dev.get(name) == versions, f"{name}: run `make lock`"


@pytest.mark.parametrize("file", ["base.txt", "dev.txt", "bqemulator.txt", "bench.txt", "uv.txt"])
def test_requirements_file__each_pin__has_a_hash(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text()
    pins = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []
