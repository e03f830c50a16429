"""Every page in a real browser, wide and narrow, light and dark: axe finds nothing serious, nothing scrolls sideways.

Besides, as in all of the browser's tests (`tests.browser.tabs`): no script fails, nothing breaks the policy.

The pages are enumerated from the URLconf. One with something new in its address fails until `VALUES` has one for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.urls import reverse
from playwright.sync_api import Page, expect

from tests.browser.site import MODEL, Site, Studio
from tests.browser.tabs import NARROW, WIDE, Tabs, is_wider_than_its_window
from tests.routes import routes

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SERIOUS = ("serious", "critical")
AXE = "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations)"

# Addresses of a studio that are no pages of their own, with the reason.
NO_PAGES = {
    "studio": "it leads to the models",
    "live": "a line of the rollout page, which htmx fetches",
    "load-progress": "a part of a load's page, which htmx fetches",
    "audit-file": "a file to keep",
}
ONLY_POST = {"effect", "load-cancel", "tester-remove", "version-dry-run"}


class Scene(NamedTuple):
    """What the pages are about: a studio with everything and one with nothing yet."""

    full: Studio
    made: dict[str, Any]
    empty: Studio
    staff: str
    nobody: str


@pytest.fixture(scope="module")
def scene(site: Site) -> Scene:
    full, empty = site.make_studio(), site.make_studio()
    full.make_model(a=6000, b=3000, c=1000)
    made = site.ask("add_history", slug=full.slug)
    staff = site.ask("make_person", username="staff", is_staff=True)["session"]
    return Scene(full, made, empty, staff, site.ask("make_person", username="nobody")["session"])


def values_of(studio: Studio, made: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in addresses."""
    return {
        **made,
        "studio": studio.slug,
        "model": MODEL,
        "version": "b",
        "number": 1,
        "client_id": studio.client_id,
        "token": studio.token_id,
        "username": studio.people["viewer"],
    }


OF_STUDIOS = {
    route.name or path: list(route.pattern.converters) for path, route in routes() if path.startswith("studios/<")
}
PAGES = sorted(OF_STUDIOS.keys() - NO_PAGES - ONLY_POST)


def address(name: str, studio: Studio, made: dict[str, Any] | None = None) -> str:
    values = values_of(studio, made or {})
    missing = [wanted for wanted in OF_STUDIOS[name] if wanted not in values]
    assert not missing, f"what is a {missing[0]} in the address of “{name}”? Say it in values_of()."
    return reverse(name, kwargs={wanted: values[wanted] for wanted in OF_STUDIOS[name]})


def check(page: Page) -> None:
    """Look at an open page wide and narrow, light and dark."""
    page.evaluate(AXE_SCRIPT)
    found: list[str] = []
    for scheme in SCHEMES:
        for width in (WIDE, NARROW):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            how = f"{page.url} at {width} px, {scheme}"
            if is_wider_than_its_window(page):
                found.append(f"{how}: it scrolls sideways")
            for violation in page.evaluate(AXE):
                if violation["impact"] in SERIOUS:
                    places = [f"{node['target']}: {node['failureSummary']}" for node in violation["nodes"][:3]]
                    found.append(f"{how}: {violation['id']} ({violation['help']})\n  " + "\n  ".join(places))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", PAGES)
def test_page__of_a_studio_with_everything__is_accessible(tabs: Tabs, scene: Scene, name: str) -> None:
    page = tabs.open(address(name, scene.full, scene.made), scene.full.sessions["studio_admin"])
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    check(page)


@pytest.mark.parametrize("name", [name for name in PAGES if OF_STUDIOS[name] == ["studio"]])
def test_page__of_a_studio_with_nothing_yet__is_accessible(tabs: Tabs, scene: Scene, name: str) -> None:
    page = tabs.open(address(name, scene.empty), scene.empty.sessions["viewer"], refusals=(403,))
    check(page)


# A form sent empty, by the page it is on: what is missing is said.
@pytest.mark.parametrize(
    ("name", "button"),
    [
        ("model-new", "Make the model"),
        ("version-new", "Add the version"),
        ("testers", "Add tester"),
        ("credential-new", "Issue the credential"),
        ("credential-key-new", "Register the key"),
        ("automation-token-new", "Make the token"),
    ],
)
def test_form__sent_empty__is_accessible_in_its_errors(tabs: Tabs, scene: Scene, name: str, button: str) -> None:
    page = tabs.open(address(name, scene.full, scene.made), scene.full.sessions["studio_admin"], refusals=(422,))
    page.get_by_role("main").get_by_role("button", name=button).click()
    expect(page.locator("[aria-invalid=true]").first).to_be_visible()
    check(page)


def open_effect(page: Page) -> None:
    page.get_by_role("textbox", name="Weight of c, percent").fill("20")
    page.get_by_role("textbox", name="Weight of b, percent").fill("20")
    expect(page.locator("#effect")).to_contain_text("change version")


def open_dialog(page: Page) -> None:
    page.get_by_role("link", name="Switch off c").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def open_answer(page: Page) -> None:
    page.get_by_label("player_id").fill("p000001")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("heading", name="p000001 gets")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "act"),
    [("rollout", open_effect), ("rollout", open_dialog), ("why", open_answer)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_page__after_something_was_done_on_it__is_accessible(
    tabs: Tabs, scene: Scene, name: str, act: Callable[[Page], None]
) -> None:
    page = tabs.open(address(name, scene.full, scene.made), scene.full.sessions["product_manager"])
    act(page)
    check(page)


# Addresses that are neither a studio's, nor the admin's, nor operations of the API: who looks at them, or why nobody.
OUTSIDE: dict[str, str] = {
    "home": "staff",
    "sign-in": "",
    "password": "nobody",
    "set-password": "",
    "api-reference": "nobody",
}
NO_PAGES_OUTSIDE = {
    "sign-out": "it takes a POST alone",
    "api-schema": "a document for programs",
    "api-nothing-here": "a 404 for programs",
    "recommendations": "for games",
    "^v1/": "a 404 for games",
    "healthz": "for what watches over the process",
    "readyz": "for what watches over the process",
    "readyz-tokens": "for what watches over the process",
    "metrics": "for Prometheus",
}


def test_addresses__outside_of_studios__are_known() -> None:
    elsewhere = ("studios/<", "admin/", "api/v1/")
    known = {route.name or path for path, route in routes() if not path.startswith(elsewhere)}
    assert known == OUTSIDE.keys() | NO_PAGES_OUTSIDE.keys()


@pytest.mark.parametrize("name", OUTSIDE)
def test_page__outside_of_studios__is_accessible(tabs: Tabs, scene: Scene, name: str) -> None:
    made = {"set-password": lambda: scene.full.site.ask("make_link", slug=scene.full.slug)["path"]}
    path = made.get(name, lambda: reverse(name))()
    session = {"": None, "nobody": scene.nobody, "staff": scene.staff}[OUTSIDE[name]]
    page = tabs.open(path, session)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    check(page)


def test_pages__of_somebody_without_a_studio_and_of_staff__are_accessible(tabs: Tabs, scene: Scene) -> None:
    check(tabs.open("/", scene.nobody))
    check(tabs.open("/sign-in?next=/admin/", scene.nobody))
    check(tabs.open("/admin/", scene.staff))


def test_pages__of_errors__are_accessible(tabs: Tabs, scene: Scene) -> None:
    check(tabs.open("/no-such-page", scene.nobody, refusals=(404,)))
    check(tabs.open(address("models", scene.full), scene.nobody, refusals=(404,)))
    check(tabs.open(address("model-new", scene.full), scene.full.sessions["viewer"], refusals=(403,)))


def test_addresses_that_are_no_pages__take_no_get(tabs: Tabs, scene: Scene) -> None:
    for name in sorted(ONLY_POST):
        page = tabs.open("/api/", scene.full.sessions["studio_admin"])
        assert page.request.get(address(name, scene.full, scene.made)).status == 405, name


def test_check__a_page_with_faults__names_them(tabs: Tabs, scene: Scene) -> None:
    page = tabs.open("/sign-in")
    page.evaluate(
        """() => {
            document.body.append(document.createElement("button"));
            document.querySelector("h1").setAttribute("class", "planted");
            document.styleSheets[0].insertRule(".planted { width: 500px; white-space: nowrap; opacity: 0.1 }", 0);
        }"""
    )

    with pytest.raises(AssertionError) as failure:
        check(page)

    for words in ("button-name", "color-contrast", "scrolls sideways"):
        assert words in str(failure.value)
