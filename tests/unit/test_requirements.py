"""The locked requirements hold what pyproject.toml asks for; checked without asking any registry."""

from __future__ import annotations

import re
import subprocess
import sys
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


PIN = re.compile(r"^([a-z0-9._-]+)(\[.+?\])?(==.+\\\n(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


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
        ("base.txt", [*BASE, *PROJECT["project"]["optional-dependencies"]["otel"]]),
        ("dev.txt", [*BASE, *GROUPS["build"], *(group for group in GROUPS["dev"] if isinstance(group, str))]),
        ("build.txt", GROUPS["build"]),
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


@pytest.mark.parametrize("file", ["base.txt", "dev.txt", "build.txt", "bqemulator.txt", "bench.txt", "uv.txt"])
def test_requirements_file__each_pin__has_a_hash(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text()
    pins = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_requirements_file__line_that_is_no_pin__is_a_comment(path: Path) -> None:
    """An option among them could name an index, which is for whoever installs to choose."""
    others = PIN.sub("", path.read_text()).splitlines()
    assert [line for line in others if line.strip() and not line.lstrip().startswith("#")] == []


@pytest.mark.parametrize("name", ["base.txt", "dev.txt", "bqemulator.txt", "bench.txt"])
def test_requirements_file__package_with_extras__is_pinned_with_and_without(name: str) -> None:
    """Older pips in hash mode want both; which of them a dependency asks for is not in the file."""
    pins = PIN.findall((ROOT / "requirements" / name).read_text())
    plain = {(package, pin) for package, extras, pin in pins if not extras}
    with_extras = {(package, pin) for package, extras, pin in pins if extras}
    assert with_extras
    assert with_extras <= plain


@pytest.mark.slow
def test_base_requirements__pip_of_python_3_11__installs_them_in_hash_mode(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    pip = [str(tmp_path / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if subprocess.run([*pip, "pip==23.2"], check=False, capture_output=True).returncode:
        pytest.skip("no index of packages is in reach")

    command = [*pip, "--dry-run", "--require-hashes", "-r", str(ROOT / "requirements" / "base.txt")]
    tried = subprocess.run(command, check=False, capture_output=True, text=True, timeout=250)

    assert not tried.returncode, tried.stderr
