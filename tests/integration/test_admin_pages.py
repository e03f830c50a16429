"""Every page of the admin: who may see it, that it can be seen, what it asks the database for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessLog
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from pytest_django.fixtures import DjangoAssertNumQueries

from models_registry.models import LoadState, Version
from recsite.staff.pages import change_url
from tenants.models import User
from tests import factories
from tests.routes import routes

pytestmark = pytest.mark.django_db

# Tables whose rows are a studio's: looked at here, changed in the dashboard.
STUDIOS_OWN = {
    *("credential", "automationtoken", "auditentry", "recommendationmodel", "layout", "version", "source", "schedule"),
    *("load", "loadrange", "table", "rolloutrevision", "override"),
}
READ_ONLY = STUDIOS_OWN | {"periodictask", "accessattempt", "accesslog"}
ADDED = {"tenant", "user", "membership"}
DELETED = {"membership"}
# Pages of ours: what they show on a GET to somebody who may see them.
OWN_PAGES = {
    "tenants_tenant_end": 200,
    "tenants_user_change_password": 302,
    "auth_user_password_change": 200,
    # Django's and Unfold's own.
    "index": 200,
    "search": 200,
    "password_change": 200,
    "password_change_done": 200,
    "autocomplete": 403,
    "jsi18n": 200,
    "view_on_site": 404,
    "app_list": 200,
}
FOR_EVERYBODY = {"login", "logout"}


# Every named route of the admin with the arguments it wants.
ARGUMENTS = {route.name: list(route.pattern.regex.groupindex) for _, route in routes(admin.site.urls[0]) if route.name}
ROUTES = sorted(ARGUMENTS)


@pytest.fixture
def staff(db: None) -> User:
    return factories.UserFactory.create(username="staff", is_staff=True)


@pytest.fixture
def rows() -> dict[str, Model]:
    """Return one row of every table in the admin, by the table's name."""
    return make_rows(1)


def make_rows(number: int) -> dict[str, Model]:
    made: dict[str, Model] = {}
    every_15_s = IntervalSchedule.objects.create(every=15, period="seconds")
    for index in range(number):
        version = factories.VersionFactory.create()
        model, tenant = version.model, version.model.tenant
        older = factories.TableFactory.create(load__version=version)
        table = factories.TableFactory.create(load__version=version, size_bytes=150)
        Version.objects.unscoped().filter(pk=version.pk).update(active_table=table, previous_table=older)
        rejected = factories.LoadFactory.create(
            version=version,
            state=LoadState.REJECTED,
            started_at=factories.SOME_TIME,
            problem="Column offer_id, row 2 (key p-2): a value is required.",
            report={
                "checks": [
                    {
                        "name": "offer_id: no nulls",
                        "passed": False,
                        "count": 1,
                        "words": "column offer_id, row 2 (key p-2): a value is required",
                        "samples": [{"row": 2, "key": "p-2", "value": "null"}],
                    },
                    {"name": "rows", "passed": True, "count": 0, "words": "10 rows", "samples": []},
                ],
                "notes": ["Left out, because neither key nor layout has them: note."],
                "stages": [{"name": "extract", "seconds": 1.5, "rows": 10, "rows_per_second": 7}],
            },
        )
        credential = factories.CredentialFactory.create(tenant=tenant)
        model.credentials.add(credential)
        made = {
            "tenant": tenant,
            "user": factories.UserFactory.create(),
            "membership": factories.MembershipFactory.create(tenant=tenant),
            "credential": credential,
            "automationtoken": factories.AutomationTokenFactory.create(tenant=tenant),
            "auditentry": factories.AuditEntryFactory.create(tenant=tenant, before={"name": "a"}, after={"name": "b"}),
            "recommendationmodel": model,
            "layout": version.layout,
            "version": version,
            "source": factories.SourceFactory.create(version=version),
            "schedule": factories.ScheduleFactory.create(version=version),
            "load": rejected,
            "loadrange": factories.LoadRangeFactory.create(load__version=version),
            "table": table,
            "rolloutrevision": factories.RolloutRevisionFactory.create(model=model),
            "override": factories.OverrideFactory.create(version=version),
            "periodictask": PeriodicTask.objects.create(name=f"task {index}", task="a.b", interval=every_15_s),
            "accessattempt": AccessAttempt.objects.create(
                username=f"x{index}", ip_address="127.0.0.1", user_agent="u", failures_since_start=9
            ),
            "accesslog": AccessLog.objects.create(username="x", ip_address="127.0.0.1", user_agent="u"),
        }
    return made


def address(name: str, rows: dict[str, Model]) -> str:
    values: dict[str, Any] = {}
    for argument in ARGUMENTS[name]:
        if argument == "object_id":
            table = next((t for t in rows if f"_{t}_" in name), None)
            values[argument] = rows[table].pk if table else 1
        else:
            values[argument] = {
                "app_label": "tenants",
                "id": rows["user"].pk,
                "content_type_id": 99_999,
                "url": "x",
            }[argument]
    return reverse(f"admin:{name}", kwargs=values)


def expected_status(name: str) -> int:
    """Return the status a GET by staff has. A route that nobody thought of is a KeyError."""
    if name in OWN_PAGES:
        return OWN_PAGES[name]
    _, table, view = name.rsplit("_", 2)
    assert table in READ_ONLY | ADDED, f"{name}: a table that this test does not know"
    return {
        "changelist": 200,
        "change": 200,
        "history": 302,
        "add": 200 if table in ADDED else 403,
        "delete": 200 if table in DELETED else 403,
    }[view]


GUARDED = sorted(set(ROUTES) - FOR_EVERYBODY)


def test_list__asked_about_what_it_does_not_show__refuses(client: Client, staff: User) -> None:
    client.force_login(staff)
    make_rows(1)
    for table, column in (
        ("tenants_credential", "secret_hash__startswith"),
        ("tenants_credential", "secret_hash"),
        ("tenants_credential", "previous_secret_hash__gte"),
        ("tenants_credential", "tenant__automation_tokens__token_hash__startswith"),
        ("tenants_automationtoken", "token_hash__startswith"),
        ("tenants_automationtoken", "token_hash__regex"),
        ("tenants_automationtoken", "created_by__password__startswith"),
        ("tenants_membership", "user__password__startswith"),
        ("tenants_user", "password__startswith"),
        ("tenants_user", "last_login__gte"),
        ("axes_accesslog", "session_hash__startswith"),
    ):
        response = client.get(reverse(f"admin:{table}_changelist"), {column: "a"})
        assert response.status_code == 400, column


def test_list__narrowed_by_any_of_its_filters__is_shown(client: Client, staff: User) -> None:
    client.force_login(staff)
    make_rows(1)
    offered = 0
    for name in (name for name in ROUTES if name.endswith("_changelist")):
        url = reverse(f"admin:{name}")
        changes = client.get(url).context["cl"]
        for spec in changes.filter_specs:
            for parameter in spec.expected_parameters():
                if "__isnull" not in parameter:
                    assert client.get(url, {parameter: "1"}).status_code == 200, (name, parameter)
                    offered += 1
    assert offered > 20
    users = reverse("admin:tenants_user_changelist")
    assert client.get(users, {"username__startswith": "s"}).status_code == 200


def test_admin_pages__staff__see_them(rows: dict[str, Model], staff: User, client: Client) -> None:
    client.force_login(staff)
    statuses = {name: client.get(address(name, rows)).status_code for name in GUARDED}
    assert statuses == {name: expected_status(name) for name in GUARDED}


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("is_signed_in", [True, False])
def test_admin_pages__a_studios_admin_or_nobody__are_sent_to_sign_in(
    method: str,
    is_signed_in: bool,
    rows: dict[str, Model],
    owner: User,
    client: Client,
) -> None:
    if is_signed_in:
        client.force_login(owner)
    login = reverse("admin:login")
    for name in GUARDED:
        response = getattr(client, method)(address(name, rows))
        assert (name, response.status_code) == (name, 302)
        assert response["Location"].startswith(login)


def test_admin_pages__post_without_a_csrf_token__is_refused(rows: dict[str, Model], staff: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(staff)
    for name in GUARDED:
        response = client.post(address(name, rows), {"action": "load_selected", "_selected_action": "1"})
        assert (name, response.status_code) == (name, 403)
        assert b"This form is out of date" in response.content


def test_admin_pages__a_row_that_does_not_exist__is_no_error(
    rows: dict[str, Model], staff: User, client: Client
) -> None:
    client.force_login(staff)
    for name in (n for n in GUARDED if "object_id" in ARGUMENTS[n]):
        for pk in ("999999", "nonsense"):
            elsewhere = {table: type(row)(pk=pk) for table, row in rows.items()}
            # Django's own pages lead to the first page with a message, ours are missing; deleting may be forbidden.
            assert (name, client.get(address(name, elsewhere)).status_code in {302, 403, 404}) == (name, True)


def test_admin_lists__fifty_rows__take_a_dozen_queries(
    staff: User, client: Client, django_assert_max_num_queries: DjangoAssertNumQueries, subtests: pytest.Subtests
) -> None:
    make_rows(50)
    client.force_login(staff)
    for table in sorted(READ_ONLY | ADDED):
        name = next(n for n in ROUTES if n.endswith(f"_{table}_changelist"))
        with subtests.test(table=table), django_assert_max_num_queries(12):
            response = client.get(reverse(f"admin:{name}"))
            assert response.context["cl"].result_count >= 50


@pytest.mark.parametrize("table", sorted(READ_ONLY | ADDED))
def test_admin_list__searched_and_filtered__finds(
    table: str, rows: dict[str, Model], staff: User, client: Client
) -> None:
    client.force_login(staff)
    url = reverse(f"admin:{next(n for n in ROUTES if n.endswith(f'_{table}_changelist'))}")
    tenant, model = rows["tenant"].pk, rows["recommendationmodel"].pk
    assert client.get(url, {"q": "no such thing anywhere"}).context["cl"].result_count == 0
    listed = client.get(url).context["cl"]
    names = {spec.parameter_name for spec in listed.filter_specs if hasattr(spec, "parameter_name")}
    for parameter, chosen in {"studio": tenant, "model": model}.items():
        if parameter in names:
            found = client.get(url, {parameter: chosen}).context["cl"].result_count
            assert found >= 1
            assert client.get(url, {parameter: 999_999}).context["cl"].result_count == 0
            assert client.get(url, {parameter: "x"}).status_code in {200, 302}


def test_admin_overview__fifty_of_everything__takes_few_queries(
    staff: User, client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    make_rows(50)
    client.force_login(staff)
    with django_assert_max_num_queries(14):
        response = client.get(reverse("admin:index"))
    tiles = {tile["label"]: tile["value"] for tile in response.context["tiles"]}
    assert tiles["Models served"] == "50 of 50"
    assert tiles["Failed or rejected in 24 h"] == 0


def test_admin_overview__nothing_yet__leads_to_the_first_studio(staff: User, client: Client) -> None:
    client.force_login(staff)
    response = client.get(reverse("admin:index"))
    assert reverse("admin:tenants_tenant_add") in response.content.decode()


def test_admin_overview__a_version_with_players_and_no_rows__is_named(staff: User, client: Client) -> None:
    version = factories.VersionFactory.create()
    factories.RolloutRevisionFactory.create(model=version.model)
    client.force_login(staff)
    attention = client.get(reverse("admin:index")).context["attention"]
    assert [(line["version"], line["words"], line["weight_bp"]) for line in attention] == [
        (version, "not loaded", 10_000)
    ]


def test_content_security_policy__the_admin_and_any_other_path__only_the_admin_may_evaluate(
    staff: User, client: Client
) -> None:
    client.force_login(staff)
    in_admin = client.get(reverse("admin:index"))["Content-Security-Policy"]
    elsewhere = client.get("/nowhere")["Content-Security-Policy"]
    assert "'unsafe-eval'" in in_admin
    assert "script-src 'self' 'unsafe-eval'" in in_admin.replace("; ", ";").split(";")
    assert "unsafe" not in elsewhere


def test_history__any_row__leads_to_the_audit_trail_of_it(rows: dict[str, Model], staff: User, client: Client) -> None:
    client.force_login(staff)
    response = client.get(reverse("admin:tenants_tenant_history", args=[rows["tenant"].pk]))
    assert response["Location"].startswith(reverse("admin:tenants_auditentry_changelist"))
    factories.AuditEntryFactory.create(subject=f"studio {rows['tenant'].slug}", summary="Here it is.")  # type: ignore[attr-defined]  # a Tenant
    assert "Here it is." in client.get(response["Location"]).content.decode()


def test_new_member__ended_studios__are_left_out(staff: User, client: Client) -> None:
    factories.TenantFactory.create(name="Aurora")
    factories.TenantFactory.create(name="Borealis", ended_at=factories.SOME_TIME)
    client.force_login(staff)
    form = client.get(reverse("admin:tenants_membership_add")).context["adminform"].form
    choices = [label for _, label in form.fields["tenant"].choices]
    assert "Aurora" in choices
    assert "Borealis" not in choices


def test_studio_page__one_that_has_ended__does_not_offer_to_end_it(
    rows: dict[str, Model], staff: User, client: Client
) -> None:
    client.force_login(staff)
    url = reverse("admin:tenants_tenant_change", args=[rows["tenant"].pk])

    def offered() -> list[str]:
        return [action["path"].rstrip("/").rpartition("/")[2] for action in client.get(url).context["actions_detail"]]

    assert offered() == ["end"]
    rows["tenant"].ended_at = factories.SOME_TIME  # type: ignore[attr-defined]  # a Tenant
    rows["tenant"].save()
    assert offered() == []


# --- What is a studio's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_ended", [False, True])
@pytest.mark.parametrize("table", sorted(STUDIOS_OWN))
def test_page_of_a_studios_row__shows_it_and_leads_to_the_dashboard(
    table: str, is_ended: bool, rows: dict[str, Model], staff: User, client: Client
) -> None:
    if is_ended:
        rows["tenant"].ended_at = factories.SOME_TIME  # type: ignore[attr-defined]  # a Tenant
        rows["tenant"].save()
    client.force_login(staff)
    response = client.get(change_url(rows[table]))
    assert response.status_code == 200
    page = response.content.decode()
    found = re.search(r'href="(/studios/[^"]+)"[^>]*>\s*Open in the dashboard', page)
    assert found
    dashboard = client.get(found[1])
    assert dashboard.status_code == 200
    assert str(rows["tenant"]) in dashboard.content.decode()


def test_page_of_a_table__names_it_by_its_id_and_says_when_in_utc(
    rows: dict[str, Model], staff: User, client: Client
) -> None:
    client.force_login(staff)
    table = rows["table"]
    page = client.get(change_url(table)).content.decode()
    header = page.partition("chevron_right")[2].partition("Open in the dashboard")[0]
    assert re.search(rf">\s*{table.table_id}\s*<", header)  # type: ignore[attr-defined]  # a Table
    assert f"{table.created_at:%Y-%m-%d %H:%M:%S} UTC" in page  # type: ignore[attr-defined]  # a Table


def test_page_of_an_audit_entry__leads_to_what_the_trail_has_about_the_same_thing(staff: User, client: Client) -> None:
    entry = factories.AuditEntryFactory.create(subject="model offers", summary="Here it is.")
    factories.AuditEntryFactory.create(tenant=entry.tenant, subject="model other", summary="Not this.")
    client.force_login(staff)
    page = client.get(change_url(entry)).content.decode()
    found = re.search(r'href="(/studios/[^"]+about=[^"]+)"', page)
    assert found
    trail = client.get(found[1]).content.decode()
    assert "Here it is." in trail
    assert "Not this." not in trail


@pytest.mark.parametrize("table", sorted(STUDIOS_OWN))
def test_page_of_a_studios_row__offers_no_change_and_takes_none(
    table: str, rows: dict[str, Model], staff: User, client: Client
) -> None:
    client.force_login(staff)
    staff.is_superuser = True
    staff.save()
    row = rows[table]
    before = list(type(row).objects.unscoped().order_by("pk").values())  # type: ignore[attr-defined]  # TenantOwned
    url = change_url(row)
    base = url.removesuffix(f"{row.pk}/change/")
    for address in (base, url):
        response = client.get(address)
        page = response.content.decode()
        assert f"{base}add/" not in page
        assert f"{base}{row.pk}/delete/" not in page
        assert 'name="_save"' not in page
        assert 'name="_selected_action"' not in page
        assert not response.context.get("actions_detail")
        assert not response.context.get("actions_list")
    values = {field.name: "1" for field in row._meta.fields}
    for address in (url, f"{base}add/", f"{base}{row.pk}/delete/"):
        assert client.post(address, {**values, "post": "yes", "_save": "1"}).status_code == 403
    ticked = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    client.post(base, ticked)
    assert list(type(row).objects.unscoped().order_by("pk").values()) == before  # type: ignore[attr-defined]  # TenantOwned


def test_page_of_a_studios_row__no_act_has_an_address() -> None:
    acts = {
        name
        for name in ROUTES
        for table in STUDIOS_OWN
        if f"_{table}_" in name and name.rpartition("_")[2] not in {"changelist", "change", "history", "add", "delete"}
    }
    assert acts == set()


def test_pages_of_credentials__what_a_secret_is_kept_as__is_shown_nowhere(staff: User, client: Client) -> None:
    credential = factories.CredentialFactory.create(previous_secret_hash="f" * 64, previous_until=factories.SOME_TIME)
    token = factories.AutomationTokenFactory.create()
    client.force_login(staff)
    for row in (credential, token):
        url = change_url(row)
        for address in (url, url.removesuffix(f"{row.pk}/change/")):
            page = client.get(address).content.decode()
            for kept in (credential.secret_hash, credential.previous_secret_hash, token.token_hash):
                assert kept not in page
