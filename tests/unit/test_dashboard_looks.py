"""The dashboard's colours hold the contrasts that people need (WCAG 2, AA), in both themes; bars are drawn right."""

from __future__ import annotations

import re

import pytest
from django.template import Context, Template

from recsite.dashboard.templatetags.versions import COLOURS, colour
from recsite.environment import BASE_DIR

CSS = (BASE_DIR / "static" / "recsite.css").read_text()
WHITE = "#ffffff"
THEMES = {"light": 0, "dark": 1}


def token(name: str, theme: str) -> str:
    found = re.search(rf"--{name}: light-dark\((#[0-9a-f]{{6}}), (#[0-9a-f]{{6}})\);", CSS)
    assert found is not None, name
    return found[1 + THEMES[theme]]


def version_colours() -> list[str]:
    return re.findall(r"^\.v\d+ \{ --v: (#[0-9a-f]{6}); \}$", CSS, flags=re.MULTILINE)


def luminance(colour_hex: str) -> float:
    parts = [int(colour_hex[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_version_colours__differ_and_every_code_has_one() -> None:
    numbers = re.findall(r"^\.v(\d+) \{", CSS, flags=re.MULTILINE)
    assert numbers == [str(number) for number in range(COLOURS)]
    assert len(set(version_colours())) == COLOURS
    assert {colour(code) for code in range(256)} == {f"v{number}" for number in range(COLOURS)}


def test_version_colours__are_readable_under_white_and_seen_on_every_card() -> None:
    for one in version_colours():
        assert contrast(one, WHITE) >= 4.5, one
        for theme in THEMES:
            assert contrast(one, token("card", theme)) >= 3, (one, theme)


@pytest.mark.parametrize("theme", THEMES)
def test_texts__are_readable_on_every_surface(theme: str) -> None:
    for name in ("ink", "dim", "accent", "ok", "warn", "bad"):
        for surface in ("ground", "card", "sunk"):
            assert contrast(token(name, theme), token(surface, theme)) >= 4.5, (name, surface)
    assert contrast(token("on-accent", theme), token("accent", theme)) >= 4.5
    for surface in ("ground", "card"):
        assert contrast(token("edge", theme), token(surface, theme)) >= 3, surface


def draw(weights_bp: dict[int, int], looks: str = "") -> str:
    names = {0: "2026-10-b", 1: "2026-11-a", 2: "2026-11-c"}
    template = Template("{% load versions %}{% version_bar weights names looks %}")
    return template.render(Context({"weights": weights_bp, "names": names, "looks": looks}))


def test_bar__parts_lie_side_by_side_and_fill_it() -> None:
    drawn = draw({0: 6000, 2: 1001, 1: 2999})
    assert re.findall(r'<svg x="([\d.]+)%" width="([\d.]+)%"', drawn) == [
        ("0.0", "60.0"),
        ("60.0", "29.99"),
        ("89.99", "10.01"),
    ]
    assert 'aria-label="2026-10-b 60 %, 2026-11-a 29.99 %, 2026-11-c 10.01 %"' in drawn


def test_bar__label_that_does_not_fit__is_left_out() -> None:
    drawn = draw({0: 9899, 1: 1, 2: 100})
    assert '<text class="wide" x="11" y="50%">2026-10-b · 98.99 %</text>' in drawn
    assert drawn.count('<text class="wide" x="11" y="50%"></text>') == 2


def test_bar__version_without_weight__has_no_part() -> None:
    assert draw({0: 10_000, 1: 0}).count("<rect") == 1


def test_bar__nothing_served__says_so() -> None:
    assert 'aria-label="No weights"' in draw({})
