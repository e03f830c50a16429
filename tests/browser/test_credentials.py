"""A credential from its first secret to its end, used for real: with the commands that the page shows, at the lane."""

from __future__ import annotations

import shutil
import subprocess

import httpx
from playwright.sync_api import Page, expect

from tests.browser.served import PATIENCE_SECONDS
from tests.browser.site import Studio
from tests.browser.tabs import Tabs, said
from tests.lane_process import eventually


def run(commands: str) -> str:
    """Paste commands into a shell; return what it prints."""
    shell = shutil.which("sh")
    assert shell is not None
    done = subprocess.run([shell, "-c", commands], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def shown(page: Page) -> tuple[str, str, str]:
    """Return the client id, the secret and the commands of the page that shows them once."""
    expect(page.get_by_role("heading", name="The secret, shown this once")).to_be_visible()
    read = [page.locator(f"#{part}").text_content() for part in ("client-id", "secret", "commands")]
    client_id, secret, commands = (text or "" for text in read)
    return client_id, secret, commands.replace("player_id=1'", "player_id=p000001'")


def token(studio: Studio, client_id: str, secret: str) -> httpx.Response:
    return httpx.post(f"{studio.site.url}/api/v1/token", json={"client_id": client_id, "client_secret": secret})


def test_credential__issued_used_rotated_and_revoked(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(f"{offers.path}/credentials", offers.sessions["studio_admin"])
    page.get_by_role("link", name="Issue a credential").click()
    page.get_by_label("Name").fill("Android client, live")
    page.get_by_role("button", name="Issue the credential").click()

    client_id, first, commands = shown(page)
    eventually(lambda: "HTTP/1.1 200" in run(commands), seconds=PATIENCE_SECONDS)
    assert '"recommendation":{"offer_id":' in run(commands).replace(" ", "")
    old_token = token(offers, client_id, first).json()["access_token"]

    page.get_by_role("link", name="I have kept it").click()
    expect(page.get_by_role("heading", name="Android client, live")).to_be_visible()
    assert first not in page.content()
    page.get_by_role("link", name="Rotate").click()
    page.get_by_role("dialog").get_by_label("The old secret ends").select_option(label="in 1 hour")
    page.get_by_role("dialog").get_by_role("button", name="Make the new secret").click()
    _, second, commands = shown(page)
    assert second != first
    # Both secrets work, and so do tokens of the old one.
    assert [token(offers, client_id, secret).status_code for secret in (first, second)] == [200, 200]
    eventually(lambda: "HTTP/1.1 200" in run(commands), seconds=PATIENCE_SECONDS)
    assert offers.site.recommendations(old_token, [1])[0]["status"] == 200

    page.get_by_role("link", name="I have kept it").click()
    page.get_by_role("link", name="Revoke").click()
    page.get_by_role("dialog").get_by_label("Why").fill("The phone was lost")
    page.get_by_role("dialog").get_by_role("button", name="Revoke for good").click()
    expect(said(page)).to_be_visible()
    assert [token(offers, client_id, secret).status_code for secret in (first, second)] == [401, 401]
    eventually(lambda: offers.site.recommendations(old_token, [1])[0]["status"] == 401, seconds=PATIENCE_SECONDS)


def test_credential__narrowed_to_a_model__says_so_and_works(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(f"{offers.path}/new-credential", offers.sessions["studio_admin"])
    page.get_by_label("Name").fill("One model only")
    page.get_by_label("Only the models ticked below").check()
    page.get_by_role("checkbox", name="offers").check()
    page.get_by_role("button", name="Issue the credential").click()
    client_id, secret, _ = shown(page)

    page.get_by_role("link", name="I have kept it").click()

    expect(page.get_by_role("region", name="Use")).to_contain_text("offers")
    of_game = token(offers, client_id, secret).json()["access_token"]
    eventually(lambda: offers.site.recommendations(of_game, [1])[0]["status"] == 200, seconds=PATIENCE_SECONDS)
