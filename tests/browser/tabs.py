"""Windows of the browser that write down what goes wrong in them: errors in scripts, breaches of the policy, requests
that fail or leave the site, pages wider than the window.
"""

from __future__ import annotations

from typing import Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, Response

from tests.browser.site import Site

WIDE = 1280
NARROW = 390
# What the browser and htmx say of every answer of 400 and above; `_note_response` knows better which of them are meant.
FAILED_TO_LOAD = ("Failed to load resource", "Response Status Error Code")
# A page that is left takes its requests with it.
LEFT = "net::ERR_ABORTED"


class Tabs:
    """Opens pages as somebody. `problems` are sentences about what went wrong."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self.browser = browser
        self.site = site
        self.problems: list[str] = []
        self._contexts: list[BrowserContext] = []

    def open(
        self,
        path: str,
        session: str | None = None,
        *,
        refusals: tuple[int, ...] = (),
        width: int = WIDE,
        scheme: Literal["light", "dark"] = "light",
        scripts: bool = True,
    ) -> Page:
        """Open a page in a window of its own.

        Args:
            path: below the site's address.
            session: whose; None for somebody who is not signed in.
            refusals: statuses from 400 on that this test means to see.
            width: of the window, in CSS pixels.
            scheme: what the person prefers.
            scripts: whether JavaScript is on.
        """
        context = self.browser.new_context(
            base_url=self.site.url,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            java_script_enabled=scripts,
        )
        context.set_default_timeout(20_000)
        self._contexts.append(context)
        if session is not None:
            context.add_cookies([{"name": "sessionid", "value": session, "url": self.site.url}])
        page = context.new_page()
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        page.on("response", lambda response: self._note_response(response, refusals))
        page.on("request", self._note_request)
        page.on("requestfailed", self._note_failed)
        page.goto(path)
        return page

    def close(self) -> None:
        """Close all windows."""
        for context in self._contexts:
            context.close()

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(FAILED_TO_LOAD):
            self.problems.append(f"{message.location.get('url')}: {message.text}")

    def _note_response(self, response: Response, refusals: tuple[int, ...]) -> None:
        if response.status >= 400 and response.status not in refusals:
            self.problems.append(f"{response.url}: status {response.status}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((self.site.url, "data:")):
            self.problems.append(f"{request.url} is no address of the site")

    def _note_failed(self, request: Request) -> None:
        if request.failure != LEFT:
            self.problems.append(f"{request.url}: {request.failure}")


def is_wider_than_its_window(page: Page) -> bool:
    """Tell whether a page scrolls sideways."""
    wider: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return wider


def weight(page: Page, version: str) -> Locator:
    """Return the field of a version's weight on the rollout page."""
    return page.get_by_role("textbox", name=f"Weight of {version}, percent", exact=True)


def said(page: Page) -> Locator:
    """Return what a page says was done."""
    return page.locator(".messages")
