"""What staff change in the admin goes through the services: said next to the field, audited, published."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from models_registry.models import Layout, Load, Override, RecommendationModel, Source, Version
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
        ("slug", "taken", "There is a studio “taken” already."),
        ("allowed_gs_prefixes", "gs://bucket/folder", "is no folder of a bucket"),
        ("allowed_datasets", "ok.ok\nbad", "“bad” is no dataset"),
        ("requests_per_second", "0", "The limit per second is a whole number"),
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
    assert said(response) == ["The studio needs at least one studio admin: give somebody else that role first."]
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
    assert any("Hand over a new link" in message for message in said(response))
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


# --- Models, layouts, versions --------------------------------------------------------------------------------------


@pytest.fixture
def new_model(studio: Tenant) -> dict[str, str]:
    return {
        "tenant": str(studio.pk),
        "name": "Shop offers",
        "slug": "offers",
        "key_fields": "player_id",
        "unit_field": "player_id",
        "layout": json.dumps(factories.LAYOUT),
        "default_answer": json.dumps(factories.DEFAULT_ANSWER),
        "max_client_age_seconds": "120",
    }


def test_new_model__filled_in__by_the_service(signed_in: Client, studio: Tenant, new_model: dict[str, str]) -> None:
    response = signed_in.post(reverse("admin:models_registry_recommendationmodel_add"), new_model)
    assert response.status_code == 302
    model = RecommendationModel.objects.for_tenant(studio).get()
    assert (model.slug, model.key_fields, model.max_client_age_seconds) == ("offers", ["player_id"], 120)
    assert model.default_answer == factories.DEFAULT_ANSWER
    assert Layout.objects.for_tenant(studio).get().fields == factories.LAYOUT
    assert actions(studio) == ["model.create"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("layout", '[{"name": "a",}]', "This is not JSON: "),
        ("layout", '[{"name": "a",\n "type": "uint" "min": 1}]', "in line 2, column 17."),
        ("layout", "[NaN]", "NaN is no number"),
        ("layout", '[{"name": "a", "type": "uint"}]', "field 'a'"),
        ("layout", "{}", "This is a list in square brackets"),
        ("layout", "7", "This is a list in square brackets"),
        ("layout", "[]", "a layout is a list of at least one field"),
        ("layout", "", "This field is required."),
        ("layout", r'[{"name": "a", "type": "enum", "values": ["\u0000"]}]', "a character that cannot be kept"),
        ("layout", "[" * 5000, "This is not JSON"),
        ("default_answer", '{"offer_id": 5000}', "The default answer does not fit the layout"),
        ("default_answer", "[1]", "The default answer is an object with the layout's fields."),
        ("default_answer", "{", "This is not JSON"),
        ("key_fields", "player_id\nmodel", "“model” has another meaning in requests"),
        ("unit_field", "country", "The unit field must be one of the key fields"),
        ("slug", "bad slug", "will not do as a short name"),
        ("slug", "taken", "The studio has a model “taken” already."),
        ("tenant", "", "This field is required."),
    ],
)
def test_new_model__a_value_will_not_do__is_said_next_to_it_and_nothing_typed_is_lost(
    field: str, value: str, words: str, signed_in: Client, studio: Tenant, new_model: dict[str, str]
) -> None:
    factories.ModelFactory.create(tenant=studio, slug="taken")
    typed = {**new_model, field: value}
    response = signed_in.post(reverse("admin:models_registry_recommendationmodel_add"), typed)
    errors = errors_of(response)
    assert list(errors) == [field]
    assert words in errors[field][0]
    form = response.context["adminform"].form
    assert {name: form[name].value() for name in typed} == typed
    assert not RecommendationModel.objects.for_tenant(studio).filter(slug="offers").exists()


def test_model__changed__by_the_services(signed_in: Client, studio: Tenant) -> None:
    model = factories.VersionFactory.create(model__tenant=studio).model
    url = reverse("admin:models_registry_recommendationmodel_change", args=[model.pk])
    page = signed_in.get(url)
    assert page.context["adminform"].form["row_count_change"].value() == 30.0
    limits = {"row_count_change": "12.5", "coverage": "80", "psi": "0.1"}
    data = {"name": "Renamed", "default_answer": "", "max_client_age_seconds": "5", **limits}
    assert signed_in.post(url, data).status_code == 302
    model.refresh_from_db()
    assert (model.name, model.default_answer, model.max_client_age_seconds) == ("Renamed", None, 5)
    assert (model.max_row_count_change, model.min_coverage, model.max_psi) == (0.125, 0.8, 0.1)
    assert actions(studio) == ["model.update", "model.set_default"]
    bad = signed_in.post(url, {**data, "default_answer": '{"offer_id": 1}'})
    assert "does not fit the layout" in errors_of(bad)["default_answer"][0]


def test_new_layout__begins_with_the_newest_and_is_the_next(signed_in: Client, studio: Tenant) -> None:
    layout = factories.LayoutFactory.create(model__tenant=studio, model__default_answer=None)
    url = reverse("admin:models_registry_layout_add")
    page = signed_in.get(f"{url}?model={layout.model.pk}").context["adminform"].form["layout"].value()
    assert json.loads(page) == factories.LAYOUT
    same = signed_in.post(url, {"model": layout.model.pk, "layout": page})
    assert same.context["adminform"].form.errors
    signed_in.post(url, {"model": layout.model.pk, "layout": json.dumps(factories.LAYOUT[:1])})
    newest = Layout.objects.for_tenant(studio).latest("revision")
    assert (newest.revision, newest.fields) == (1, factories.LAYOUT[:1])


def test_version__made_and_its_source_changed__by_the_services(signed_in: Client, studio: Tenant) -> None:
    layout = factories.LayoutFactory.create(model__tenant=studio)
    foreign = factories.LayoutFactory.create()
    add = reverse("admin:models_registry_version_add")
    data = {
        "model": layout.model.pk,
        "name": "2026-11-a",
        "layout": "",
        "source_kind": "parquet",
        "source_location": "/srv/tables/a.parquet",
    }
    for field, value, words in [
        ("source_location", "/etc/passwd", "This studio may not read /etc/passwd."),
        ("name", "no spaces please", "A version's name is 1 to 60 letters"),
        ("layout", foreign.pk, "The layout is another model's."),
    ]:
        errors = errors_of(signed_in.post(add, {**data, field: value}))
        assert list(errors) == [field]
        assert words in errors[field][0]
    assert signed_in.post(add, data).status_code == 302
    version = Version.objects.for_tenant(studio).get()
    assert (version.name, version.layout) == ("2026-11-a", layout)
    change = reverse("admin:models_registry_version_change", args=[version.pk])
    assert "/srv/tables/a.parquet" in signed_in.get(change).content.decode()
    signed_in.post(change, {"source_kind": "bigquery_table", "source_location": "analytics.recommendations.a"})
    source = Source.objects.for_tenant(studio).get()
    assert (source.kind, source.location) == ("bigquery_table", "analytics.recommendations.a")
    bad = signed_in.post(change, {"source_kind": "bigquery_table", "source_location": "other.place.a"})
    assert "This studio may not read the dataset other.place." in errors_of(bad)["source_location"][0]
    assert actions(studio) == ["version.create", "source.set"]


# --- Loads and tables -----------------------------------------------------------------------------------------------


def test_load_now__pressed__queues_a_load_and_leads_to_its_page(
    signed_in: Client,
    studio: Tenant,
    staff: User,
    celery_queue: Waiting,
    django_capture_on_commit_callbacks: Any,
) -> None:
    version = factories.SourceFactory.create(version__model__tenant=studio).version
    url = reverse("admin:models_registry_version_load_now", args=[version.pk])
    assert "/srv/tables/offers.parquet" in signed_in.get(url).content.decode()
    assert not Load.objects.for_tenant(studio).exists()
    with django_capture_on_commit_callbacks(execute=True):
        response = signed_in.post(url)
    load = Load.objects.for_tenant(studio).get()
    assert response["Location"] == reverse("admin:models_registry_load_change", args=[load.pk])
    assert load.requested_by == staff
    assert celery_queue() == [("loading.run", [load.pk])]
    assert "Queued" in signed_in.get(response["Location"]).content.decode()


def test_load_now__a_version_without_a_source__is_refused_in_words(signed_in: Client, studio: Tenant) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    response = signed_in.post(reverse("admin:models_registry_version_load_now", args=[version.pk]))
    assert said(response) == [f"The version “{version.name}” has no source yet."]
    assert not Load.objects.for_tenant(studio).exists()


def test_load_now__several_ticked__queues_each(signed_in: Client, studio: Tenant) -> None:
    first = factories.SourceFactory.create(version__model__tenant=studio).version
    second = factories.SourceFactory.create(version__model__tenant=studio).version
    without = factories.VersionFactory.create(model__tenant=studio)
    listed = reverse("admin:models_registry_version_changelist")
    data = {"action": "load_selected", "_selected_action": [first.pk, second.pk, without.pk]}
    response = signed_in.post(listed, data)
    assert response["Location"] == reverse("admin:models_registry_load_changelist")
    assert set(Load.objects.for_tenant(studio).values_list("version", flat=True)) == {first.pk, second.pk}
    assert f"{without.name}: The version “{without.name}” has no source yet." in said(response)


def test_activate_previous__pressed_twice__goes_back_and_forth(signed_in: Client, studio: Tenant) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    older = factories.TableFactory.create(load__version=version, row_count=90)
    newer = factories.TableFactory.create(load__version=version, row_count=100)
    Version.objects.unscoped().filter(pk=version.pk).update(active_table=newer, previous_table=older)
    url = reverse("admin:models_registry_version_activate_previous", args=[version.pk])
    asked = signed_in.get(url).content.decode()
    assert f"Load {older.load.fence}: 90 rows, read" in asked
    for expected in (older, newer):
        signed_in.post(url, {"reason": "bad prices"})
        version.refresh_from_db()
        assert version.active_table == expected
    entry = AuditEntry.objects.for_tenant(studio).first()
    assert entry is not None
    assert (entry.action, entry.reason) == ("table.roll_back", "bad prices")


def test_activate_previous__the_older_of_the_two_kept_is_chosen__it_is_served(
    signed_in: Client, studio: Tenant
) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    oldest, older, newest = factories.TableFactory.create_batch(3, load__version=version)
    kept = {"active_table": newest, "previous_table": older, "older_table": oldest}
    Version.objects.unscoped().filter(pk=version.pk).update(**kept)
    url = reverse("admin:models_registry_version_activate_previous", args=[version.pk])
    assert f'value="{oldest.table_id}" selected' in signed_in.get(f"{url}?table={oldest.table_id}").content.decode()
    signed_in.post(url, {"reason": "bad prices", "table": oldest.table_id})
    version.refresh_from_db()
    assert (version.active_table, version.previous_table, version.older_table) == (oldest, newest, older)


def test_activate_previous__nothing_to_go_back_to__is_said(signed_in: Client, studio: Tenant) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    url = reverse("admin:models_registry_version_activate_previous", args=[version.pk])
    assert "nothing to go back to" in signed_in.get(url).content.decode()
    assert "has no earlier table" in signed_in.post(url, {"reason": "x"}).content.decode()


# --- Testers --------------------------------------------------------------------------------------------------------


def test_override__set_and_removed__by_the_services(signed_in: Client, studio: Tenant) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    add = reverse("admin:models_registry_override_add")
    assert "unit" in errors_of(signed_in.post(add, {"unit": "", "version": version.pk, "note": ""}))
    signed_in.post(add, {"unit": "p-1", "version": version.pk, "note": "Mira's phone"})
    override = Override.objects.for_tenant(studio).get()
    assert (override.unit, override.version, override.model) == ("p-1", version, version.model)
    signed_in.post(reverse("admin:models_registry_override_delete", args=[override.pk]), {"post": "yes"})
    assert not Override.objects.for_tenant(studio).exists()
    assert actions(studio) == ["override.set", "override.remove"]


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
