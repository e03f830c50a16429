"""What staff change in the admin goes through the services: said next to the field, audited, published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from tenants.models import AuditEntry, Membership, Role, Tenant, User
from tenants.people import password_link
from tests import factories

pytestmark = pytest.mark.django_db
Waiting = Callable[[], list[tuple[str, list[Any]]]]


@pytest.fixture
def staff(db: None) -> User:
    return factories.UserFactory.create(username="staff", is_staff=True)


@pytest.fixture
def signed_in(staff: User, client: Client) -> Client:
    client.force_login(staff)
    return client


def actions(tenant: Tenant | None) -> list[str]:
    rows = AuditEntry.objects.unscoped().filter(tenant=tenant)
    return list(rows.order_by("pk").values_list("action", flat=True))


def errors_of(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    return dict(response.context["adminform"].form.errors)


def said(response: Any) -> list[str]:
    return [str(message) for message in get_messages(response.wsgi_request)]


# --- Studios --------------------------------------------------------------------------------------------------------

NEW_STUDIO = {
    "name": "Aurora Games",
    "slug": "aurora",
    "allowed_datasets": "prod.recs\n\n  prod.more  \n",
    "allowed_gs_prefixes": "",
    "allowed_local_roots": "/srv/aurora",
    "requests_per_second": "500",
    "burst": "900",
}


def test_new_studio__lists_one_a_line__by_the_service(signed_in: Client, staff: User) -> None:
    response = signed_in.post(reverse("admin:tenants_tenant_add"), NEW_STUDIO)
    assert response.headers["Location"] == "/studios/aurora/models"
    studio = Tenant.objects.get(slug="aurora")
    first_page = signed_in.get("/studios/aurora/models").content.decode()
    assert "Made the studio Aurora Games." in first_page
    assert "From here to a first answer" in first_page
    assert studio.allowed_datasets == ["prod.recs", "prod.more"]
    assert studio.allowed_gs_prefixes == []
    assert (studio.requests_per_second, studio.burst) == (500, 900)
    assert actions(studio) == ["tenant.create", "tenant.update"]
    assert AuditEntry.objects.unscoped().filter(actor=staff).count() == 2


def test_new_studio__save_and_add_another__stays_in_the_admin(signed_in: Client) -> None:
    add = reverse("admin:tenants_tenant_add")
    assert signed_in.post(add, {**NEW_STUDIO, "_addanother": "1"}).headers["Location"] == add


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("slug", "taken", "The studio “taken” already exists."),
        ("allowed_gs_prefixes", "gs://bucket/folder", "is not a folder of a bucket"),
        ("allowed_datasets", "ok.ok\nbad", "“bad” is not a dataset"),
        ("requests_per_second", "0", "The limit per second must be a whole number"),
        ("name", "", "This field is required."),
    ],
)
def test_new_studio__a_value_will_not_do__is_said_next_to_it_and_nothing_is_made(
    field: str, value: str, words: str, signed_in: Client
) -> None:
    factories.TenantFactory.create(slug="taken")
    response = signed_in.post(reverse("admin:tenants_tenant_add"), {**NEW_STUDIO, field: value})
    errors = errors_of(response)
    assert list(errors) == [field]
    assert words in errors[field][0]
    form = response.context["adminform"].form
    assert {name: form[name].value() for name in NEW_STUDIO} == {**NEW_STUDIO, field: value}
    assert Tenant.objects.count() == 1
    assert not AuditEntry.objects.unscoped().exists()


def test_studio__changed__keeps_its_short_name(signed_in: Client, studio: Tenant) -> None:
    url = reverse("admin:tenants_tenant_change", args=[studio.pk])
    page = signed_in.get(url).content.decode()
    assert "analytics.recommendations" in page
    signed_in.post(url, {**NEW_STUDIO, "slug": "other", "name": "Renamed"})
    slug = studio.slug
    studio.refresh_from_db()
    assert (studio.slug, studio.name, studio.allowed_local_roots) == (slug, "Renamed", ["/srv/aurora"])


def test_end_studio__short_name_mistyped_or_no_reason__nothing_happens(signed_in: Client, studio: Tenant) -> None:
    url = reverse("admin:tenants_tenant_end", args=[studio.pk])
    mistyped = signed_in.post(url, {"typed": studio.slug.upper(), "reason": "Contract ended."})
    assert mistyped.context["form"].errors["typed"] == [f"That is not “{studio.slug}”."]
    assert "Contract ended." in mistyped.content.decode()
    assert signed_in.post(url, {"typed": studio.slug, "reason": ""}).status_code == 422
    studio.refresh_from_db()
    assert studio.ended_at is None


def test_end_studio__typed__ends_it_and_nothing_changes_any_more(signed_in: Client, studio: Tenant) -> None:
    url = reverse("admin:tenants_tenant_end", args=[studio.pk])
    signed_in.post(url, {"typed": studio.slug, "reason": "Contract ended."})
    studio.refresh_from_db()
    assert studio.ended_at is not None
    assert actions(studio) == ["tenant.end"]
    change = reverse("admin:tenants_tenant_change", args=[studio.pk])
    assert "This studio ended" in signed_in.get(change).content.decode()
    assert signed_in.post(change, NEW_STUDIO).status_code == 403
    again = signed_in.post(url, {"typed": studio.slug, "reason": "Twice."})
    assert "has ended" in again.content.decode()


# --- People ---------------------------------------------------------------------------------------------------------


def test_membership__given_changed_and_taken__by_the_services(signed_in: Client, studio: Tenant, owner: User) -> None:
    person = factories.UserFactory.create()
    add = reverse("admin:tenants_membership_add")
    signed_in.post(add, {"tenant": studio.pk, "user": person.pk, "role": Role.VIEWER})
    membership = Membership.objects.for_tenant(studio).get(user=person)
    change = reverse("admin:tenants_membership_change", args=[membership.pk])
    signed_in.post(change, {"role": Role.PRODUCT_MANAGER})
    membership.refresh_from_db()
    assert membership.role == Role.PRODUCT_MANAGER
    signed_in.post(reverse("admin:tenants_membership_delete", args=[membership.pk]), {"post": "yes"})
    assert not Membership.objects.for_tenant(studio).filter(user=person).exists()
    assert actions(studio) == ["member.set", "member.set", "member.remove"]


def test_membership__of_the_last_admin__stays(signed_in: Client, studio: Tenant, owner: User) -> None:
    membership = Membership.objects.for_tenant(studio).get(user=owner)
    url = reverse("admin:tenants_membership_delete", args=[membership.pk])
    response = signed_in.post(url, {"post": "yes"})
    assert said(response) == ["The studio needs at least one studio admin. Give somebody else that role first."]
    change = reverse("admin:tenants_membership_change", args=[membership.pk])
    assert "needs at least one studio admin" in errors_of(signed_in.post(change, {"role": Role.VIEWER}))["role"][0]
    assert Membership.objects.for_tenant(studio).filter(user=owner, role=Role.STUDIO_ADMIN).exists()


def test_membership__of_an_account_that_another_studio_made__ends_its_password_and_says_so(
    signed_in: Client, studio: Tenant
) -> None:
    person = factories.UserFactory.create(made_for=factories.TenantFactory.create())
    add = reverse("admin:tenants_membership_add")
    response = signed_in.post(add, {"tenant": studio.pk, "user": person.pk, "role": Role.VIEWER})
    assert response.status_code == 302
    assert any("Give them a new link" in message for message in said(response))
    person.refresh_from_db()
    assert (person.made_for, person.has_usable_password()) == (None, False)
    assert actions(None) == ["user.release"]


PERSON = {
    "username": "mira",
    "first_name": "Mira",
    "last_name": "Patel",
    "email": "mira@example.com",
    "is_active": "on",
}


def test_user__made_and_changed__leaves_a_trail_without_secrets(signed_in: Client) -> None:
    password = "a long and good password"
    add = {"username": "mira", "usable_password": "true", "password1": password, "password2": password}
    assert signed_in.post(reverse("admin:tenants_user_add"), add).status_code == 302
    person = User.objects.get(username="mira")
    signed_in.post(reverse("admin:tenants_user_change", args=[person.pk]), {**PERSON, "is_active": ""})
    signed_in.post(
        reverse("admin:auth_user_password_change", args=[person.pk]),
        {"usable_password": "true", "password1": f"{password}!", "password2": f"{password}!"},
    )
    person.refresh_from_db()
    assert (person.is_active, person.first_name) == (False, "Mira")
    assert person.check_password(f"{password}!")
    assert actions(None) == ["user.create", "user.update", "user.update"]
    trail = " ".join(f"{e.summary}{e.after}" for e in AuditEntry.objects.unscoped())
    assert password not in trail


def test_user__staff_who_are_no_superuser__give_no_rights_and_touch_no_staff(signed_in: Client, staff: User) -> None:
    person = factories.UserFactory.create(username="mira")
    boss = factories.UserFactory.create(username="boss", is_staff=True, is_superuser=True)
    rights = {"is_staff": "on", "is_superuser": "on"}
    signed_in.post(reverse("admin:tenants_user_change", args=[person.pk]), {**PERSON, **rights})
    signed_in.post(
        reverse("admin:tenants_user_change", args=[staff.pk]), {**PERSON, "username": "staff", "is_superuser": "on"}
    )
    for target in (person, staff):
        target.refresh_from_db()
    assert (person.first_name, person.is_staff, person.is_superuser) == ("Mira", False, False)
    assert not staff.is_superuser
    for view in ("tenants_user_change", "auth_user_password_change"):
        assert signed_in.post(reverse(f"admin:{view}", args=[boss.pk]), PERSON).status_code == 403


def test_user__a_superuser__makes_somebody_staff(client: Client) -> None:
    client.force_login(factories.UserFactory.create(is_staff=True, is_superuser=True))
    person = factories.UserFactory.create(username="mira")
    client.post(reverse("admin:tenants_user_change", args=[person.pk]), {**PERSON, "is_staff": "on"})
    person.refresh_from_db()
    assert person.is_staff
    assert AuditEntry.objects.unscoped().get().after == {"is_active": True, "is_staff": True, "is_superuser": False}


@pytest.mark.parametrize("right", ["is_staff", "is_superuser"])
def test_user__that_a_studio_made__given_staff_rights__loses_its_password_and_links(
    right: str, client: Client, studio: Tenant, owner: User
) -> None:
    client.force_login(factories.UserFactory.create(is_staff=True, is_superuser=True))
    person = factories.UserFactory.create(username="mira", made_for=studio)
    link = password_link(tenant=studio, user=person, actor=owner)
    response = client.post(reverse("admin:tenants_user_change", args=[person.pk]), {**PERSON, right: "on"})
    assert response.status_code == 302
    assert any("Set a new password (“Change password”) and hand it over" in message for message in said(response))
    person.refresh_from_db()
    assert getattr(person, right)
    assert (person.made_for, person.has_usable_password()) == (None, False)
    assert "This link does not work any more" in Client().get(link.path).content.decode()


def test_user__changed__leaves_a_password_set_meanwhile(signed_in: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    person = factories.UserFactory.create(username="mira")
    save = User.save

    def save_after_another(user: User, **kwargs: Any) -> None:
        User.objects.filter(pk=user.pk).update(password="another")
        save(user, **kwargs)

    monkeypatch.setattr(User, "save", save_after_another)
    signed_in.post(reverse("admin:tenants_user_change", args=[person.pk]), PERSON)
    person.refresh_from_db()
    assert (person.first_name, person.password) == ("Mira", "another")


# --- What other packages keep ---------------------------------------------------------------------------------------


def test_repeated_task__switched_and_run__is_in_the_trail(signed_in: Client, celery_queue: Waiting) -> None:
    every = IntervalSchedule.objects.create(every=15, period="seconds")
    task = PeriodicTask.objects.create(name="republish", task="publishing.republish", interval=every)
    listed = reverse("admin:django_celery_beat_periodictask_changelist")
    for name, is_on in (("switch_off", False), ("switch_on", True)):
        signed_in.post(listed, {"action": name, "_selected_action": [task.pk]})
        task.refresh_from_db()
        assert task.enabled is is_on
    signed_in.post(listed, {"action": "run_now", "_selected_action": [task.pk]})
    assert celery_queue() == [("publishing.republish", [])]
    assert actions(None) == ["task.switch_off", "task.switch_on", "task.run"]


@pytest.mark.usefixtures("broker_away")
def test_repeated_task__run_while_the_broker_is_away__says_so(signed_in: Client) -> None:
    every = IntervalSchedule.objects.create(every=15, period="seconds")
    task = PeriodicTask.objects.create(name="republish", task="publishing.republish", interval=every)
    listed = reverse("admin:django_celery_beat_periodictask_changelist")
    response = signed_in.post(listed, {"action": "run_now", "_selected_action": [task.pk]})
    assert said(response) == ["republish: the broker does not answer."]
    assert actions(None) == []


def test_failed_sign_in__unlocked__may_try_again(signed_in: Client) -> None:
    attempt = AccessAttempt.objects.create(
        username="mira", ip_address="127.0.0.1", user_agent="u", failures_since_start=8
    )
    listed = reverse("admin:axes_accessattempt_changelist")
    assert "Locked out" in signed_in.get(listed).content.decode()
    signed_in.post(listed, {"action": "unlock", "_selected_action": [attempt.pk]})
    assert not AccessAttempt.objects.exists()
    assert actions(None) == ["sign_in.unlock"]
