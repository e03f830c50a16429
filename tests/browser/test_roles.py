"""What a role may not do, it cannot: the pages do not offer it, and neither an address nor the API does it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.site import MODEL, Studio
from tests.browser.tabs import Tabs

FORBIDDEN = (403,)
WEIGHTS: dict[str, Any] = {"weight-0": "0", "weight-1": "100", "step": "save"}
# What a studio's admin, or its product manager, can send: form by address below the studio's, and body by operation.
FORMS_OF_MANAGERS: dict[str, dict[str, Any]] = {
    f"/models/{MODEL}/weights": WEIGHTS,
    f"/models/{MODEL}/new-phase": {},
    f"/models/{MODEL}/serve-default": {},
    f"/models/{MODEL}/versions/a/switch-off": {},
    f"/models/{MODEL}/versions/a/load": {},
    f"/models/{MODEL}/versions/b/archive": {},
    f"/models/{MODEL}/testers": {"unit": "p1", "version": "a"},
    f"/models/{MODEL}/settings": {"part": "basics", "name": "Taken over"},
    f"/models/{MODEL}/new-version": {"name": "x"},
    "/new-model": {"slug": "x"},
}
FORMS_OF_ADMINS: dict[str, dict[str, Any]] = {
    "/new-credential": {"name": "x", "reach": "all", "requests_per_second": "1", "burst": "1"},
    "/credentials/{client_id}/revoke": {"reason": "x"},
    "/credentials/{client_id}/rotate": {"overlap": "0", "generation": "1"},
    "/new-automation-token": {"name": "x", "scopes": "read", "days": "0"},
    "/new-member": {"who": "x@example.com", "role": "viewer"},
    "/members/{admin}/remove": {},
}
OPERATIONS_OF_MANAGERS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", f"models/{MODEL}/rollout/reweight"): {"weights_bp": {"b": 10_000}},
    ("POST", f"models/{MODEL}/rollout/serve-default"): {},
    ("POST", f"models/{MODEL}/versions/a/loads"): {},
    ("PUT", f"models/{MODEL}/overrides"): {"unit": "p1", "version": "a"},
    ("PATCH", f"models/{MODEL}"): {"name": "Taken over"},
}
OPERATIONS_OF_ADMINS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "credentials"): {"name": "x"},
    ("POST", "credentials/{client_id}/revoke"): {"reason": "x"},
    ("POST", "automation-tokens"): {"name": "x", "scopes": ["read"]},
    ("POST", "members"): {"who": "x@example.com", "role": "viewer"},
}
REFUSED: dict[str, tuple[dict[str, dict[str, Any]], dict[tuple[str, str], dict[str, Any]]]] = {
    "viewer": ({**FORMS_OF_MANAGERS, **FORMS_OF_ADMINS}, {**OPERATIONS_OF_MANAGERS, **OPERATIONS_OF_ADMINS}),
    "product_manager": (FORMS_OF_ADMINS, OPERATIONS_OF_ADMINS),
}
# What everybody in the studio may open, to read it.
READABLE = (f"/models/{MODEL}/testers", f"/models/{MODEL}/settings")
OFFERED_TO_MANAGERS = re.compile(
    "^(Save weights|Switch off|Go back to this|Start a new phase|Serve the default|Add a version|Load now|Roll back)"
)
OFFERED_TO_ADMINS = re.compile("^(Issue a credential|Register a public key|Rotate|Revoke|Make a token|Add)")


def offered(page: Page, words: re.Pattern[str]) -> int:
    """Count the buttons and links of such words."""
    main = page.get_by_role("main")
    return main.get_by_role("button", name=words).count() + main.get_by_role("link", name=words).count()


def state(tabs: Tabs, studio: Studio) -> list[str]:
    """Return all that these forms and operations could have changed, as the studio's admin reads it."""
    page = tabs.open("/api/", studio.sessions["studio_admin"])
    paths = ("audit", "members", "credentials", "automation-tokens", "models", f"models/{MODEL}/versions", "loads")
    answers = [page.request.get(f"/api/v1/{path}") for path in paths]
    assert all(answer.ok for answer in answers)
    return [answer.text() for answer in answers]


def csrf_of(page: Page) -> str:
    """Return the token that the browser has, as any page with a form gives it one."""
    page.goto("/sign-in")
    [token] = [cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "csrftoken"]
    return token


@pytest.mark.parametrize("role", REFUSED)
def test_role__what_it_may_not__is_refused_by_address_and_by_api(tabs: Tabs, offers: Studio, role: str) -> None:
    names = {"client_id": offers.client_id, "admin": offers.people["studio_admin"]}
    before = state(tabs, offers)
    page = tabs.open(f"{offers.path}/models", offers.sessions[role], refusals=FORBIDDEN)
    csrf = csrf_of(page)
    forms, operations = REFUSED[role]

    for path, form in forms.items():
        address = f"{offers.path}{path.format(**names)}"
        headers = {"X-CSRFToken": csrf, "Referer": offers.site.url}
        answer = page.request.post(address, form=form, headers=headers, max_redirects=0)
        assert answer.status == 403, address
        opened = page.request.get(address, max_redirects=0).status
        assert opened == 200 if path in READABLE else opened in (403, 405), address
    for (method, path), body in operations.items():
        answer = page.request.fetch(
            f"/api/v1/{path.format(**names)}", method=method, data=body, headers={"X-CSRFToken": csrf}
        )
        assert (answer.status, answer.json()["code"]) == (403, "not_allowed"), path

    assert state(tabs, offers) == before


def test_token__that_only_reads__changes_nothing(tabs: Tabs, offers: Studio) -> None:
    names = {"client_id": offers.client_id}
    before = state(tabs, offers)
    page = tabs.open("/sign-in")

    for (method, path), body in {**OPERATIONS_OF_MANAGERS, **OPERATIONS_OF_ADMINS}.items():
        headers = {"Authorization": f"Bearer {offers.read_token}"}
        answer = page.request.fetch(f"/api/v1/{path.format(**names)}", method=method, data=body, headers=headers)
        assert answer.status == 403, path
        assert answer.json()["code"] in ("not_allowed", "person_required"), path

    assert state(tabs, offers)[0] == before[0]


def test_pages__offer_what_the_role_may(tabs: Tabs, offers: Studio) -> None:
    of_managers = ("/models", f"/models/{MODEL}", f"/models/{MODEL}/versions/a")
    of_admins = ("/credentials", f"/credentials/{offers.client_id}", "/automation", "/members")
    found: dict[str, tuple[int, int]] = {}
    for role, session in offers.sessions.items():
        page = tabs.open(f"{offers.path}/models", session)
        counts = []
        for paths, words in ((of_managers, OFFERED_TO_MANAGERS), (of_admins, OFFERED_TO_ADMINS)):
            total = 0
            for path in paths:
                page.goto(f"{offers.path}{path}")
                total += offered(page, words)
            counts.append(total)
        found[role] = (counts[0], counts[1])

    assert found["viewer"] == (0, 0)
    assert found["product_manager"][0] > 5
    assert found["product_manager"][1] == 0
    assert found["studio_admin"][0] == found["product_manager"][0]
    assert found["studio_admin"][1] > 5


def test_stranger__another_studio__is_not_there(tabs: Tabs, offers: Studio) -> None:
    other = offers.site.make_studio()
    page = tabs.open(offers.model_path, other.sessions["studio_admin"], refusals=(404,))
    foreign = page.get_by_role("main").inner_text()
    page.goto("/studios/no-such-studio/models/offers")

    assert page.get_by_role("main").inner_text() == foreign
    assert offers.name not in page.content()
