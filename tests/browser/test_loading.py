"""A new version from its first form to players, a load that a check stops, and the way back to an earlier table."""

from __future__ import annotations

import re

from playwright.sync_api import Route, expect

from tests.browser.served import await_offer, await_share
from tests.browser.site import Site, Studio
from tests.browser.tabs import Tabs, said, weight

ROWS = 50_000


def test_new_version__loaded_with_its_progress__can_be_given_players(tabs: Tabs, site: Site, offers: Studio) -> None:
    location = offers.write_rows("c.parquet", offer_id=3, players=ROWS)
    token = offers.token()
    page = tabs.open(f"{offers.model_path}/new-version", offers.sessions["product_manager"])
    page.get_by_label("Name").fill("c")
    page.get_by_label("Which rows").fill(str(location))
    page.get_by_label("Load it now").uncheck()
    page.get_by_role("button", name="Add the version").click()
    expect(said(page)).to_contain_text("Made the version c.")

    page.goto(f"{offers.model_path}/versions/c")
    with site.worker_paused():
        page.get_by_role("button", name="Load now").click()
        expect(page.locator("#progress")).to_contain_text("Waiting for a worker")
        expect(page.get_by_role("list", name="Steps of the load").locator("[aria-current=step]")).to_have_text("Queued")
    # The page notices by itself what the worker does.
    expect(page.get_by_role("main")).to_contain_text("Its table is served: 50,000 rows")
    expect(page.get_by_role("list", name="Steps of the load")).to_contain_text("Active (done)")

    page.goto(offers.model_path)
    for name, percent in (("a", "0"), ("b", "0"), ("c", "100")):
        weight(page, name).fill(percent)
    expect(page.locator("#effect")).to_contain_text("100 % of players change version")
    page.get_by_role("button", name="Save weights").click()
    expect(said(page)).to_contain_text("Saved as revision 3")
    await_share(offers, token, "c", 1)
    await_offer(offers, token, 3)


def test_load_now__pressed_twice__is_asked_for_once(tabs: Tabs, site: Site, studio: Studio) -> None:
    studio.make_model(a=10_000)
    page = tabs.open(f"{studio.model_path}/versions/a", studio.sessions["product_manager"])
    load_now = page.get_by_role("button", name="Load now")
    sent: list[Route] = []

    def hold(route: Route) -> None:
        sent.append(route)

    page.route("**/load", hold)
    box = load_now.bounding_box()
    assert box is not None
    place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    with site.worker_paused():
        with page.expect_request("**/load"):
            page.mouse.click(*place)
        page.mouse.click(*place)
        sent[-1].continue_()
        expect(page.locator("#progress")).to_contain_text("Waiting for a worker")
    assert len(sent) == 1
    page.unroute("**/load")
    expect(page.get_by_role("main")).to_contain_text("Its table is served: 1,000 rows")

    # The next one, from the same page shown again by the browser, is not ignored.
    page.go_back()
    load_now.click()
    expect(page.get_by_role("main")).to_contain_text("Its table is served: 1,000 rows")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Load 3")


def test_rejected_load__explains_itself_and_changes_nothing(tabs: Tabs, studio: Studio) -> None:
    studio.make_model(a=10_000)
    token = studio.token()
    studio.write_rows("a.parquet", offer_id=5000)
    page = tabs.open(f"{studio.model_path}/versions/a", studio.sessions["product_manager"])
    page.get_by_role("button", name="Load now").click()

    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("Column offer_id, row 1 (key p000000): 5000 is not within 0 … 4095")
    expect(problem).to_contain_text("Players notice nothing")
    sample = page.get_by_role("table", name=re.compile("^Rows that fail")).get_by_role("row").nth(1)
    expect(sample).to_contain_text("p000000")
    await_offer(studio, token, 0)
    page.goto(f"{studio.model_path}/versions/a")
    expect(page.get_by_role("main")).to_contain_text("The newest load was rejected")

    # The source is put right, and the load tried again from its own page.
    studio.write_rows("a.parquet", offer_id=7)
    page.get_by_role("link", name="See what was found").click()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("main")).to_contain_text("Its table is served: 1,000 rows")
    await_offer(studio, token, 7)


def test_roll_back__to_the_previous_table__is_served(tabs: Tabs, studio: Studio) -> None:
    studio.make_model(a=10_000)
    token = studio.token()
    studio.write_rows("a.parquet", offer_id=9)
    page = tabs.open(f"{studio.model_path}/versions/a", studio.sessions["product_manager"])
    page.get_by_role("button", name="Load now").click()
    expect(page.get_by_role("main")).to_contain_text("Its table is served")
    await_offer(studio, token, 9)

    page.goto(f"{studio.model_path}/versions/a")
    page.get_by_role("link", name="Roll back to the previous table").click()
    page.get_by_role("dialog").get_by_label("Why").fill("Everybody got offer 9")
    page.get_by_role("dialog").get_by_role("button", name="Serve that table").click()

    expect(said(page)).to_be_visible()
    await_offer(studio, token, 0)


def test_activate_anyway__of_too_few_rows__for_a_reason_that_stays(tabs: Tabs, studio: Studio) -> None:
    studio.make_model(a=10_000)
    token = studio.token()
    studio.write_rows("a.parquet", offer_id=4, players=100)
    page = tabs.open(f"{studio.model_path}/versions/a", studio.sessions["studio_admin"])
    page.get_by_role("button", name="Load now").click()
    expect(page.get_by_role("alert")).to_contain_text("100 rows, 90.0 % fewer than the 1,000 now active")
    await_offer(studio, token, 0)

    page.get_by_role("link", name="Activate anyway").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("row count: 100 rows, 90.0 % fewer than the 1,000 now active")
    dialog.get_by_label("Why").fill("We closed nine countries")
    dialog.get_by_role("button", name="Activate anyway").click()

    expect(page.get_by_role("main")).to_contain_text("Its table is served: 100 rows")
    expect(page.get_by_role("main")).to_contain_text("“We closed nine countries”")
    await_offer(studio, token, 4)
    page.goto(f"{studio.path}/audit")
    expect(page.get_by_role("main")).to_contain_text("We closed nine countries")


def test_schedule_and_freshness__set_in_the_browser__show_on_the_version(tabs: Tabs, offers: Studio) -> None:
    page = tabs.open(f"{offers.model_path}/versions/a", offers.sessions["product_manager"])
    dialog = page.get_by_role("dialog")
    page.get_by_role("link", name="Change the schedule").click()
    dialog.get_by_label("At times of the day, by a crontab").check()
    dialog.get_by_label("Crontab", exact=True).fill("30 5 * * *")
    dialog.get_by_label("Time zone").select_option("Europe/Berlin")
    dialog.get_by_role("button", name="Save the schedule").click()
    card = page.get_by_role("region", name="Schedule")
    expect(card).to_contain_text("(Europe/Berlin)")
    expect(card).to_contain_text("Next run")
    expect(card).to_contain_text("in time")

    page.get_by_role("link", name="Change how fresh it should be").click()
    dialog.get_by_label("At most").fill("90")
    dialog.get_by_label("Unit").select_option("minutes")
    dialog.get_by_role("button", name="Save the target").click()
    expect(card).to_contain_text("90 minutes")
    page.get_by_role("link", name="Change the schedule").click()
    dialog.get_by_label("Only on request").check()
    dialog.get_by_role("button", name="Save the schedule").click()
    expect(card).to_contain_text("None: it is loaded on request.")
