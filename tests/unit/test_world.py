"""The world: a newer snapshot takes the place of an older one, and what that does to credentials and their tokens."""

from __future__ import annotations

import gc
import weakref

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from serving.formats import snapshot as published
from serving.formats.layouts import BadLayout, BadValue
from serving.formats.tokens import BadToken
from serving.prepared import BAD_TOKENS_PER_SECOND
from serving.world import Outdated, OverLimit, World
from tests.serving_world import (
    AUDIENCE,
    MASTER_KEYS,
    NOW,
    VARIABLE,
    credential,
    model,
    signer,
    snapshot,
    studio_token,
    tenant,
    token,
    version,
    world,
)

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"e" * 32)
OTHER_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32)
NEWEST = published.AcceptedKey(2, "mk1")


def accepts(served: World, bearer: str, now: float = NOW) -> bool:
    try:
        served.caller(f"Bearer {bearer}", now)
    except BadToken:
        return False
    return True


def test_newer_snapshot__is_what_requests_see() -> None:
    served = world(tenant(model(salt="old")))
    served.put(snapshot(tenant(model(salt="new"), model(slug="more")), 2))
    assert served.tenants["t1"].models["offers"].salt == "new"
    assert served.tenants["t1"].models.keys() == {"offers", "more"}


@pytest.mark.parametrize("revision", [5, 4])
def test_older_snapshot__refused(revision: int) -> None:
    served = world()
    served.put(snapshot(tenant(model(salt="here")), 5))
    with pytest.raises(Outdated):
        served.put(snapshot(tenant(model(salt="late")), revision))
    assert served.tenants["t1"].models["offers"].salt == "here"


@pytest.mark.parametrize(
    "contradiction",
    [
        model(allocation=bytes(9_999)),
        model(allocation=bytes([1]) * 10_000),
        model(overrides={"tester": 9}),
        model(version(layout_revision=8)),
        model(default={"offer": 5000, "gift": False}),
        model(default={"nothing": 1}),
        model(layout=[{"name": "x", "type": "nonsense"}]),
        model(layout=[]),
    ],
)
def test_snapshot_that_contradicts_itself__refused_whole_and_the_one_before_goes_on(
    contradiction: published.Model,
) -> None:
    served = world(tenant(model(salt="here")))
    bad = tenant(model(slug="fine"), contradiction, credentials=(credential("cr_new"),))
    with pytest.raises((published.BadSnapshot, BadLayout, BadValue)):
        served.put(snapshot(bad, 2))
    assert served.tenants["t1"].models.keys() == {"offers"}
    assert accepts(served, token())
    assert not accepts(served, token("cr_new"))


@pytest.mark.parametrize("is_asked", [True, False])
def test_newer_snapshot__frees_the_one_before_at_once_even_if_tokens_of_a_credential_that_went_are_kept(
    is_asked: bool,
) -> None:
    gc.disable()
    try:
        served = world(tenant(model(), credentials=(credential(), credential("cr_b"))))
        assert accepts(served, token("cr_b"))
        records = served.tenants["t1"].models["offers"].versions[0].records
        if is_asked:
            records.text(records.layout.pack({"offer": 7, "gift": True}))
        old, whole = weakref.ref(records), weakref.ref(served)
        del records
        served.put(snapshot(tenant(model(layout=VARIABLE)), 2))
        assert old() is None
        del served
        assert whole() is None
    finally:
        gc.enable()


def test_public_key_that_is_none__refused_whole() -> None:
    served = world(tenant(model()))
    broken = msgspec.structs.replace(
        signer("cr_ed", "EdDSA", ed25519.Ed25519PrivateKey.generate()), public_key="-----BEGIN PUBLIC KEY-----\nnope"
    )
    with pytest.raises(published.BadSnapshot, match="cr_ed"):
        served.put(snapshot(tenant(credentials=(credential(), broken)), 2))
    assert accepts(served, token())
    assert served.tenants["t1"].revision == 1


def test_revoked_credential__its_tokens_stop_even_those_verified_before() -> None:
    served = world(tenant(credentials=(credential(), credential("cr_b"))))
    assert accepts(served, token())
    served.put(snapshot(tenant(credentials=(credential("cr_b"),)), 2))
    assert not accepts(served, token())
    assert accepts(served, token("cr_b"))


def test_tombstone__ends_every_credential_and_model() -> None:
    served = world(tenant(model()), tenant(tenant_id="t2", credentials=(credential("cr_two"),)))
    served.put(snapshot(tenant(credentials=(), is_ended=True), 2))
    assert not accepts(served, token())
    assert accepts(served, token("cr_two"))
    assert served.tenants["t1"].is_ended


def test_rotated_credential__both_secrets_until_the_chosen_hour() -> None:
    served = world(tenant())
    old, new = token(exp=NOW + 7200), token(generation=2, exp=NOW + 7200)
    assert (accepts(served, old), accepts(served, new)) == (True, False)
    both = credential(accepted=(NEWEST, published.AcceptedKey(1, "mk1", NOW + 3600)))
    served.put(snapshot(tenant(credentials=(both,)), 2))
    assert (accepts(served, old), accepts(served, new)) == (True, True)
    assert (accepts(served, old, NOW + 3599), accepts(served, new, NOW + 3599)) == (True, True)
    assert (accepts(served, old, NOW + 3600), accepts(served, new, NOW + 3600)) == (False, True)
    served.put(snapshot(tenant(credentials=(credential(accepted=(NEWEST,)),)), 3))
    assert (accepts(served, old), accepts(served, new)) == (False, True)


def test_unchanged_credential__keeps_its_verified_tokens_and_its_bucket() -> None:
    served = world(tenant(credentials=(credential(burst=5), credential("cr_b"))))
    caller = served.caller(f"Bearer {token()}", NOW)
    assert caller.credential.bucket.take(5, NOW) == 0
    served.put(snapshot(tenant(model(), credentials=(credential(burst=5), credential("cr_c"))), 2))
    again = served.caller(f"Bearer {token()}", NOW)
    assert again is caller
    assert again.credential.bucket.take(1, NOW) > 0


def test_changed_credential__its_tokens_are_verified_anew() -> None:
    served = world(tenant(model()))
    assert served.caller(f"Bearer {token()}", NOW).credential.models is None
    served.put(snapshot(tenant(model(), credentials=(credential(models=("other",)),)), 2))
    assert served.caller(f"Bearer {token()}", NOW).credential.models == frozenset({"other"})


def test_tenants_bucket__survives_a_snapshot_that_leaves_its_limit_alone() -> None:
    served = world(tenant(rate=1, burst=2))
    assert served.tenants["t1"].bucket.take(2, 0) == 0
    served.put(snapshot(tenant(model(), rate=1, burst=2), 2))
    assert served.tenants["t1"].bucket.take(1, 0) > 0
    served.put(snapshot(tenant(model(), rate=1, burst=3), 3))
    assert served.tenants["t1"].bucket.take(3, 0) == 0


def test_master_key_not_here_yet__only_its_own_tokens_are_refused() -> None:
    served = World({"mk1": MASTER_KEYS["mk1"]}, AUDIENCE)
    both = credential(accepted=(published.AcceptedKey(1, "mk2"), published.AcceptedKey(1, "mk1")))
    key = ed25519.Ed25519PrivateKey.generate()
    served.put(snapshot(tenant(credentials=(both, signer("cr_ed", "EdDSA", key)))))
    assert not accepts(served, token(master_key_id="mk2"))
    assert accepts(served, token(master_key_id="mk1"))
    assert accepts(served, studio_token("cr_ed", "EdDSA", key))


def test_credential_that_moves_to_another_kind__the_old_header_is_dead() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    served = world(tenant())
    assert accepts(served, token())
    served.put(snapshot(tenant(credentials=(signer("cr_one", "EdDSA", key),)), 2))
    assert not accepts(served, token())
    assert accepts(served, studio_token("cr_one", "EdDSA", key))


def test_verified_token__of_a_credential_over_its_limit__is_not_kept() -> None:
    served = world(tenant(credentials=(credential(burst=1, rate=1),)))
    first = served.caller(f"Bearer {token(sub='p1')}", NOW)
    first.credential.bucket.take(1, NOW)
    for number in range(50):
        assert accepts(served, token(sub=f"q{number}"))
    assert [*served._verified.callers] == [f"Bearer {token(sub='p1')}"]


def test_verified_token__that_names_hundreds_of_models__keeps_those_that_there_are() -> None:
    served = world(tenant(model(slug="offers"), model(slug="prices")))
    named = ["offers", "prices", "offers", *(f"m{number}" for number in range(300))]
    caller = served.caller(f"Bearer {token(models=named)}", NOW)
    assert caller.claims.models is not None
    assert sorted(caller.claims.models) == ["offers", "prices"]


def test_verified_token__that_names_a_model_made_later__may_ask_for_it_within_a_minute() -> None:
    served = world(tenant(model(slug="offers")))
    bearer = f"Bearer {token(models=['offers', 'later'])}"
    assert served.caller(bearer, NOW).claims.models == ("offers",)
    served.put(snapshot(tenant(model(slug="offers"), model(slug="later")), 2))
    models = served.caller(bearer, NOW + 60).claims.models
    assert models is not None
    assert sorted(models) == ["later", "offers"]


def test_revoked_credential__leaves_none_of_its_tokens_in_memory() -> None:
    served = world(tenant(credentials=(credential(), credential("cr_two"))))
    for number in range(5):
        assert accepts(served, token(sub=f"p{number}"))
    assert accepts(served, token("cr_two"))
    served.put(snapshot(tenant(credentials=(credential("cr_two"),)), 2))
    assert [*served._verified.callers] == [f"Bearer {token('cr_two')}"]


def test_unchanged_layout__keeps_what_was_worked_out_of_it() -> None:
    served = world(tenant(model(slug="offers"), model(slug="prices")))
    before = {slug: known.versions[0].records for slug, known in served.tenants["t1"].models.items()}
    served.put(snapshot(tenant(model(slug="offers", salt="new"), model(slug="prices", layout=VARIABLE)), 2))
    after = {slug: known.versions[0].records for slug, known in served.tenants["t1"].models.items()}
    assert after["offers"] is before["offers"]
    assert [field.name for field in after["prices"].layout.fields] == ["title", "items"]


# --- Tokens that a studio's own key should have signed ---------------------------------------------------------------


@pytest.fixture
def studios_own() -> World:
    return world(tenant(credentials=(signer("cr_ed", "EdDSA", KEY), signer("cr_es", "EdDSA", KEY), credential())))


def forged(number: int, kid: str = "cr_ed") -> str:
    return studio_token(kid, "EdDSA", OTHER_KEY, sub=f"p{number}")


def test_forged_tokens__beyond_a_number_a_second__are_not_verified_any_more(studios_own: World) -> None:
    kept = studio_token("cr_ed", "EdDSA", KEY, sub="kept")
    assert accepts(studios_own, kept)
    for number in range(BAD_TOKENS_PER_SECOND):
        assert not accepts(studios_own, forged(number))
    with pytest.raises(OverLimit) as over:
        studios_own.caller(f"Bearer {forged(-1)}", NOW)
    assert (over.value.tenant_id, over.value.reason) == ("t1", "bad_tokens")
    assert 0 < over.value.seconds <= 1
    # Who was verified before, and every other credential, goes on; and so does this one a moment later.
    assert accepts(studios_own, kept)
    assert accepts(studios_own, token())
    assert accepts(studios_own, studio_token("cr_es", "EdDSA", KEY))
    assert accepts(studios_own, studio_token("cr_ed", "EdDSA", KEY, sub="new"), NOW + 1)


def test_forged_token__sent_again__is_refused_without_another_look(
    studios_own: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = []
    for _ in range(BAD_TOKENS_PER_SECOND + 9):
        with pytest.raises(BadToken) as refused:
            studios_own.caller(f"Bearer {forged(1)}", NOW)
        refusals.append(refused.value.reason)
    assert set(refusals) == {"signature"}
    monkeypatch.setattr("serving.world.MAX_REFUSED_TOKENS", 4)
    for number in range(20):
        assert not accepts(studios_own, forged(number))
    assert len(studios_own._refused) <= 4


def test_refused_token__once_the_studio_registers_its_key__is_accepted(studios_own: World) -> None:
    assert not accepts(studios_own, forged(1))
    other = tenant(credentials=(signer("cr_ed", "EdDSA", OTHER_KEY),))
    studios_own.put(snapshot(other, 2))
    assert accepts(studios_own, forged(1))


@pytest.mark.parametrize(("of_credential", "of_tenant", "reason"), [(1, 9, "credential"), (9, 1, "tenant")])
def test_new_token__of_a_studio_over_its_limit__is_not_verified(
    of_credential: int, of_tenant: int, reason: str
) -> None:
    own = msgspec.structs.replace(signer("cr_ed", "EdDSA", KEY), requests_per_second=1, burst=of_credential)
    served = world(tenant(credentials=(own,), rate=1, burst=of_tenant))
    served.tenants["t1"].bucket.take(of_tenant - (reason == "credential"), NOW)
    served.tenants["t1"].credentials["cr_ed"].bucket.take(of_credential - (reason == "tenant"), NOW)
    with pytest.raises(OverLimit) as over:
        served.caller(f"Bearer {studio_token('cr_ed', 'EdDSA', KEY)}", NOW)
    assert over.value.reason == reason


def test_bad_tokens__are_not_kept() -> None:
    served = world(tenant())
    for number in range(50):
        assert not accepts(served, token()[:-4] + f"{number:04d}")
    assert served._verified.callers == {}
