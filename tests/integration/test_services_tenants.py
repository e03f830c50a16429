from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from tenants import audit
from tenants.access import NotAllowed, NotAMember, may, require, role_of
from tenants.models import AuditEntry, Membership, Role, Tenant, User
from tenants.rules import RuleBroken
from tenants.services import LastAdmin, NobodyToAdd, member_remove, member_set, tenant_create, tenant_end, tenant_update
from tenants.signals import tenant_changed
from tests.factories import MembershipFactory, TenantFactory, UserFactory

pytestmark = pytest.mark.django_db


def trail(tenant: Tenant) -> list[AuditEntry]:
    return list(AuditEntry.objects.for_tenant(tenant).order_by("pk"))


# --- Studios --------------------------------------------------------------------------------------------------------


def test_tenant_create__with_confinement__keeps_it_and_leaves_an_entry(owner: User) -> None:
    tenant = tenant_create(slug="lark", name=" Lark Games ", actor=owner, allowed_gs_prefixes=["gs://lark/out/"])
    tenant.refresh_from_db()
    assert (tenant.name, tenant.allowed_gs_prefixes, tenant.allowed_datasets) == ("Lark Games", ["gs://lark/out/"], [])
    [entry] = trail(tenant)
    assert (entry.action, entry.actor, entry.actor_name) == ("tenant.create", owner, owner.username)
    assert entry.after is not None
    assert entry.after["allowed_gs_prefixes"] == ["gs://lark/out/"]


def test_tenant_create__without_a_person__is_the_systems() -> None:
    [entry] = trail(tenant_create(slug="lark", name="Lark", actor=None))
    assert (entry.actor, entry.actor_name) == (None, "system")


def test_tenant_create__slug_taken__is_refused_and_leaves_nothing() -> None:
    tenant_create(slug="lark", name="Lark", actor=None)
    with pytest.raises(RuleBroken, match="already") as refused:
        tenant_create(slug="lark", name="Other", actor=None)
    assert refused.value.field == "slug"
    assert AuditEntry.objects.unscoped().count() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "two words"),
        ("slug", ""),
        ("slug", "s" * 51),
        ("name", "  "),
        ("name", "line\nbreak"),
        ("allowed_datasets", ["dataset-without-project"]),
        ("allowed_datasets", ["project.data*"]),
        ("allowed_datasets", "project.dataset"),
        ("allowed_gs_prefixes", ["gs://bucket/studio"]),
        ("allowed_gs_prefixes", ["gs:///studio/"]),
        ("allowed_gs_prefixes", ["gs://bucket/../other/"]),
        ("allowed_gs_prefixes", ["gs://bucket/*/"]),
        ("allowed_gs_prefixes", ["s3://bucket/studio/"]),
        ("allowed_local_roots", ["/"]),
        ("allowed_local_roots", ["relative/folder"]),
        ("allowed_local_roots", ["/srv/../etc"]),
    ],
)
def test_tenant_create__value_that_will_not_do__is_refused_by_name(field: str, value: Any) -> None:
    values = {"slug": "lark", "name": "Lark", field: value}
    with pytest.raises(RuleBroken) as refused:
        tenant_create(actor=None, **values)
    assert refused.value.field == field
    assert not Tenant.objects.exists()


def test_tenant_update__some_values__changes_those_and_says_before_and_after(studio: Tenant, owner: User) -> None:
    tenant_update(tenant=studio, actor=owner, burst=5, requests_per_second=studio.requests_per_second)
    studio.refresh_from_db()
    assert studio.burst == 5
    entry = trail(studio)[-1]
    assert (entry.before, entry.after) == ({"burst": 100_000}, {"burst": 5})


def test_tenant_update__nothing_different__leaves_no_entry(studio: Tenant) -> None:
    tenant_update(tenant=studio, actor=None, name=studio.name)
    assert trail(studio) == []


@pytest.mark.parametrize("value", [0, -1, 1_000_001, True, 1.5])
def test_tenant_update__limit_out_of_bounds__is_refused(studio: Tenant, value: Any) -> None:
    with pytest.raises(RuleBroken):
        tenant_update(tenant=studio, actor=None, burst=value)


def test_tenant_end__with_a_reason__stops_every_other_change(studio: Tenant, owner: User) -> None:
    tenant_end(tenant=studio, actor=owner, reason="contract over")
    assert trail(studio)[-1].reason == "contract over"
    for change in (
        lambda: tenant_update(tenant=studio, actor=owner, name="Other"),
        lambda: member_set(tenant=studio, user=owner, role=Role.VIEWER, actor=owner),
        lambda: tenant_end(tenant=studio, actor=owner, reason="again"),
    ):
        with pytest.raises(RuleBroken, match="has ended"):
            change()


def test_tenant_end__without_a_reason__is_refused(studio: Tenant) -> None:
    with pytest.raises(RuleBroken, match="reason"):
        tenant_end(tenant=studio, actor=None, reason=" \n ")
    studio.refresh_from_db()
    assert studio.ended_at is None


# --- People ---------------------------------------------------------------------------------------------------------


def test_member_set__new_then_other_role__keeps_one_membership_and_both_entries(studio: Tenant, owner: User) -> None:
    person = UserFactory.create(made_for=studio)
    member_set(tenant=studio, user=person, role=Role.VIEWER, actor=owner)
    member_set(tenant=studio, user=person, role=Role.PRODUCT_MANAGER, actor=owner)
    member_set(tenant=studio, user=person, role=Role.PRODUCT_MANAGER, actor=owner)
    [membership] = Membership.objects.for_tenant(studio).filter(user=person)
    assert membership.role == Role.PRODUCT_MANAGER
    assert [(entry.before, entry.after) for entry in trail(studio)] == [
        (None, {"role": "viewer"}),
        ({"role": "viewer"}, {"role": "product_manager"}),
    ]


def test_member_set__unknown_role__is_refused(studio: Tenant, owner: User) -> None:
    with pytest.raises(RuleBroken):
        member_set(tenant=studio, user=owner, role="emperor", actor=owner)


def test_member_changes__the_last_admin__stays(studio: Tenant, owner: User, teammate: User) -> None:
    with pytest.raises(LastAdmin):
        member_remove(tenant=studio, user=owner, actor=owner)
    with pytest.raises(LastAdmin):
        member_set(tenant=studio, user=owner, role=Role.VIEWER, actor=owner)
    member_set(tenant=studio, user=teammate, role=Role.STUDIO_ADMIN, actor=owner)
    member_remove(tenant=studio, user=owner, actor=teammate)
    assert role_of(owner, studio) is None


@pytest.mark.parametrize(
    "who", ["nobody's", "another studio's", "a member elsewhere", "staff", "staff again", "gone on"]
)
def test_member_set__somebody_elses_account__only_platform_staff_add(who: str, studio: Tenant, owner: User) -> None:
    other = TenantFactory.create()
    staff = UserFactory.create(is_staff=True)
    person = UserFactory.create(
        is_staff=who in ("staff", "staff again"), made_for=other if who == "another studio's" else None
    )
    if who == "a member elsewhere":
        MembershipFactory.create(tenant=other, user=person)
    elif who in ("staff again", "gone on"):
        member_set(tenant=studio, user=person, role=Role.VIEWER, actor=staff)
        member_remove(tenant=studio, user=person, actor=owner)
        if who == "gone on":
            MembershipFactory.create(tenant=other, user=person)
    for actor in (owner, None):
        with pytest.raises(NobodyToAdd):
            member_set(tenant=studio, user=person, role=Role.VIEWER, actor=actor)
    assert member_set(tenant=studio, user=person, role=Role.VIEWER, actor=staff).membership.role == Role.VIEWER
    assert member_set(tenant=studio, user=person, role=Role.PRODUCT_MANAGER, actor=owner).membership.user == person


def test_member_set__a_member_of_before__comes_back_to_this_studio_only(studio: Tenant, owner: User) -> None:
    person = UserFactory.create()
    member_set(tenant=studio, user=person, role=Role.VIEWER, actor=UserFactory.create(is_staff=True))
    member_remove(tenant=studio, user=person, actor=owner)
    with pytest.raises(NobodyToAdd):
        member_set(tenant=TenantFactory.create(), user=person, role=Role.VIEWER, actor=owner)
    assert member_set(tenant=studio, user=person, role=Role.VIEWER, actor=owner).membership.user == person


def test_member_remove__a_stranger__is_refused(studio: Tenant, owner: User, stranger: User) -> None:
    with pytest.raises(RuleBroken, match="not a member"):
        member_remove(tenant=studio, user=stranger, actor=owner)


# --- Access ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "reaches"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.PRODUCT_MANAGER, {Role.VIEWER, Role.PRODUCT_MANAGER}),
        (Role.STUDIO_ADMIN, {Role.VIEWER, Role.PRODUCT_MANAGER, Role.STUDIO_ADMIN}),
    ],
)
def test_may__each_role__reaches_itself_and_those_below(studio: Tenant, role: Role, reaches: set[Role]) -> None:
    person = MembershipFactory.create(tenant=studio, role=role).user
    assert {wanted for wanted in Role if may(person, studio, wanted)} == reaches


def test_require__member_with_too_little__is_not_allowed_and_told_why(studio: Tenant, teammate: User) -> None:
    with pytest.raises(NotAllowed, match="Studio admin") as refused:
        require(teammate, studio, Role.STUDIO_ADMIN)
    assert not isinstance(refused.value, NotAMember)


def test_require__stranger__is_no_member(studio: Tenant, stranger: User) -> None:
    with pytest.raises(NotAMember):
        require(stranger, studio, Role.VIEWER)


def test_role_of__staff__is_admin_everywhere_until_switched_off(studio: Tenant) -> None:
    staff = UserFactory.create(is_staff=True)
    assert role_of(staff, studio) == Role.STUDIO_ADMIN
    staff.is_active = False
    assert role_of(staff, studio) is None


def test_role_of__member_switched_off__is_none(studio: Tenant, owner: User) -> None:
    owner.is_active = False
    assert role_of(owner, studio) is None


# --- Audit and announcements ----------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_record__outside_a_transaction__is_refused() -> None:
    with pytest.raises(audit.NotInTransaction):
        audit.record(tenant=None, actor=None, action=audit.Action.MODEL_CREATE, subject="s", summary="s")


def test_record__long_texts__are_cut_to_their_columns(studio: Tenant) -> None:
    entry = audit.record(
        tenant=studio, actor=None, action=audit.Action.MODEL_CREATE, subject="s" * 300, summary="s" * 900
    )
    entry.refresh_from_db()
    assert (len(entry.subject), len(entry.summary)) == (200, 500)


@pytest.fixture
def announced() -> Any:
    heard: list[int] = []

    def hear(*, tenant_id: int, **_: Any) -> None:
        heard.append(tenant_id)

    tenant_changed.connect(hear)
    yield heard
    tenant_changed.disconnect(hear)


@pytest.mark.django_db(transaction=True)
def test_tenant_changed__committed__is_sent_after_commit_and_not_before(announced: list[int], valkey: object) -> None:
    with transaction.atomic():
        tenant = tenant_create(slug="lark", name="Lark", actor=None)
        assert announced == []
    assert announced == [tenant.pk]


@pytest.mark.django_db(transaction=True)
def test_tenant_changed__rolled_back__is_not_sent_and_leaves_no_entry(announced: list[int], valkey: object) -> None:
    def fail_later() -> None:
        with transaction.atomic():
            tenant_create(slug="lark", name="Lark", actor=None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_later()
    assert announced == []
    assert not AuditEntry.objects.unscoped().exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("valkey")
def test_tenant_changed__receiver_fails__the_change_stands_and_its_caller_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(**_: Any) -> None:
        raise ZeroDivisionError

    tenant_changed.connect(fail)
    try:
        tenant = tenant_create(slug="lark", name="Lark", actor=None)
    finally:
        tenant_changed.disconnect(fail)
    assert Tenant.objects.get().pk == tenant.pk
    assert "ZeroDivisionError" in caplog.text


def test_lock__value_changed_meanwhile__is_read_anew(studio: Tenant) -> None:
    other = Tenant.objects.get(pk=studio.pk)
    tenant_update(tenant=other, actor=None, burst=7)
    tenant_update(tenant=studio, actor=None, name="New name")
    assert studio.burst == 7


def test_audit__every_write_of_the_tenants_app__is_in_one_transaction_with_its_entry(
    studio: Tenant, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = UserFactory.create(made_for=studio)

    def full(*_: Any, **__: Any) -> AuditEntry:
        raise ZeroDivisionError("the trail can't be written")

    monkeypatch.setattr(audit, "record", full)
    changes: list[Callable[[], object]] = [
        lambda: tenant_create(slug="lark", name="Lark", actor=owner),
        lambda: tenant_update(tenant=studio, actor=owner, name="Other"),
        lambda: tenant_end(tenant=studio, actor=owner, reason="over"),
        lambda: member_set(tenant=studio, user=person, role=Role.VIEWER, actor=owner),
    ]
    for change in changes:
        with pytest.raises(ZeroDivisionError):
            change()
    studio.refresh_from_db()
    assert (studio.name, studio.ended_at) == (TenantFactory.build(slug=studio.slug).name, None)
    assert not Tenant.objects.filter(slug="lark").exists()
    assert role_of(person, studio) is None
