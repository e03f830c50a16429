"""The demo's settings file: made once, kept, its addresses chosen at each start."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values

from recsite.demo import site
from recsite.demo.prometheus import PrometheusMissing, find_prometheus
from recsite.embedded import free_port
from recsite.environment import Environment
from serving.formats.snapshot import parse_private_key, parse_public_keys
from serving.formats.tokens import parse_master_keys


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith("RECSITE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RECSITE_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("RECSITE_ENV_FILE", str(tmp_path / "var" / "demo.env"))
    yield tmp_path / "var"
    _forget()


def _forget() -> None:
    site._prepared.clear()
    for lock in site._held:
        lock.close()
    site._held.clear()


def _start(*arguments: str) -> site.DemoSite:
    _forget()
    site.prepare(arguments)
    return site.prepared()


def _write_above_the_heading(file: Path, line: str) -> None:
    file.write_text(file.read_text().replace(site.LAST_HEADING, f"{line}\n{site.LAST_HEADING}"))


def test_first_start__settings_file__is_private_and_all_that_settings_need(folder: Path) -> None:
    prepared = _start()
    file = folder / "demo.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    environment = Environment(_env_file=file)  # type: ignore[call-arg]  # pydantic-settings' own argument
    assert environment.redis_url == prepared.redis_url
    assert environment.serving_url == prepared.lane_url
    assert str(folder) in environment.database_url
    assert environment.snapshot_private_key is not None
    key_id, private_key = parse_private_key(environment.snapshot_private_key.get_secret_value())
    public_keys = parse_public_keys(environment.snapshot_public_keys)
    assert public_keys[key_id].public_bytes_raw() == private_key.public_key().public_bytes_raw()
    assert list(parse_master_keys(environment.token_master_keys.get_secret_value())) == ["demo1"]


def test_second_start__secrets_and_own_lines__are_kept(folder: Path) -> None:
    _start()
    file = folder / "demo.env"
    first = dotenv_values(file)
    _write_above_the_heading(file, "RECSITE_BIGQUERY_PROJECT=mine")
    _start()
    second = dotenv_values(file)
    assert second["RECSITE_SECRET_KEY"] == first["RECSITE_SECRET_KEY"]
    assert second["RECSITE_BIGQUERY_PROJECT"] == "mine"
    assert file.read_text().count(site.LAST_HEADING) == 1


def test_reset__secrets__are_new_and_data_is_gone(folder: Path) -> None:
    _start()
    first = dotenv_values(folder / "demo.env")
    (folder / "recsite.sqlite3").touch()
    (folder / "demo-data").mkdir()
    (folder / "mine.txt").touch()
    _start("--reset")
    assert dotenv_values(folder / "demo.env")["RECSITE_SECRET_KEY"] != first["RECSITE_SECRET_KEY"]
    assert not (folder / "recsite.sqlite3").exists()
    assert not (folder / "demo-data").exists()
    assert (folder / "mine.txt").exists()


def test_start__usual_port_is_taken__another_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(site, "LANE_PORT", port)
        prepared = _start()
    ports = {prepared.dashboard_port, prepared.lane_port, prepared.metrics_port, prepared.valkey_port}
    ports.add(prepared.prometheus_port)
    assert port not in ports
    assert len(ports) == 5


def test_start__another_demo_starts_at_once__each_has_ports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DASHBOARD_PORT", "LANE_PORT", "METRICS_PORT", "VALKEY_PORT", "PROMETHEUS_PORT")
    for name in names:
        monkeypatch.setattr(site, name, free_port())
    # Neither has a part that listens yet.
    first, second = site._free_ports(), site._free_ports()
    assert first == [getattr(site, name) for name in names]
    assert len({*first, *second}) == 10


@pytest.mark.parametrize("where", ["environment", "file"])
def test_start__redis_of_ones_own__starts_no_valkey(folder: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "redis://redis.example:6379/2"
    if where == "environment":
        monkeypatch.setenv("RECSITE_REDIS_URL", url)
    else:
        _start()
        file = folder / "demo.env"
        file.write_text(file.read_text().replace(site.LAST_HEADING, f"RECSITE_REDIS_URL={url}\n{site.LAST_HEADING}"))
    prepared = _start()
    assert prepared.valkey_port is None
    assert prepared.redis_url == url
    assert Environment(_env_file=folder / "demo.env").redis_url == url  # type: ignore[call-arg]  # as above


def test_start__settings_file_of_somebody_else__is_refused_and_left_alone(folder: Path) -> None:
    folder.mkdir()
    file = folder / "demo.env"
    file.write_text("RECSITE_SECRET_KEY=production\n")
    with pytest.raises(SystemExit, match="did not make"):
        site.prepare([])
    assert file.read_text() == "RECSITE_SECRET_KEY=production\n"


def test_start__a_demo_runs_in_that_folder__says_so_and_ends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _start()
    before = (folder / "demo.env").read_text()
    with pytest.raises(SystemExit) as ended:
        site.prepare([])
    assert ended.value.code == 1
    assert f"running already (process {os.getpid()})" in capsys.readouterr().out
    assert (folder / "demo.env").read_text() == before


def test_metrics__without_prometheus__say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrometheusMissing, match="apt-get install prometheus"):
        find_prometheus()
