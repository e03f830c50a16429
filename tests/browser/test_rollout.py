"""A product manager moves weights, and the lane follows."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.served import await_share
from tests.browser.site import Studio
from tests.browser.tabs import NARROW, WIDE, Tabs, said, weight

UNKNOWN = "This can't be worked out just now; Save will show it before anything changes."


def test_weights__changed_and_saved__say_their_effect_are_served_and_can_be_gone_back_from(
    tabs: Tabs, offers: Studio
) -> None:
    token = offers.token()
    await_share(offers, token, "b", 0, 0.3)
    page = tabs.open(offers.model_path, offers.sessions["product_manager"])
    effect = page.locator("#effect")
    expect(effect).to_contain_text("Nothing changes yet")

    weight(page, "b").fill("100")
    weight(page, "b").blur()
    expect(weight(page, "a")).to_have_value("0.00")
    expect(effect).to_contain_text("90 % of players change version. Nobody else moves.")
    page.get_by_label("Why").fill("b does well")
    page.get_by_role("button", name="Save weights").click()

    expect(said(page)).to_contain_text("Saved as revision 3. 90 % of players change version.")
    await_share(offers, token, "b", 1)
    expect(page.locator("#live")).to_contain_text("live on 1 of 1 lane")
    expect(page.get_by_role("listitem").filter(has_text="“b does well”")).to_be_visible()

    page.get_by_role("link", name=re.compile("Go back to this.*revision 2$")).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Go back to revision 2?")).to_be_visible()
    dialog.get_by_role("button", name="Go back").click()
    expect(said(page)).to_contain_text("Saved as revision 4")
    await_share(offers, token, "b", 0, 0.3)


def test_weights__that_do_not_sum_to_100__are_refused_and_stay_typed_in(tabs: Tabs, studio: Studio) -> None:
    studio.make_model(a=6000, b=3000, c=1000)
    page = tabs.open(studio.model_path, studio.sessions["product_manager"], refusals=(422,))

    weight(page, "b").fill("50")
    expect(page.locator("#sum")).to_contain_text("20 % too much")
    page.get_by_role("button", name="Save weights").click()

    expect(page.locator("#effect-card")).to_contain_text("must sum to 100")
    expect(weight(page, "b")).to_have_value("50")
    page.goto(studio.model_path)
    expect(weight(page, "b")).to_have_value("30.00")


def test_weights__keyboard_only__are_changed_and_saved(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(offers.model_path, offers.sessions["product_manager"])
    tab_to(page, weight(page, "b"))
    page.keyboard.press("Control+A")
    page.keyboard.type("25.5")
    page.keyboard.press("Enter")
    expect(weight(page, "a")).to_have_value("74.50")
    expect(page.locator("#effect")).to_contain_text("15.5 % of players change version")
    tab_to(page, page.get_by_role("button", name="Save weights"))
    page.keyboard.press("Enter")

    expect(said(page)).to_contain_text("15.5 % of players change version")
    expect(weight(page, "b")).to_have_value("25.50")


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"Tab never comes to {wanted}")


def test_weights__without_scripts__are_read_shown_and_saved(tabs: Tabs, offers: Studio) -> None:
    token = offers.token()
    page = tabs.open(offers.model_path, offers.sessions["product_manager"], scripts=False)
    expect(weight(page, "a")).to_have_value("90.00")
    weight(page, "a").fill("0")
    weight(page, "b").fill("100")
    page.get_by_role("button", name="Show what happens").click()
    expect(page.locator("#effect")).to_contain_text("90 % of players change version.")
    page.get_by_role("button", name="Save weights").click()

    expect(said(page)).to_contain_text("Saved as revision 3. 90 % of players change version.")
    await_share(offers, token, "b", 1)
    page.get_by_role("link", name=re.compile("Go back to this.*revision 2$")).click()
    expect(page.get_by_role("heading", name="Go back to revision 2?")).to_be_visible()
    page.get_by_role("button", name="Go back").click()
    expect(said(page)).to_contain_text("Saved as revision 4")


def test_switch_off__from_the_page__gives_everybody_to_the_other(tabs: Tabs, offers: Studio) -> None:
    token = offers.token()
    page = tabs.open(offers.model_path, offers.sessions["product_manager"])
    page.get_by_role("link", name="Switch off a").click()
    expect(page.get_by_role("dialog").get_by_role("heading", name="Switch off a?")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Switch it off").click()

    expect(said(page)).to_contain_text("90 % of players change version")
    await_share(offers, token, "b", 1)


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_weights__refused_for_a_caution__say_so_and_show_the_box_to_tick(
    tabs: Tabs, studio: Studio, width: int
) -> None:
    studio.make_model(a=6000, b=3000, c=1000)
    studio.write_rows("d.parquet", offer_id=4)
    page = tabs.open(f"{studio.model_path}/new-version", studio.sessions["product_manager"], refusals=(422,))
    page.get_by_label("Name").fill("d")
    page.get_by_label("Which rows").fill(str(studio.folder / "d.parquet"))
    page.get_by_label("Load it now").uncheck()
    page.get_by_role("button", name="Add the version").click()
    expect(said(page)).to_contain_text("Made the version d.")

    page.goto(studio.model_path)
    page.set_viewport_size({"width": width, "height": 700})
    weight(page, "c").fill("0")
    weight(page, "d").fill("10")
    expect(page.locator("#effect")).to_contain_text("d was never loaded")
    page.get_by_role("button", name="Save weights").click()

    expect(page.get_by_role("alert")).to_contain_text("Nothing was saved: there are warnings about these weights.")
    expect(page.get_by_label("Go on anyway")).to_be_focused()
    expect(page.get_by_label("Go on anyway")).to_be_in_viewport()
    page.get_by_label("Go on anyway").check()
    page.get_by_role("button", name="Save weights").click()
    expect(said(page)).to_contain_text("Saved as revision 3")


@pytest.mark.parametrize(
    ("typed", "words"),
    [("33.333", "A weight must be a multiple of 0.01 %."), ("", "Enter a number; 0 for none.")],
)
def test_weight__that_will_not_do__has_no_green_sum_and_is_named(
    tabs: Tabs, studio: Studio, typed: str, words: str
) -> None:
    studio.make_model(a=0, b=3333, c=6667)
    page = tabs.open(studio.model_path, studio.sessions["product_manager"], refusals=(422,))
    expect(page.locator("#sum")).to_contain_text("100 % ✓")

    weight(page, "a").fill(typed)
    weight(page, "c").fill("33.34")
    expect(page.locator("#effect")).to_contain_text(f"a: {words}")
    expect(page.locator("#sum")).not_to_contain_text("✓")
    expect(page.locator("#sum")).to_contain_text("a: type 0 to 100, in steps of 0.01")

    # What the others leave is still offered.
    page.locator("tr").filter(has=weight(page, "a")).get_by_role("button", name="Fit").click()
    expect(weight(page, "a")).to_have_value("33.33")
    expect(page.locator("#sum")).to_contain_text("100 % ✓")


def test_weight__typed_with_a_comma__replaces_what_was_there_and_no_wheel_turns_it(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(offers.model_path, offers.sessions["product_manager"])
    weight(page, "b").click()
    page.keyboard.type("12,5")
    page.mouse.wheel(0, 40)
    expect(weight(page, "b")).to_have_value("12,5")
    expect(page.get_by_role("slider", name="Weight of b, percent")).to_have_value("13")
    page.keyboard.press("Tab")

    expect(weight(page, "a")).to_have_value("87.50")
    expect(page.locator("#sum")).to_contain_text("100 % ✓")
    expect(page.locator("#effect")).to_contain_text("2.5 % of players change version")
    page.get_by_role("button", name="Save weights").click()
    expect(said(page)).to_contain_text("2.5 % of players change version")
    expect(weight(page, "b")).to_have_value("12.50")


def test_effect__of_a_server_that_fails__is_said_not_to_be_known(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(offers.model_path, offers.sessions["product_manager"], refusals=(503, 422))
    effect = page.locator("#effect")
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/effect", hold)
    with page.expect_request("**/effect"):
        weight(page, "b").fill("20")
    expect(effect).to_have_attribute("aria-busy", "true")
    while waiting:
        waiting.pop().fulfill(status=503)
    expect(effect).to_have_text(UNKNOWN)
    expect(effect).not_to_have_attribute("aria-busy", "true")

    # Save shows the effect first, and saves it when it was seen.
    weight(page, "b").blur()
    page.get_by_role("button", name="Save weights").click()
    expect(effect).to_contain_text("10 % of players change version")
    page.get_by_role("button", name="Save weights").click()
    expect(said(page)).to_contain_text("Saved as revision 3")


def test_switch_off__whose_dialog_does_not_come__opens_as_a_page(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(offers.model_path, offers.sessions["product_manager"], refusals=(503,))

    def fail_for_htmx(route: Route) -> None:
        if route.request.headers.get("hx-request"):
            route.fulfill(status=503)
        else:
            route.continue_()

    page.route("**/switch-off**", fail_for_htmx)
    page.get_by_role("link", name="Switch off a").click()

    expect(page.get_by_role("heading", name="Switch off a?")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Switch it off").click()
    expect(said(page)).to_contain_text("90 % of players change version")


def test_new_phase__of_many_versions__is_read_from_its_beginning_and_keeps_what_is_typed(
    tabs: Tabs, studio: Studio
) -> None:
    studio.make_model(**{f"v{number:02}": 800 for number in range(11)}, v11=1200)
    page = tabs.open(studio.model_path, studio.sessions["product_manager"])
    page.get_by_role("link", name="Start a new phase").click()
    dialog = page.get_by_role("dialog")
    heading = dialog.get_by_role("heading", name="Start a new phase?")
    expect(heading).to_be_focused()
    expect(heading).to_be_in_viewport()
    expect(dialog.locator(".flow:visible")).to_have_count(6)
    dialog.get_by_text("and 126 more, together").click()
    expect(dialog.locator(".flow:visible")).to_have_count(132)

    dialog.get_by_label("Why").fill("A new experiment")
    dialog.evaluate("element => { element.scrollTop = 0; }")
    box = dialog.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 8, box["y"] + 60)
    expect(dialog.get_by_label("Why")).to_have_value("A new experiment")
    page.mouse.click(box["x"] - 8, box["y"] + 60)
    expect(dialog).to_have_count(0)
