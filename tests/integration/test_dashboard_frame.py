"""Signing in, the choice of studios, error pages, and what holds for every page."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta
from html.parser import HTMLParser

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.utils import timezone

from recsite.dashboard import sign_in_limits
from serving.http import PROBLEM
from tenants.models import Role, Tenant, User
from tests import factories
from tests.integration.dashboard_scene import get, make_offers, page, post, signed_in

pytestmark = pytest.mark.django_db


def sign_in(client: Client, name: str, password: str, **more: str) -> object:
    return post(client, "/sign-in", {"username": name, "password": password, **more})


# --- Signing in and out -----------------------------------------------------------------------------------------------


def test_sign_in__right_password__leads_to_the_only_studio(teammate: User, studio: Tenant) -> None:
    client = Client()
    assert post(client, "/sign-in", {"username": teammate.username, "password": factories.PASSWORD}).location == "/"
    assert get(client, "/").location == f"/studios/{studio.slug}/"
    assert get(client, f"/studios/{studio.slug}/").location == f"/studios/{studio.slug}/models"


def test_sign_in__wrong_password__says_so_and_keeps_the_name(teammate: User) -> None:
    answer = post(Client(), "/sign-in", {"username": teammate.username, "password": "wrong"})
    assert "User name and password do not fit together." in answer.text
    assert f'value="{teammate.username}"' in answer.html
    assert "wrong" not in answer.html


def test_sign_in__password_that_does_not_fit__is_not_told_from_a_name_that_does_not_exist(teammate: User) -> None:
    known = post(Client(), "/sign-in", {"username": teammate.username, "password": "wrong"})
    unknown = post(Client(), "/sign-in", {"username": "nobody-at-all", "password": "wrong"})
    assert known.text == unknown.text


@pytest.mark.parametrize(
    ("onward", "goes_to"),
    [
        ("/studios/aurora/models?x=1", "/studios/aurora/models?x=1"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_sign_in__next__is_followed_only_within_this_site(teammate: User, onward: str, goes_to: str) -> None:
    form = {"username": teammate.username, "password": factories.PASSWORD, "next": onward}
    assert post(Client(), "/sign-in", form).location == goes_to


def test_sign_in__too_many_failures__says_how_long_to_wait(teammate: User) -> None:
    client = Client()
    for _ in range(settings.AXES_FAILURE_LIMIT):
        answer = post(client, "/sign-in", {"username": teammate.username, "password": "wrong"})
    assert answer.status == 429
    assert "Too many tries" in answer.text
    assert "10 min" in answer.text
    right = post(client, "/sign-in", {"username": teammate.username, "password": factories.PASSWORD})
    assert right.status == 429


def test_sign_in__one_password_on_many_names__slowed_by_address_before_any_is_hashed(
    teammate: User, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in_limits, "FAILURES_OF_AN_ADDRESS", 3)
    for number in range(3):
        assert post(Client(), "/sign-in", {"username": f"name{number}", "password": "wrong"}).status == 200
    form = {"username": teammate.username, "password": factories.PASSWORD}
    with monkeypatch.context() as patched:
        patched.setattr("django.contrib.auth.forms.authenticate", pytest.fail)
        answer = Client().post("/sign-in", form)
    assert (answer.status_code, answer["Retry-After"]) == (429, "600")
    assert "Too many sign-ins from your network have failed." in page(answer).text
    assert Client(REMOTE_ADDR="192.0.2.7").post("/sign-in", form).status_code == 302


def test_sign_in__too_many_passwords_at_once__told_to_wait_and_holds_no_thread(teammate: User) -> None:
    form = {"username": teammate.username, "password": factories.PASSWORD}
    with ExitStack() as others:
        for _ in range(sign_in_limits.PASSWORDS_AT_ONCE):
            others.enter_context(sign_in_limits.turn(RequestFactory().post("/sign-in")))
        answer = Client().post("/sign-in", form)
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "Try again in a few seconds." in page(answer).text
    assert Client().post("/sign-in", form).status_code == 302


def test_session__as_it_stands_in_the_database__signs_nobody_in(teammate: User) -> None:
    client = signed_in(teammate)
    stored = Session.objects.get().session_key
    assert stored != client.cookies[settings.SESSION_COOKIE_NAME].value
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = stored
    assert get(thief, "/").location == "/sign-in?next=/"
    assert get(client, "/").location.startswith("/studios/")


@pytest.mark.parametrize("path", ["/password", "/api/"])
def test_page_of_a_person__is_kept_by_nobody(path: str, teammate: User) -> None:
    assert "no-store" in signed_in(teammate).get(path)["Cache-Control"]


def test_session__of_one_who_signs_out__is_gone(teammate: User) -> None:
    client = signed_in(teammate)
    post(client, "/sign-out")
    assert not Session.objects.exists()


@pytest.mark.parametrize(("is_staff", "hours"), [(True, 12), (False, 14 * 24)])
def test_session__of_staff__ends_the_same_day(is_staff: bool, hours: int) -> None:
    person = factories.UserFactory.create(is_staff=is_staff)
    post(Client(), "/sign-in", {"username": person.username, "password": factories.PASSWORD})
    left = Session.objects.get().expire_date - timezone.now()
    assert abs(left - timedelta(hours=hours)) < timedelta(minutes=5)


def test_sign_in__already_signed_in__does_not_bounce_to_where_it_was_refused(teammate: User) -> None:
    client = signed_in(teammate)
    first = client.get("/admin/", follow=True)
    assert first.status_code == 200
    assert first.redirect_chain[-1][0] == "/sign-in?next=%2Fadmin%2F"
    assert "You are signed in" in page(first).text


def test_admin__not_signed_in__uses_the_same_sign_in_and_comes_back() -> None:
    staff = factories.UserFactory.create(is_staff=True, is_superuser=True)
    client = Client()
    assert client.get("/admin/", follow=True).redirect_chain[-1][0] == "/sign-in?next=%2Fadmin%2F"
    form = {"username": staff.username, "password": factories.PASSWORD, "next": "/admin/"}
    assert post(client, "/sign-in", form).location == "/admin/"


def test_sign_out__ends_the_session(teammate: User) -> None:
    client = signed_in(teammate)
    assert post(client, "/sign-out").location == "/sign-in"
    assert get(client, "/").location == "/sign-in?next=/"


def test_sign_out__get__does_nothing(teammate: User) -> None:
    client = signed_in(teammate)
    assert get(client, "/sign-out").status == 405
    assert get(client, "/").status == 302
    assert get(client, "/").location != "/sign-in?next=/"


def test_form__without_a_csrf_token__is_refused_in_plain_words(teammate: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(teammate)
    answer = post(client, "/sign-out")
    assert answer.status == 403
    assert "This form is out of date" in answer.text
    assert get(client, "/").location != "/sign-in?next=/"


# --- Which studio -----------------------------------------------------------------------------------------------------


def test_home__several_studios__offers_each_with_the_role_in_it(teammate: User, studio: Tenant) -> None:
    other = factories.MembershipFactory.create(user=teammate, role=Role.VIEWER).tenant
    factories.ModelFactory.create(tenant=other)
    foreign = factories.TenantFactory.create(name="Somebody else’s")
    answer = get(signed_in(teammate), "/")
    assert f'href="/studios/{studio.slug}/"' in answer.html
    assert f"{other.name} 1 model · Viewer" in answer.text
    assert f"{studio.name} 0 models · Product manager" in answer.text
    assert foreign.name not in answer.text


def test_home__no_studio__says_what_to_do() -> None:
    person = factories.UserFactory.create(username="new-hire")
    answer = get(signed_in(person), "/")
    assert "You belong to no studio yet" in answer.text
    assert "new-hire" in answer.text


def test_home__no_studio_at_all__leads_staff_to_making_one() -> None:
    staff = factories.UserFactory.create(is_staff=True, is_superuser=True)
    answer = get(signed_in(staff), "/")
    assert "There is no studio yet" in answer.text
    assert 'href="/admin/tenants/tenant/add/"' in answer.html


def test_home__studio_that_ended__is_not_offered(teammate: User, studio: Tenant) -> None:
    studio.ended_at = timezone.now()
    studio.save()
    assert "You belong to no studio yet" in get(signed_in(teammate), "/").text


def test_studio__ended__can_be_read_and_not_changed(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    studio.ended_at = timezone.now() - timedelta(days=2)
    studio.save()
    answer = get(signed_in(teammate), offers.url)
    assert answer.status == 200
    assert "This studio ended" in answer.text
    assert "Save weights" not in answer.text


def test_menu__several_studios__offers_the_others_and_none_of_strangers(teammate: User, studio: Tenant) -> None:
    other = factories.MembershipFactory.create(user=teammate).tenant
    foreign = factories.TenantFactory.create()
    answer = get(signed_in(teammate), f"/studios/{studio.slug}/models")
    assert f'href="/studios/{other.slug}/"' in answer.html
    assert foreign.slug not in answer.html


def test_menu__staff__see_every_studio_and_the_admin(studio: Tenant) -> None:
    staff = factories.UserFactory.create(is_staff=True)
    answer = get(signed_in(staff), f"/studios/{studio.slug}/models")
    assert answer.status == 200
    assert 'href="/admin/"' in answer.html
    assert "Platform staff" in answer.text


def test_person_switched_off__is_signed_out(teammate: User, studio: Tenant) -> None:
    client = signed_in(teammate)
    teammate.is_active = False
    teammate.save()
    assert get(client, f"/studios/{studio.slug}/models").location.startswith("/sign-in")


def test_member_taken_out__gets_the_404_of_a_studio_that_does_not_exist(teammate: User, studio: Tenant) -> None:
    client = signed_in(teammate)
    url = f"/studios/{studio.slug}/models"
    assert get(client, url).status == 200
    teammate.memberships.all().delete()
    assert get(client, url) == get(client, "/studios/no-such-studio/models")
    assert get(client, url).status == 404


def test_studio_page__not_signed_in__comes_back_after_signing_in(studio: Tenant) -> None:
    answer = get(Client(), f"/studios/{studio.slug}/models?x=1")
    assert answer.location == f"/sign-in?next=/studios/{studio.slug}/models%3Fx%3D1"


def test_form__session_ended_meanwhile__says_that_nothing_was_saved_and_leads_back(studio: Tenant) -> None:
    client = Client()
    url = f"/studios/{studio.slug}/models/offers"
    answer = post(client, f"{url}/weights", Referer=f"http://testserver{url}/history?before=3#x")
    assert answer.location == f"/sign-in?next={url}/history%3Fbefore%3D3"
    assert "You were signed out in the meantime, so nothing was saved." in get(client, answer.location).text
    assert "nothing was saved" not in get(client, answer.location).text


@pytest.mark.parametrize("page", ["https://evil.example/studios/x", "//evil.example", "http://testserver.evil/x", ""])
def test_form__session_ended_and_sent_from_nowhere_here__leads_to_the_first_page(page: str, studio: Tenant) -> None:
    assert post(Client(), f"/studios/{studio.slug}/new-model", Referer=page).location == "/sign-in?next=/"


def test_fragment__not_signed_in__sends_the_whole_page_to_sign_in(studio: Tenant) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://testserver/studios/{studio.slug}/models/offers"}
    response = Client().get(f"/studios/{studio.slug}/models/offers/live", headers=headers)
    assert response.headers["HX-Redirect"] == f"/sign-in?next=/studios/{studio.slug}/models/offers"
    assert response.content == b""


# --- Error pages ------------------------------------------------------------------------------------------------------


def test_not_found__signed_out__says_that_signing_in_may_help() -> None:
    answer = get(Client(), "/nothing-here")
    assert answer.status == 404
    assert "There is nothing at this address" in answer.text
    assert 'href="/sign-in"' in answer.html


def test_not_allowed__says_which_role_it_takes(studio: Tenant) -> None:
    viewer = factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user
    answer = get(signed_in(viewer), f"/studios/{studio.slug}/new-model")
    assert answer.status == 403
    assert "This needs the role “Product manager”; yours is “Viewer”." in answer.text


def test_server_error__page__needs_neither_database_nor_request() -> None:
    assert "Something broke on our side" in render_to_string("500.html")
    assert "can&#x27;t be read" in render_to_string("400.html") or "can't be read" in render_to_string("400.html")


def test_server_error__while_serving__is_the_page_and_not_a_trace(
    monkeypatch: pytest.MonkeyPatch, teammate: User, studio: Tenant
) -> None:
    def broken(*args: object, **kwargs: object) -> object:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("recsite.dashboard.pages.models.model_summaries", broken)
    client = signed_in(teammate)
    client.raise_request_exception = False
    answer = get(client, f"/studios/{studio.slug}/models")
    assert answer.status == 500
    assert "Something broke on our side" in answer.text
    assert "secret detail" not in answer.html


@pytest.mark.parametrize("path", ["/studios/{}/models", "/api/v1/models"])
def test_database__does_not_answer__is_a_503_and_no_trace(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, teammate: User, studio: Tenant
) -> None:
    def away(*args: object, **kwargs: object) -> object:
        raise OperationalError("timeout expired\nand much more")

    client = signed_in(teammate)
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", away)
    client.raise_request_exception = False
    answer = client.get(path.format(studio.slug))
    assert (answer.status_code, answer["Retry-After"], answer["Cache-Control"]) == (503, "5", "no-store")
    assert "database isn’t answering" in answer.content.decode()
    assert answer["Content-Type"].partition(";")[0] == ("text/html" if "/api/" not in path else PROBLEM)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "timeout expired" in errors[0].getMessage()
    assert all(error.exc_info is None for error in errors)


# --- Every page -------------------------------------------------------------------------------------------------------


class InlineCode(HTMLParser):
    """Collects what a strict Content-Security-Policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self._is_script = tag == "script" and "src" not in names
        self.found += [f"{tag} {name}" for name in names if name == "style" or re.match(r"on|hx-on|hx-vals", name)]
        if tag == "style":
            self.found.append("style element")
        source = names.get("src") or (names.get("href") if tag == "link" else None) or ""
        if source.startswith(("http:", "https:", "//")):
            self.found.append(source)

    def handle_data(self, data: str) -> None:
        if self._is_script and data.strip():
            self.found.append(f"script {data[:40]}")

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False


def test_pages__carry_the_strict_policy_and_nothing_inline(teammate: User, studio: Tenant, valkey: redis.Redis) -> None:
    offers = make_offers(studio)
    client = signed_in(teammate)
    paths = ["", "/why?player_id=p1", "/testers", "/settings", "/new-version", "/new-phase", "/history"]
    paths += ["/versions/2026-11-a", "/versions/2026-11-a/source"]
    urls = [f"{offers.url}{path}" for path in paths]
    urls += [f"/studios/{studio.slug}/loads", f"/studios/{studio.slug}/loads/{offers.a.loads.get().pk}"]
    for url in [*urls, f"/studios/{studio.slug}/models", f"/studios/{studio.slug}/new-model", "/nothing", "/sign-in"]:
        response = client.get(url)
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy, url
        parser = InlineCode()
        parser.feed(response.content.decode())
        assert parser.found == [], url
        assert re.search(r"<title>[^<]+</title>", response.content.decode()), url


def test_studio_pages__are_not_kept_by_caches(teammate: User, studio: Tenant) -> None:
    response = signed_in(teammate).get(f"/studios/{studio.slug}/models")
    assert "no-store" in response.headers["Cache-Control"]
    assert "private" in response.headers["Cache-Control"]


def test_not_found__for_somebody_with_an_odd_request__still_renders(rf: RequestFactory) -> None:
    request = rf.get("/x")
    request.user = AnonymousUser()
    assert "sign in" in render_to_string("404.html", request=request)
