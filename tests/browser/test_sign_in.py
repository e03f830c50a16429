"""Signing in, as people do: by mouse, by keyboard, with a wrong password first."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.site import Studio
from tests.browser.tabs import Tabs
from tests.factories import PASSWORD

MODELS = re.compile(r"/studios/[^/]+/models$")


def fill_in(page: Page, username: str, password: str) -> None:
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_sign_in__wrong_password_then_the_right_one__leads_to_the_studio(tabs: Tabs, studio: Studio) -> None:
    username = studio.people["product_manager"]
    page = tabs.open("/")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    fill_in(page, username, "not the password")
    expect(page.get_by_role("alert")).to_contain_text("do not fit together")
    expect(page.get_by_label("User name")).to_have_value(username)
    fill_in(page, username, PASSWORD)

    expect(page).to_have_url(MODELS)
    expect(page.get_by_role("complementary", name="Studio")).to_contain_text(studio.name)


def test_sign_in__from_a_page_that_needs_it__comes_back_to_it(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(f"{offers.model_path}/testers")

    fill_in(page, offers.people["viewer"], PASSWORD)

    expect(page).to_have_url(re.compile("/testers$"))
    expect(page.get_by_role("heading", name="Testers")).to_be_visible()


def test_sign_in__keyboard_only__signs_in(tabs: Tabs, studio: Studio) -> None:
    page = tabs.open("/sign-in")
    press_until_focused(page, "User name")
    page.keyboard.type(studio.people["viewer"])
    page.keyboard.press("Tab")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(MODELS)


def press_until_focused(page: Page, label: str) -> None:
    for _ in range(40):
        if page.evaluate("document.activeElement?.labels?.[0]?.textContent?.trim() ?? ''").startswith(label):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never came to “{label}”")
