"""Makes the README's pictures anew: `make screenshots`.

Starts a demo of its own in a folder that is removed again, gives it a day of counted answers (a day of traffic would
take a day), and goes the README's tour in Chromium. Every picture is what a product manager of the demo's studio sees.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from recsite.environment import BASE_DIR

IMAGES = BASE_DIR / "docs" / "images"
SIZE = {"width": 1280, "height": 880}
NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 300
PLAYERS = 20_000
A_DAY_SECONDS = 86_400


def main() -> None:
    """Make the pictures."""
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        sys.exit(
            "Chromium is needed on PATH, as chromium, chromium-browser or google-chrome. On Debian and Ubuntu: "
            "apt-get install chromium; on macOS: brew install --cask chromium."
        )
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recsite-") as folder, _demo(Path(folder)) as demo:
        _count_a_day(Path(folder))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            window = browser.new_context(
                base_url=demo["dashboard_url"],
                viewport={"width": SIZE["width"], "height": SIZE["height"]},
                color_scheme="light",
                reduced_motion="reduce",
                timezone_id="UTC",
            )
            window.set_default_timeout(60_000)
            _tour(window.new_page(), demo, Path(folder))
            browser.close()


def _tour(page: Page, demo: dict[str, Any], folder: Path) -> None:
    page.goto("/sign-in")
    page.locator("[name=username]").fill(demo["product_manager"]["username"])
    page.locator("[name=password]").fill(demo["product_manager"]["password"])
    page.keyboard.press("Enter")

    page.get_by_role("link", name="offers", exact=True).click()
    page.locator("[name=weight-0]").fill("60")
    page.locator("[name=reason]").fill("b won on day-7 spend")
    page.locator("#effect").get_by_text("of players change version").wait_for()
    page.locator("h1").click()
    _take(page, "rollout")
    page.get_by_role("button", name="Save weights").click()
    page.get_by_text("live on 1 of 1 lane").wait_for()

    page.get_by_role("link", name="Add a version").click()
    page.locator("[name=name]").fill("2026-12-a")
    page.locator("[name=source_location]").fill(str(folder / "demo-data" / "aurora" / "offers" / "2026-11-b.parquet"))
    page.get_by_role("button", name="Add the version").click()
    page.goto("/studios/aurora/loads")
    page.get_by_role("row").filter(has_text="2026-12-a").get_by_role("link", name="Load 1").click()
    page.locator(".head .pill.ok").get_by_text("Active").wait_for()
    _take(page, "load")

    page.goto("/studios/aurora/models/offers/traffic")
    page.get_by_text("Answers by version").wait_for()
    _take(page, "traffic")


def _take(page: Page, name: str) -> None:
    page.evaluate("window.scrollTo(0, 0)")
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    print(f"{path.relative_to(BASE_DIR)}: {SIZE['width']} × {SIZE['height']}, {path.stat().st_size / 1000:.0f} kB")


@contextmanager
def _demo(folder: Path) -> Iterator[dict[str, Any]]:
    """Run a demo below a folder."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RECSITE_")}
    own |= {"RECSITE_VAR_DIR": str(folder), "RECSITE_ENV_FILE": str(folder / "demo.env")}
    command = [sys.executable, "manage.py", "demo", "--players", str(PLAYERS)]
    printed = folder / "demo.out"
    with printed.open("w") as output:
        process = subprocess.Popen(command, cwd=BASE_DIR, env=own, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Stop: Ctrl-C" not in printed.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The demo did not start:\n{printed.read_text()}")
            time.sleep(0.5)
        yield json.loads((folder / "demo.json").read_text())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def _count_a_day(folder: Path) -> None:
    """Give the model `offers` a day of counts, as many by version as its weights say; more by day than by night."""
    os.environ |= {"RECSITE_ENV_FILE": str(folder / "demo.env"), "DJANGO_SETTINGS_MODULE": "recsite.settings"}
    import django  # noqa: PLC0415  # reads its settings, which the demo has made by now

    django.setup()
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415  # beside what they are for

    from models_registry.models import (  # noqa: PLC0415  # noqa: PLC0415  # as above
        RecommendationModel,
        RolloutRevision,
        Traffic,
        TrafficPosition,
        TrafficSource,
        TrafficSpan,
        Version,
    )

    model = RecommendationModel.objects.unscoped().get(tenant__slug="aurora", slug="offers")
    newest = RolloutRevision.objects.unscoped().filter(model=model).latest("number")
    RolloutRevision.objects.unscoped().filter(model=model).update(created_at=datetime.now(UTC) - timedelta(hours=25))
    span = int(TrafficSpan.FIVE_MINUTES)
    now = time.time()
    end = int(now) // span * span
    rows = []
    for version in Version.objects.unscoped().filter(model=model):
        weight_bp = newest.weights_bp[str(version.code)]
        for number, at in enumerate(range(end - A_DAY_SECONDS, end + 1, span)):
            level = 9_000 + 6_000 * math.sin((at % A_DAY_SECONDS) / A_DAY_SECONDS * math.tau - 2.2)
            answers = int(level * weight_bp / 10_000 * (1 + 0.04 * math.sin(number * (2.3 + version.code))))
            answers = int(answers * min(1, (now - at) / span))
            for source, part in ((TrafficSource.TABLE, 0.985), (TrafficSource.DEFAULT, 0.015)):
                starts_at = datetime.fromtimestamp(at, UTC)
                count = int(answers * part)
                rows.append(Traffic(version=version, span=span, starts_at=starts_at, source=source, answers=count))
    Traffic.objects.unscoped().bulk_create(rows, ignore_conflicts=True)
    # A time of which the demo's own beat has not collected yet what its lane counted is shown as not known.
    deadline = time.monotonic() + START_SECONDS
    while not TrafficPosition.objects.exists():
        if time.monotonic() > deadline:
            sys.exit("The demo's beat collected nothing.")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
