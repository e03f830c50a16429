"""Members and roles on the dashboard, links to set a password, and a person's own password."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from html import unescape

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from recsite.dashboard.pages.passwords import OwnPasswordForm
from tenants.access import role_of
from tenants.models import AuditEntry, Membership, Role, Tenant, User
from tenants.people import member_add, password_link
from tenants.rules import RuleBroken
from tenants.services import LastAdmin, NobodyToAdd, member_remove, member_set
from tests import factories
from tests.integration.dashboard_scene import Page, get, page, post, signed_in

pytestmark = pytest.mark.django_db
NEW_PASSWORD = "a long walk in november"
BOTH = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}


@pytest.fixture
def admin(owner: User) -> Client:
    return signed_in(owner)


@pytest.fixture
def url(studio: Tenant) -> str:
    return f"/studios/{studio.slug}"


def add(client: Client, url: str, who: str, role: Role = Role.PRODUCT_MANAGER) -> Page:
    return post(client, f"{url}/new-member", {"who": who, "role": role})


def link_of(answer: Page) -> str:
    (link,) = re.findall(r"http://testserver(/set-password/\S+?)<", unescape(answer.html))
    return str(link)


# --- The list ---------------------------------------------------------------------------------------------------------


def test_members__says_who_is_who_and_what_each_may(
    admin: Client, owner: User, teammate: User, studio: Tenant, url: str
) -> None:
    User.objects.filter(pk=teammate.pk).update(first_name="Mara", last_name="Lindt", email="mara@studio.example")
    shown = get(admin, f"{url}/members").text
    assert f"{owner.username} You Studio admin everything, also credentials" in shown
    assert f"Mara Lindt {teammate.username} · mara@studio.example Product manager changes weights" in shown
    assert "The only studio admin. Give somebody else that role first." in shown


def test_members__many__take_few_queries(admin: Client, studio: Tenant, url: str) -> None:
    factories.MembershipFactory.create_batch(30, tenant=studio)
    member = factories.MembershipFactory.create(tenant=studio).user.username
    for path in ("members", "new-member", f"members/{member}/role", f"members/{member}/remove"):
        with CaptureQueriesContext(connection) as queries:
            assert get(admin, f"{url}/{path}").status == 200
        assert len(queries) <= 15, path


def test_members__nobody_yet__platform_staff_add_the_first(studio: Tenant, url: str) -> None:
    staff = signed_in(factories.UserFactory.create(is_staff=True))
    assert "No member yet" in get(staff, f"{url}/members").text
    person = factories.UserFactory.create()
    assert add(staff, url, person.username, Role.STUDIO_ADMIN).location == f"{url}/members"
    assert role_of(person, studio) == Role.STUDIO_ADMIN


# --- Adding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["username", "email"])
def test_add__somebody_of_the_studios_with_an_account__gives_the_role_and_no_link(
    by: str, admin: Client, owner: User, studio: Tenant, url: str
) -> None:
    person = factories.UserFactory.create(username="mara", email="Mara@studio.example", made_for=studio)
    answer = add(admin, url, {"username": "mara", "email": "mara@Studio.example"}[by])
    assert answer.location == f"{url}/members"
    assert role_of(person, studio) == Role.PRODUCT_MANAGER
    entry = AuditEntry.objects.for_tenant(studio).get()
    assert (entry.action, entry.actor) == ("member.set", owner)


def test_add__an_address_without_an_account__makes_one_whose_link_is_shown_once(
    admin: Client, studio: Tenant, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = admin.post(f"{url}/new-member", {"who": "New.Person@Studio.example", "role": Role.VIEWER})
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    link = link_of(page(response))
    person = User.objects.get(username="new.person@studio.example")
    assert (person.email, person.has_usable_password(), person.made_for) == (person.username, False, studio)
    assert role_of(person, studio) == Role.VIEWER
    token = link.rsplit("/", 1)[1]
    assert token not in caplog.text
    assert all(token not in str(session.get_decoded()) for session in Session.objects.all())
    assert all(token not in f"{e.summary}{e.after}" for e in AuditEntry.objects.for_tenant(studio))
    shown = get(admin, f"{url}/members")
    assert token not in shown.html
    assert "No password yet" in shown.text


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("", "This field is required."),
        ("nobody", "This studio cannot add “nobody” itself. Ask platform staff to add people"),
        ("a b@studio.example", "is not a valid e-mail address."),
        ("x@", "is not a valid e-mail address."),
        ("switched-off", "This account is switched off."),
        ("shared@studio.example", "Several accounts have this address. Enter the user name."),
    ],
)
def test_add__who_will_not_do__is_said_and_nobody_is_added(
    who: str, said: str, admin: Client, studio: Tenant, url: str
) -> None:
    factories.UserFactory.create(username="switched-off", is_active=False, made_for=studio)
    factories.UserFactory.create_batch(2, email="shared@studio.example", made_for=studio)
    people = User.objects.count()
    answer = add(admin, url, who)
    assert answer.status == 422
    assert said in answer.text
    assert User.objects.count() == people
    assert Membership.objects.for_tenant(studio).count() == 1


def test_add__a_member__leads_to_the_list(admin: Client, teammate: User, url: str) -> None:
    answer = add(admin, url, teammate.username, Role.VIEWER)
    assert "is a member already; change their role in the list." in answer.text
    assert Membership.objects.unscoped().get(user=teammate).role == Role.PRODUCT_MANAGER


def test_add__somebody_who_is_not_the_studios__is_refused_as_if_they_were_nobody(
    admin: Client, stranger: User, url: str
) -> None:
    # Else any studio's admin could learn who has an account, and draw people into a studio that they never asked for.
    User.objects.filter(pk=stranger.pk).update(email="stranger@other.example")
    factories.UserFactory.create(username="boss", email="boss@platform.example", is_staff=True)
    factories.UserFactory.create(username="unattached", email="odd@")
    factories.UserFactory.create(username="gone", is_active=False)
    factories.UserFactory.create_batch(2, email="shared@other.example")

    def refusal(who: str) -> str:
        answer = add(admin, url, who)
        assert answer.status == 422, who
        return answer.text.replace(who, "WHO")

    names = {refusal(who) for who in (stranger.username, "boss", "unattached", "gone", "no-such-person")}
    addresses = {refusal(f"{who}.example") for who in ("stranger@other", "boss@platform", "shared@other")}
    odd = {refusal(who) for who in ("odd@", "even@")}
    assert len(names) == len(addresses) == len(odd) == 1
    assert "This studio cannot add “WHO” itself. Ask platform staff to add people" in names.pop()
    assert "This studio cannot add “WHO” itself. Ask platform staff to add people" in addresses.pop()
    assert not Membership.objects.unscoped().filter(user__username="boss").exists()


@pytest.mark.parametrize("who", ["stranger", "stranger@other.example"])
def test_add__somebody_of_another_studio_by_platform_staff__gives_the_role(who: str, studio: Tenant, url: str) -> None:
    person = factories.UserFactory.create(username="stranger", email="stranger@other.example")
    factories.MembershipFactory.create(user=person)
    staff = signed_in(factories.UserFactory.create(is_staff=True))
    assert add(staff, url, who).location == f"{url}/members"
    assert role_of(person, studio) == Role.PRODUCT_MANAGER
    assert "No account has the user name “nobody”." in add(staff, url, "nobody").text


def test_add__somebody_removed_before__gives_the_role_again(
    admin: Client, studio: Tenant, teammate: User, url: str
) -> None:
    post(admin, f"{url}/members/{teammate.username}/remove")
    assert role_of(teammate, studio) is None
    assert add(admin, url, teammate.username).location == f"{url}/members"
    assert role_of(teammate, studio) == Role.PRODUCT_MANAGER


def test_add__the_same_form_twice__makes_one_account_and_says_so(
    admin: Client, studio: Tenant, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(admin, url, "new@studio.example")
    again = add(admin, url, "new@studio.example")
    assert again.status == 422
    assert "is a member already; change their role in the list. “Link” there makes them a new link" in again.text
    # Another studio's came in between: looked for before the first was made.
    monkeypatch.setattr("tenants.people._find", lambda tenant, who, actor: None)
    at_once = add(admin, url, "new@studio.example")
    assert at_once.status == 422
    assert "This studio cannot add “new@studio.example” itself." in at_once.text
    assert User.objects.filter(username="new@studio.example").count() == 1


def test_account_of_another_studio__can_be_taken_by_platform_staff_alone(
    admin: Client, owner: User, studio: Tenant, url: str
) -> None:
    # Whoever made it still holds its link, so that they would get into this studio in that person's name.
    other = factories.TenantFactory.create()
    person = member_add(tenant=other, who="x@studio.example", role=Role.VIEWER, actor=None).membership.user
    answer = add(admin, url, "x@studio.example")
    assert answer.status == 422
    with pytest.raises(NobodyToAdd):
        member_set(tenant=studio, user=person, role=Role.VIEWER, actor=None)
    assert role_of(person, studio) is None
    staff = factories.UserFactory.create(is_staff=True)
    member_set(tenant=studio, user=person, role=Role.VIEWER, actor=staff)
    assert role_of(person, studio) == Role.VIEWER
    with pytest.raises(RuleBroken, match="does not belong to the studio"):
        password_link(tenant=other, user=person, actor=owner)


# --- Changing and removing --------------------------------------------------------------------------------------------


def test_role__changed__is_in_the_trail(admin: Client, teammate: User, studio: Tenant, url: str) -> None:
    address = f"{url}/members/{teammate.username}/role"
    assert post(admin, address, {"role": "emperor"}).status == 422
    assert post(admin, address, {"role": Role.VIEWER}).location == f"{url}/members"
    assert role_of(teammate, studio) == Role.VIEWER
    entry = AuditEntry.objects.for_tenant(studio).get()
    assert (entry.before, entry.after) == ({"role": "product_manager"}, {"role": "viewer"})


def test_last_admin__is_neither_removed_nor_demoted(admin: Client, owner: User, studio: Tenant, url: str) -> None:
    mine = f"{url}/members/{owner.username}"
    for address, form in ((f"{mine}/role", {"role": Role.VIEWER}), (f"{mine}/remove", {})):
        answer = post(admin, address, form)
        assert answer.status == 422
        assert "The studio needs at least one studio admin" in answer.text
    assert role_of(owner, studio) == Role.STUDIO_ADMIN


@pytest.mark.parametrize("how", ["switched off", "no password"])
def test_last_admin__beside_one_who_cannot_sign_in__stays(how: str, owner: User, studio: Tenant) -> None:
    other = factories.MembershipFactory.create(tenant=studio, role=Role.STUDIO_ADMIN).user
    if how == "switched off":
        other.is_active = False
    else:
        other.set_unusable_password()
    other.save()
    with pytest.raises(LastAdmin):
        member_remove(tenant=studio, user=owner, actor=owner)
    member_remove(tenant=studio, user=other, actor=owner)


def test_admin__beside_another__may_go_and_is_led_out(admin: Client, owner: User, studio: Tenant, url: str) -> None:
    factories.MembershipFactory.create(tenant=studio, role=Role.STUDIO_ADMIN)
    assert post(admin, f"{url}/members/{owner.username}/remove").location == "/"
    assert role_of(owner, studio) is None
    assert "You belong to no studio yet" in get(admin, "/").text


def test_removed__loses_the_studio_at_once(admin: Client, teammate: User, url: str) -> None:
    theirs = signed_in(teammate)
    assert get(theirs, f"{url}/models").status == 200
    assert post(admin, f"{url}/members/{teammate.username}/remove").location == f"{url}/members"
    assert get(theirs, f"{url}/models").status == 404


def test_pages_of_a_member__somebody_elses__are_the_404_of_nobody(admin: Client, stranger: User, url: str) -> None:
    for path in ("role", "remove", "link"):
        assert get(admin, f"{url}/members/{stranger.username}/{path}").status == 404
        assert get(admin, f"{url}/members/no-such-person/{path}").status == 404


# --- Links ------------------------------------------------------------------------------------------------------------


def test_link__used__sets_the_password_once_and_signs_in(admin: Client, studio: Tenant, url: str) -> None:
    link = link_of(add(admin, url, "new@studio.example"))
    theirs = Client()
    form_url = get(theirs, link).location
    assert form_url != link
    token = link.rsplit("/", 1)[1]
    shown = get(theirs, form_url)
    assert "new@studio.example" in shown.text
    assert token not in shown.html
    assert post(theirs, form_url, {**BOTH, "new_password2": "another one entirely"}).status == 200
    assert post(theirs, form_url, BOTH).location == "/"
    assert get(theirs, f"{url}/models").status == 200
    fresh = Client()
    sign_in = {"username": "new@studio.example", "password": NEW_PASSWORD}
    assert post(fresh, "/sign-in", sign_in).location == "/"
    again = get(Client(), link)
    assert "This link does not work any more" in again.text
    entry = AuditEntry.objects.for_tenant(studio).order_by("pk").last()
    assert entry is not None
    assert (entry.action, entry.actor_name) == ("user.set_password", "new@studio.example")


def test_link__a_weak_password__is_refused_in_words(admin: Client, url: str) -> None:
    theirs = Client()
    form_url = get(theirs, link_of(add(admin, url, "new@studio.example"))).location
    answer = post(theirs, form_url, {"new_password1": "short", "new_password2": "short"})
    assert "This password is too short. It must contain at least 10 characters." in answer.text
    assert not User.objects.get(username="new@studio.example").has_usable_password()


def test_link__a_newer_one__ends_the_one_before(admin: Client, studio: Tenant, url: str) -> None:
    first = link_of(add(admin, url, "new@studio.example"))
    second = link_of(post(admin, f"{url}/members/new@studio.example/link"))
    assert "This link does not work any more" in get(Client(), first).text
    assert get(Client(), second).status == 302


def test_link__too_old__does_not_work(admin: Client, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link = link_of(add(admin, url, "new@studio.example"))
    later = timezone.now().replace(tzinfo=None) + timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT + 60)
    monkeypatch.setattr("django.contrib.auth.tokens.PasswordResetTokenGenerator._now", lambda self: later)
    assert "This link does not work any more" in get(Client(), link).text


@pytest.mark.parametrize("case", ["staff made it", "works for the platform", "also elsewhere"])
def test_link__for_an_account_that_opens_more__is_refused(
    case: str, admin: Client, teammate: User, studio: Tenant, url: str
) -> None:
    if case != "staff made it":
        teammate.made_for = studio
        teammate.is_staff = case == "works for the platform"
        teammate.save()
    if case == "also elsewhere":
        factories.MembershipFactory.create(user=teammate)
    address = f"{url}/members/{teammate.username}/link"
    assert "only platform staff can give it a new password." in get(admin, address).text
    answer = post(admin, address)
    assert answer.status == 422
    assert "/set-password/" not in answer.html


@pytest.mark.parametrize("change", ["a role elsewhere", "staff", "superuser", "switched off"])
@pytest.mark.parametrize("is_open", [False, True])
def test_link__for_an_account_that_opens_more_since__does_not_work(
    is_open: bool, change: str, admin: Client, url: str
) -> None:
    link = link_of(add(admin, url, "ceo@borealis.example"))
    theirs = Client()
    form_url = get(theirs, link).location if is_open else link
    person = User.objects.get(username="ceo@borealis.example")
    # Past the services, which would end the link by themselves.
    if change == "a role elsewhere":
        factories.MembershipFactory.create(user=person)
    else:
        person.is_staff, person.is_superuser = change == "staff", change == "superuser"
        person.is_active = change != "switched off"
        person.save()
    assert "This link does not work any more" in get(theirs, form_url).text
    assert "This link does not work any more" in post(theirs, form_url, BOTH).text
    person.refresh_from_db()
    assert not person.has_usable_password()


@pytest.mark.parametrize("has_password", [False, True])
def test_account_of_a_studio__given_a_role_elsewhere__opens_nothing_to_those_who_made_it(
    has_password: bool, admin: Client, studio: Tenant, url: str
) -> None:
    link = link_of(add(admin, url, "ceo@borealis.example"))
    theirs = Client()
    if has_password:
        post(theirs, get(theirs, link).location, BOTH)
        assert get(theirs, f"{url}/models").status == 200
        link = link_of(post(admin, f"{url}/members/ceo@borealis.example/link"))
    person = User.objects.get(username="ceo@borealis.example")
    borealis = factories.TenantFactory.create()
    staff = factories.UserFactory.create(is_staff=True)
    given = member_set(tenant=borealis, user=person, role=Role.STUDIO_ADMIN, actor=staff)
    assert "Give them a new link" in given.note
    assert "This link does not work any more" in get(Client(), link).text
    assert get(theirs, f"{url}/models").location.startswith("/sign-in")
    sign_in = {"username": person.username, "password": NEW_PASSWORD}
    assert post(Client(), "/sign-in", sign_in).status != 302
    assert post(admin, f"{url}/members/{person.username}/link").status == 422
    entry = AuditEntry.objects.unscoped().get(action="user.release")
    assert (entry.tenant, entry.actor, entry.subject) == (None, staff, f"account {person.username}")


def test_account_of_a_studio__given_a_role_there_again__keeps_its_password(admin: Client, url: str) -> None:
    link = link_of(add(admin, url, "new@studio.example"))
    member = f"{url}/members/new@studio.example"
    post(admin, f"{member}/role", {"role": Role.VIEWER})
    post(admin, f"{member}/remove")
    add(admin, url, "new@studio.example")
    assert get(Client(), link).status == 302


def test_account_of_a_studio__added_elsewhere_by_staff__gets_a_link_from_them(studio: Tenant, url: str) -> None:
    other = factories.TenantFactory.create()
    member_add(tenant=other, who="ceo@borealis.example", role=Role.VIEWER, actor=None)
    staff = signed_in(factories.UserFactory.create(is_staff=True))
    added = add(staff, url, "ceo@borealis.example")
    listed = get(staff, added.location)
    assert "A studio made this account and may know its password" in listed.text
    assert "Link for ceo@borealis.example to set a password" in listed.text
    link = link_of(post(staff, f"{url}/members/ceo@borealis.example/link"))
    theirs = Client()
    assert post(theirs, get(theirs, link).location, BOTH).location == "/"
    # Nobody's studio made it any more, so that another role takes nothing away.
    member_set(
        tenant=factories.TenantFactory.create(),
        user=User.objects.get(email="ceo@borealis.example"),
        role=Role.VIEWER,
        actor=factories.UserFactory.create(is_staff=True),
    )
    assert get(theirs, f"{url}/models").status == 200


def test_link__by_platform_staff__is_for_nobody_of_theirs(studio: Tenant, url: str) -> None:
    staff = signed_in(factories.UserFactory.create(is_staff=True))
    boss = factories.MembershipFactory.create(tenant=studio, user__is_staff=True, user__is_superuser=True).user
    assert f"Link for {boss.username}" not in get(staff, f"{url}/members").text
    assert post(staff, f"{url}/members/{boss.username}/link").status == 422


def test_link__malformed__is_said_not_to_work(db: None) -> None:
    for link in ("/set-password/MQ/x", "/set-password/!!!/x-y", "/set-password/MQ/set-password"):
        assert "This link does not work any more" in get(Client(), link).text


# --- One's own password -----------------------------------------------------------------------------------------------


def test_own_password__changed__ends_other_sessions_and_keeps_this_one(teammate: User, url: str) -> None:
    here, elsewhere = Client(), Client()
    for client in (here, elsewhere):
        post(client, "/sign-in", {"username": teammate.username, "password": factories.PASSWORD})
    assert post(here, "/password", {"old_password": factories.PASSWORD, **BOTH}).location == "/"
    assert get(here, f"{url}/models").status == 200
    assert get(elsewhere, f"{url}/models").location.startswith("/sign-in")
    teammate.refresh_from_db()
    assert teammate.check_password(NEW_PASSWORD)
    assert AuditEntry.objects.unscoped().get().action == "user.set_password"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"old_password": "wrong"}, "This is not your password now."),
        ({"new_password2": "another one entirely"}, "The passwords differ."),
        ({"new_password1": "password12", "new_password2": "password12"}, "This password is too common."),
    ],
)
def test_own_password__will_not_do__is_said_and_stays(change: dict[str, str], said: str, teammate: User) -> None:
    client = signed_in(teammate)
    answer = post(client, "/password", {"old_password": factories.PASSWORD, **BOTH, **change})
    assert said in answer.text
    assert "another one entirely" not in answer.html
    teammate.refresh_from_db()
    assert teammate.check_password(factories.PASSWORD)


def test_own_password__ended_meanwhile__is_not_set(teammate: User, monkeypatch: pytest.MonkeyPatch) -> None:
    client = signed_in(teammate)
    check = OwnPasswordForm.clean_old_password

    def check_then_end(form: OwnPasswordForm) -> str:
        checked = check(form)
        ended = User.objects.get(pk=teammate.pk)
        ended.set_unusable_password()
        ended.save()
        return checked

    monkeypatch.setattr(OwnPasswordForm, "clean_old_password", check_then_end)
    assert (
        "This is not your password now." in post(client, "/password", {"old_password": factories.PASSWORD, **BOTH}).text
    )
    teammate.refresh_from_db()
    assert not teammate.has_usable_password()


def test_own_password__signed_out__is_sent_to_sign_in(db: None) -> None:
    assert get(Client(), "/password").location == "/sign-in?next=/password"


def test_own_password__is_led_to_from_every_page(teammate: User, url: str) -> None:
    assert 'href="/password"' in get(signed_in(teammate), f"{url}/models").html
