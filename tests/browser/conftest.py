"""The site as processes, a real Chromium before it, and tabs that notice whatever a page does wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.site import Site, Studio, start_site
from tests.browser.tabs import Tabs

NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_CHROMIUM = (
    "The browser tests need Chromium on PATH (as chromium, chromium-browser or google-chrome). On Debian and Ubuntu: "
    "apt-get install chromium; on macOS: brew install --cask chromium."
)
# Root has no sandbox; nothing is to be asked of hosts that the tests did not start.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return where Chromium is. Without it: a skip that says how to get it, in CI a failure."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail(NO_CHROMIUM)
    if found is None:
        pytest.skip(NO_CHROMIUM)
    return found


@pytest.fixture(scope="package")
def site(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yield the running site."""
    with start_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="package")
def browser(chromium: str, site: Site) -> Iterator[Browser]:
    """Yield the one browser; each test has windows of its own in it that know nothing of each other.

    While Playwright runs, this process can't use Django's database: it ends with the last test of this folder.
    """
    # A slow machine fails no test; what never comes does.
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def tabs(browser: Browser, site: Site) -> Iterator[Tabs]:
    """Yield a way to open pages. At the end nothing may have gone wrong on any of them."""
    tabs = Tabs(browser, site)
    yield tabs
    tabs.close()
    assert tabs.problems == []


@pytest.fixture
def make_studio(site: Site) -> Callable[[], Studio]:
    """Return a way to make studios."""
    return site.make_studio


@pytest.fixture
def studio(site: Site) -> Studio:
    """Return a studio without a model."""
    return site.make_studio()


@pytest.fixture
def offers(studio: Studio) -> Studio:
    """Return a studio whose model has two versions, `a` with 90 % and `b` with 10 %."""
    studio.make_model(a=9000, b=1000)
    return studio
