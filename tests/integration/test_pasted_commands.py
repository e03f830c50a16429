"""The commands that a page shows beside a new secret, pasted into a real shell, against real processes."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import Client

from recsite.embedded import EmbeddedValkey, free_port
from tenants.models import Credential, Role, Tenant
from tests import factories
from tests.doors.processes import environment, running, wait_for
from tests.integration.dashboard_scene import get, make_offers, put_rows, signed_in
from tests.lane_process import eventually, start_lane

pytestmark = pytest.mark.django_db(transaction=True)
ROW = {"offer_id": 77, "discount": 0.25}


def commands_on(text: str) -> str:
    found = re.search(r'<pre id="commands"[^>]*>(.*?)</pre>', text, flags=re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


def pasted(commands: str) -> str:
    shell = shutil.which("bash")
    assert shell is not None
    ended = subprocess.run([shell, "-c", commands], capture_output=True, text=True, check=False, timeout=30)
    return ended.stdout + ended.stderr


def test_pasted_commands__of_a_new_credential_a_rotated_one_and_a_token__are_answered(
    valkey: redis.Redis, valkey_server: EmbeddedValkey, tmp_path: Path, settings: Any
) -> None:
    studio: Tenant = factories.TenantFactory.create()
    owner = factories.MembershipFactory.create(tenant=studio, role=Role.STUDIO_ADMIN).user
    offers = make_offers(studio, weights={0: 10_000})
    put_rows(valkey, offers.a, [(["1"], ROW)])
    port = free_port()
    own = environment(valkey_server.url, tmp_path, RECSITE_DATABASE_URL=f"sqlite:///{connection.settings_dict['NAME']}")
    granian = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--host", "127.0.0.1"]
    log = tmp_path / "dashboard.log"
    with (
        running([*granian, "--port", str(port), "recsite.wsgi:application"], own, log) as dashboard,
        start_lane(valkey_server.url, tmp_path) as lane,
    ):
        wait_for(port, "/healthz", dashboard, log, statuses=(200,))
        settings.SERVING_URL = f"http://127.0.0.1:{lane.port}"
        browser = signed_in(owner)
        browser.defaults["HTTP_HOST"] = f"127.0.0.1:{port}"
        url = f"/studios/{studio.slug}"

        form = {"name": "Game", "reach": "all", "requests_per_second": "100", "burst": "100"}
        issued = commands_on(send(browser, f"{url}/new-credential", form))
        assert_answers(issued)

        credential = Credential.objects.for_tenant(studio).get()
        rotate = f"{url}/credentials/{credential.client_id}/rotate"
        rotated = commands_on(send(browser, rotate, {"overlap": "3600", "generation": "1"}))
        assert_answers(rotated)
        assert_answers(issued)
        now = commands_on(send(browser, rotate, {"overlap": "0", "generation": "2"}))
        assert_answers(now)
        for ended in (issued, rotated):
            assert "401 Unauthorized" in pasted(ended)

        shown = commands_on(get(browser, f"{url}/credentials/{credential.client_id}").html)
        secret = re.search(r"CLIENT_SECRET='(rsk_[^']+)'", now)
        assert secret is not None
        assert_answers(shown.replace("the secret you were shown", secret[1]))

        send(browser, f"{url}/credentials/{credential.client_id}/revoke", {"reason": "The end."}, status=302)
        eventually(lambda: "401 Unauthorized" in pasted(now))

        token = {"name": "Job", "scopes": ["read"], "days": "30"}
        assert f'"{studio.slug}"' in pasted(commands_on(send(browser, f"{url}/new-automation-token", token)))


def send(browser: Client, url: str, form: dict[str, Any], *, status: int = 200) -> str:
    response = browser.post(url, form)
    assert response.status_code == status, response.content
    return response.content.decode()


def assert_answers(commands: str) -> None:
    """Paste until the lane knows the credential, which takes a moment."""
    said: list[str] = []
    wanted = ("HTTP/1.1 200 OK", '"recommendation":{"offer_id":77,"discount":0.25}')

    def is_answered() -> bool:
        said.append(pasted(commands))
        return all(words in said[-1] for words in wanted)

    try:
        eventually(is_answered, seconds=20)
    except AssertionError:
        pytest.fail(said[-1])
