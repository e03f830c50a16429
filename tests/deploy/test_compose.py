"""The compose file fits its schema, and says of each container what a stranger's machine needs to know."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from django.core.management import get_commands, load_command_class
from django.urls import resolve
from dotenv import dotenv_values

from recsite.background.heartbeats import COMPONENTS
from recsite.environment import BASE_DIR, Environment, errors_of
from tests.certificates import write_certificate

COMPOSE = BASE_DIR / "deploy" / "compose"
FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name, service in SERVICES.items() if "RECSITE_IMAGE" in service["image"]]
SECRETS = {"lane": "lane", "migrate": "job"}
# It ends.
UNASKED = {"migrate"}


def words(service: dict[str, Any]) -> list[str]:
    return [str(each) for each in service["command"]]


def test_file__against_the_compose_specification__fits() -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    jsonschema.validate(FILE, json.loads((schemas / "compose-spec.json").read_text()))


@pytest.mark.parametrize("name", SERVICES)
def test_service__of_each_kind__is_pinned_confined_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert "RECSITE_IMAGE" in service["image"] or re.search(r":v?\d+(\.\d+)+$", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert (name in UNASKED) != ("test" in service.get("healthcheck", {}))


@pytest.mark.parametrize("name", OURS)
def test_service__of_our_image__has_its_settings_and_secrets(name: str) -> None:
    service = SERVICES[name]
    given = {key.removeprefix("RECSITE_").lower() for key in service["environment"]} - {"env_file"}
    assert given <= set(Environment.model_fields)
    assert service["secrets"] == [{"source": SECRETS.get(name, "control"), "target": "settings"}]
    assert service["environment"]["RECSITE_ENV_FILE"] == "/run/secrets/settings"


@pytest.mark.parametrize("name", OURS)
def test_service__of_our_image__calls_what_there_is(name: str) -> None:
    program, command, *options = words(SERVICES[name])
    if program != "recsite":
        assert (program, command) in {("granian", "recsite.wsgi:application"), ("celery", "--app=recsite")}
        return
    parser = load_command_class(get_commands()[command], command).create_parser("recsite", command)
    assert isinstance(parser.parse_args(options), argparse.Namespace)


def test_volumes__of_any_two_containers__are_not_the_same() -> None:
    named = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert sorted(each for each in named if not each.startswith(".")) == sorted(FILE["volumes"])
    for each in named:
        assert not each.startswith(".") or (COMPOSE / each).exists(), each
    # More than one lane may be started, and a volume is the service's.
    assert "volumes" not in SERVICES["lane"]


def test_networks__of_a_lane__reach_no_database_and_no_internet() -> None:
    reached = {
        name for name, service in SERVICES.items() if set(service["networks"]) & set(SERVICES["lane"]["networks"])
    }
    assert not reached & {"postgres", "broker", "migrate"}
    assert all(FILE["networks"][each]["internal"] for each in SERVICES["lane"]["networks"])


def test_probes__of_lane_and_dashboard__ask_what_is_there() -> None:
    for name in ("lane", "dashboard"):
        asked = re.search(r"127\.0\.0\.1:(\d+)(/\w+)", " ".join(SERVICES[name]["healthcheck"]["test"]))
        assert asked is not None
        port, path = asked.groups()
        assert f"--port={port}" in words(SERVICES[name])
        assert resolve(path)


def test_probes__in_the_background__ask_the_process_for_its_own_sign_of_life() -> None:
    for name in COMPONENTS:
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "recsite", "healthy", name]


def test_prometheus__what_it_scrapes__is_what_alerts_name_and_services_have() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["scrape_configs"]}
    for name, option in (("lane", "metrics-port"), ("dashboard", "port")):
        (found,) = jobs[f"recsite-{name}"]["dns_sd_configs"]
        assert found["names"] == [name]
        assert f"--{option}={found['port']}" in words(SERVICES[name])


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not here")
def test_nginx__with_names_filled_in__takes_its_configuration(tmp_path: Path) -> None:
    text = (COMPOSE / "nginx.conf.template").read_text()
    certificate, key = write_certificate(tmp_path)
    for old, new in {
        "${RECS_HOST}": "recs.example.com",
        "${DASH_HOST}": "dash.example.com",
        "/run/secrets/tls-certificate": str(certificate),
        "/run/secrets/tls-key": str(key),
        # Names of Docker's, and a word that nginx knows from 1.27 on.
        "server lane:8001 resolve": "server 127.0.0.1:8001",
        "server dashboard:8000 resolve": "server 127.0.0.1:8000",
    }.items():
        assert old in text
        text = text.replace(old, new)
    whole = f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off;\n{text}}}\n"
    (tmp_path / "nginx.conf").write_text(whole)
    command = [shutil.which("nginx") or "", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not said.returncode, said.stderr
    assert "[warn]" not in said.stderr


def test_new_secrets__as_they_are_written__make_settings_that_work_and_keep_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secrets"
    runpy.run_path(str(BASE_DIR / "deploy" / "new-secrets"))["main"](folder, "postgres")

    printed = capsys.readouterr().out
    made = {name: dotenv_values(folder / f"{name}.env") for name in ("lane", "control", "job")}
    for name, values in made.items():
        given: Any = {key.removeprefix("RECSITE_").lower(): value for key, value in values.items()}
        assert not list(errors_of(Environment(**given))), name
    keys = {name: {key.removeprefix("RECSITE_") for key in values} for name, values in made.items()}
    assert keys["lane"] == {"SECRET_KEY", "TOKEN_MASTER_KEYS", "SEAL_KEYS", "SNAPSHOT_PUBLIC_KEYS"}
    assert keys["job"] == keys["lane"] | {"DATABASE_URL"}
    assert keys["control"] == keys["job"] | {"SNAPSHOT_PRIVATE_KEY", "METRICS_TOKEN"}
    assert len({values["RECSITE_SECRET_KEY"] for values in made.values()}) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))
    password = (folder / "database-password").read_text()
    assert made["control"]["RECSITE_DATABASE_URL"] == f"postgres://recsite:{password}@postgres:5432/recsite"
    assert not [value for values in made.values() for value in values.values() if str(value) in printed]
    assert {each["file"] for each in FILE["secrets"].values()} == {
        f"./secrets/{path.name}" for path in folder.iterdir()
    } | {"./secrets/tls.crt", "./secrets/tls.key"}
