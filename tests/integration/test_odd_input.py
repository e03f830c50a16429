"""What no page sends but somebody may type: numbers of thousands of digits, NUL, the last of all days."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.urls.converters import StringConverter

from models_registry.rollouts.testers import set_tester
from tenants.models import Tenant, User
from tests import factories
from tests.integration.dashboard_scene import Offers, get, make_offers, post, signed_in
from tests.routes import routes

pytestmark = pytest.mark.django_db

MANY_DIGITS = "9" * 5000


@pytest.fixture
def offers(studio: Tenant, valkey: object) -> Offers:
    return make_offers(studio)


@pytest.fixture
def client(owner: User) -> Client:
    return signed_in(owner)


def named_by_texts() -> Iterator[tuple[str, set[str], set[str]]]:
    """Yield the studio's addresses that name something by any text: the name, all arguments, and those texts."""
    for path, route in routes():
        converters = route.pattern.converters
        texts = {name for name, converter in converters.items() if type(converter) is StringConverter}
        if texts and route.name and path.startswith("studios/"):
            yield route.name, set(converters), texts


ADDRESSES = list(named_by_texts())


def test_history__before_a_number_of_many_digits__is_the_newest_page(client: Client, offers: Offers) -> None:
    assert get(client, f"{offers.url}/history?before={MANY_DIGITS}").status == 200


def test_weights__seen_of_many_digits__is_the_page_again(client: Client, offers: Offers) -> None:
    form = {"weight-0": "50", "weight-1": "30", "weight-2": "20", "step": "save", "seen": MANY_DIGITS}
    answer = post(client, f"{offers.url}/weights", form)
    assert answer.status == 422
    assert "Look at what this does, then save it." in answer.text


def test_layout__a_row_of_many_digits_removed__changes_nothing(client: Client, studio: Tenant) -> None:
    form = {"layout": f"remove-{MANY_DIGITS}", "field-TOTAL_FORMS": "1", "field-INITIAL_FORMS": "0"}
    assert post(client, f"/studios/{studio.slug}/new-model", form).status == 200


@pytest.mark.parametrize("narrowed", ["studio", "model"])
def test_admin__a_list_narrowed_by_many_digits__is_not_narrowed(offers: Offers, narrowed: str) -> None:
    staff = signed_in(factories.UserFactory.create(is_staff=True, is_superuser=True))
    answer = get(staff, f"/admin/models_registry/version/?{narrowed}={MANY_DIGITS}")
    assert answer.status == 200
    assert offers.b.name in answer.text


@pytest.mark.parametrize(("page", "status"), [("audit", 422), ("audit.csv", 200)])
@pytest.mark.parametrize("day", ["since=0001-01-01", "until=9999-12-31"])
def test_audit__first_and_last_of_all_days__leave_nothing_out(
    client: Client, offers: Offers, studio: Tenant, page: str, status: int, day: str
) -> None:
    set_tester(model=offers.model, unit="qa-phone-7", version=offers.b, actor=None)
    answer = get(client, f"/studios/{studio.slug}/{page}?{day}")
    assert answer.status == status
    assert "Gave a tester the version" in answer.html


def test_tester_removed__a_text_that_is_no_unit__is_said(client: Client, offers: Offers) -> None:
    assert post(client, f"{offers.url}/testers/remove", {"unit": "a\0"}).status == 302
    assert (
        "A unit must be 1 to 256 bytes of text without control characters." in get(client, f"{offers.url}/testers").text
    )


def test_addresses__that_name_something_by_a_text__are_known() -> None:
    assert {"credential", "member-role", "version"} <= {name for name, *_ in ADDRESSES}


@pytest.mark.parametrize(("name", "arguments", "texts"), ADDRESSES, ids=[name for name, *_ in ADDRESSES])
@pytest.mark.parametrize("odd", ["\0", "a\0"])
def test_address__with_nul__is_a_404_and_nobody_looks_for_it(
    client: Client, offers: Offers, studio: Tenant, name: str, arguments: set[str], texts: set[str], odd: str
) -> None:
    values = dict.fromkeys(arguments, "offers") | {"studio": studio.slug} | dict.fromkeys(texts, odd)
    url = reverse(name, kwargs=values)
    assert "%00" in url
    asked: list[Any] = []

    def listen(run: Callable[..., Any], sql: str, values: Any, *more: Any) -> Any:
        asked.extend(values or ())
        return run(sql, values, *more)

    with connection.execute_wrapper(listen):
        assert {get(client, url).status, post(client, url).status} <= {404, 405}
    assert asked
    assert odd not in asked
