"""The layout editor shows the inputs that a field's type takes, and no others, with and without scripts."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from models_registry.loading.field_types import SCALAR_TYPES, TYPES_BY_NAME, Input
from recsite.dashboard.forms.layouts import PARAMETERS
from tests.browser.site import Studio
from tests.browser.tabs import Tabs


def shown(page: Page) -> set[str]:
    """Return the names of the parameters whose inputs can be seen."""
    return {one.name for one in PARAMETERS if page.locator(f'[name="field-0-{one.name}"]').is_visible()}


@pytest.mark.parametrize("scripts", [True, False])
def test_layout_editor__each_type__shows_what_it_takes(tabs: Tabs, studio: Studio, *, scripts: bool) -> None:
    page = tabs.open(f"/studios/{studio.slug}/new-model", studio.sessions["product_manager"], scripts=scripts)
    for name, of in TYPES_BY_NAME.items():
        page.locator('[name="field-0-type"]').select_option(name)
        own = {parameter.name for parameter in of.parameters}
        if any(parameter.input is Input.ITEM for parameter in of.parameters):
            for item in SCALAR_TYPES:
                page.locator('[name="field-0-item"]').select_option(item.name)
                assert shown(page) == own | {parameter.name for parameter in item.parameters}, (name, item.name)
        else:
            assert shown(page) == own, name
