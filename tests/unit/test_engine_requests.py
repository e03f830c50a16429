"""The serving contract on the engine alone: who may ask for what, what may be asked, how often."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from serving.formats.keys import slot
from serving.http import BITS, JSON, UNAUTHORIZED, Response
from tests.serving_world import (
    ANA,
    DEFAULT,
    NOW,
    SETTINGS,
    SIGNING_KEY,
    Store,
    answer,
    aurora,
    credential,
    get,
    header,
    model,
    problem,
    signer,
    snapshot,
    studio_token,
    tenant,
    token,
    version,
    world,
)

# --- Who may ask for what -------------------------------------------------------------------------------------------


def sent(response: Response) -> tuple[int, str, bytes]:
    """Return all that a client gets."""
    return response.status, response.head, response.body


def test_no_token_or_a_bad_one__one_401_for_all() -> None:
    store = Store()
    served = aurora(store)
    for authorization in (None, "Bearer", "Bearer ", "Bearer x", "Basic YTpi", token(), "Bearer ☃", "Bearer \xff"):
        response = answer(get(authorization=authorization), served, store)
        assert sent(response) == sent(UNAUTHORIZED)
        assert [(tenant, status) for tenant, status, _ in response.errors] == [("", 401)]
    assert problem(UNAUTHORIZED) == (401, "unauthorized")
    assert header(UNAUTHORIZED, "www-authenticate") == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_bearer__however_it_is_spelled__accepted(scheme: str) -> None:
    store = Store()
    assert answer(get("player_id=ana", authorization=scheme + token()), aurora(store), store).status == 200


def test_model_not_in_token_other_tenants_or_unknown__the_same_404() -> None:
    store = Store()
    served = world(
        tenant(
            model(slug="offers"),
            model(slug="difficulty"),
            credentials=(credential(), credential("cr_narrow", models=("offers",))),
        ),
        tenant(model(slug="secret"), tenant_id="t2", slug="borealis", credentials=(credential("cr_two"),)),
    )
    asked = [
        get("model=difficulty", bearer=token(models=["offers"])),
        get("model=difficulty", bearer=token("cr_narrow")),
        get("model=secret"),
        get("model=nothing"),
        get("model="),
        get("", bearer=token(models=[])),
        get("", bearer=token("cr_narrow", models=["difficulty"])),
    ]
    responses = [answer(request, served, store) for request in asked]
    assert {problem(response) for response in responses} == {(404, "model_not_found")}
    assert len({(response.body, str(response.headers)) for response in responses}) == 1


def test_model_left_out__the_only_one_the_token_may_ask_for() -> None:
    store = Store()
    served = world(
        tenant(
            model(slug="offers", default=DEFAULT),
            model(slug="difficulty", default=DEFAULT),
            credentials=(credential(), credential("cr_narrow", models=("difficulty",))),
        )
    )
    asked = get("player_id=a", bearer=token(models=["offers"]))
    assert json.loads(answer(asked, served, store).body)["model"] == "offers"
    asked = get("player_id=a", bearer=token("cr_narrow"))
    assert json.loads(answer(asked, served, store).body)["model"] == "difficulty"
    assert problem(answer(get("player_id=a"), served, store)) == (400, "model_required")


def test_player_token__asks_for_its_own_player_alone() -> None:
    store = Store()
    served = aurora(store)
    ana = token(sub="ana")
    assert b'"offer":7' in answer(get(bearer=ana), served, store).body
    assert b'"offer":7' in answer(get("player_id=ana", bearer=ana), served, store).body
    assert problem(answer(get("player_id=ben", bearer=ana), served, store)) == (400, "bad_key")
    assert problem(answer(get("unit=ben", bearer=ana), served, store)) == (400, "bad_parameter")


def test_player_token__model_without_a_player__names_its_key_like_anybody() -> None:
    store = Store()
    served = world(
        tenant(
            model(
                version(store.write("t", {("DE", "7"): ANA})),
                key_fields=("country", "level_band"),
                unit_field=None,
            )
        )
    )
    asked = get("country=DE&level_band=7", bearer=token(sub="ana"))
    assert b'"offer":7' in answer(asked, served, store).body


def test_both_kinds_of_token__put_a_player_into_the_same_slot() -> None:
    store = Store()
    names = [f"p{n}" for n in range(60)]
    halves = bytes(number % 2 for number in range(10_000))
    served = world(
        tenant(
            model(version(name="a"), version(name="b", code=1), default=DEFAULT, allocation=halves),
        )
    )
    for name in names:
        mine = answer(get(bearer=token(sub=name)), served, store)
        theirs = answer(get({"player_id": name}), served, store)
        assert mine.body == theirs.body
        assert json.loads(mine.body)["version"] == "ab"[halves[slot("salt", name)]]


def test_unit__of_a_server_token__buckets_instead_of_the_key() -> None:
    store = Store()
    halves = bytes(number % 2 for number in range(10_000))
    served = world(tenant(model(version(name="a"), version(name="b", code=1), default=DEFAULT, allocation=halves)))
    for unit in ("x", "y", "z", "w"):
        response = answer(get({"player_id": "ana", "unit": unit}), served, store)
        assert json.loads(response.body)["version"] == "ab"[halves[slot("salt", unit)]]


def test_whole_key__is_the_unit_where_the_model_names_none() -> None:
    store = Store()
    halves = bytes(number % 2 for number in range(10_000))
    served = world(
        tenant(
            model(
                version(name="a"),
                version(name="b", code=1),
                key_fields=("country", "level_band"),
                unit_field=None,
                default=DEFAULT,
                allocation=halves,
            )
        )
    )
    for band in range(8):
        response = answer(get({"country": "DE", "level_band": str(band)}), served, store)
        assert json.loads(response.body)["version"] == "ab"[halves[slot("salt", f"DE\x1f{band}")]]


def test_override__wins_over_the_allocation() -> None:
    store = Store()
    served = world(
        tenant(model(version(name="a"), version(name="b", code=1), default=DEFAULT, overrides={"tester": 1}))
    )
    assert json.loads(answer(get("player_id=tester"), served, store).body)["version"] == "b"
    assert json.loads(answer(get("player_id=x&unit=tester"), served, store).body)["version"] == "b"
    assert json.loads(answer(get("player_id=x"), served, store).body)["version"] == "a"


# --- Bad keys, parameters, methods, formats -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "bad_key"),
        ("player_id=", "bad_key"),
        ("player_id", "bad_key"),
        ("player_id=a%1Fb", "bad_key"),
        ("player_id=%0A", "bad_key"),
        ("player_id=" + "x" * 257, "bad_key"),
        ("player_id=" + "%C3%A9" * 129, "bad_key"),
        ("player_id=%FF", "bad_parameter"),
        ("player_id=\xff", "bad_parameter"),
        ("player_id=%ED%A0%80", "bad_parameter"),
        ("player_id=a&player_id=a", "bad_parameter"),
        ("player_id=a&unit=", "bad_parameter"),
        ("player_id=a&unit=%00", "bad_parameter"),
        ("player_id=a&unit=" + "x" * 257, "bad_parameter"),
        ("player_id=a&color=red", "unknown_parameter"),
        ("player_id=a&=x", "unknown_parameter"),
    ],
)
def test_bad_key_or_parameters__400_with_a_code_and_a_sentence(query: str, code: str) -> None:
    store = Store()
    response = answer(get(query), aurora(store), store)
    assert problem(response) == (400, code)
    assert json.loads(response.body)["detail"].endswith(".")
    assert store.reads == []


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("player_id=%61na", "ana"),
        ("player%5Fid=ana", "ana"),
        ("player_id=a+b", "a b"),
        ("player_id=a%2Bb", "a+b"),
        ("player_id=a=b", "a=b"),
        ("&player_id=ana&", "ana"),
        ("player_id=" + "é".encode().decode("latin-1"), "é"),
        ("player_id=%C3%A9", "é"),
        ("player_id=100%", "100%"),
        ("player_id=" + "x" * 256, "x" * 256),
    ],
)
def test_query__however_it_is_escaped__names_the_key_that_is_meant(query: str, key: str) -> None:
    store = Store()
    served = world(tenant(model(version(store.write("t", {key: ANA})))))
    assert b'"offer":7' in answer(get(query), served, store).body


@given(query=st.text(st.characters(max_codepoint=255), max_size=60), sub=st.none() | st.text(max_size=5))
def test_any_query_at_all__an_answer_and_never_an_exception(query: str, sub: str | None) -> None:
    store = Store()
    bearer = token() if sub is None else token(sub=sub)
    response = answer(get(query, bearer=bearer), aurora(store, default=DEFAULT), store)
    assert response.status in {200, 400, 401, 404}


@given(accept=st.text(st.characters(max_codepoint=255), max_size=60), tag=st.text(max_size=20))
def test_any_headers_at_all__an_answer_and_never_an_exception(accept: str, tag: str) -> None:
    store = Store()
    response = answer(get("player_id=ana", accept=accept, if_none_match=tag), aurora(store), store)
    assert response.status in {200, 304, 406}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get"])
def test_other_methods__405_and_which_are_allowed(method: str) -> None:
    store = Store()
    response = answer(get("player_id=ana", method=method), aurora(store), store)
    assert problem(response) == (405, "method_not_allowed")
    assert header(response, "allow") == "GET, POST"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        ("application/json; charset=utf-8", JSON),
        (BITS, BITS),
        (BITS.upper(), BITS),
        (f"{BITS}, */*", BITS),
        (f"*/*, {BITS};q=0", JSON),
        (f"{JSON};q=0.4, {BITS};q=0.5", BITS),
        (f"{JSON};q=0.5, {BITS};q=0.4", JSON),
        (f"{JSON}, {BITS}", JSON),
        ("text/html, */*;q=0.1", JSON),
        ("text/html", None),
        (f"{JSON};q=0", None),
        (f"{JSON};q=2", None),
        (f"{JSON};q=x", None),
        (";", None),
    ],
)
def test_accept__says_json_bits_or_neither(accept: str | None, media: str | None) -> None:
    store = Store()
    response = answer(get("player_id=ana", accept=accept), aurora(store), store)
    if media is None:
        assert problem(response) == (406, "not_acceptable")
    else:
        assert (response.status, header(response, "content-type")) == (200, media)


# --- Limits ---------------------------------------------------------------------------------------------------------


def test_over_the_credentials_limit__429_and_when_to_come_back() -> None:
    store = Store()
    served = world(tenant(model(default=DEFAULT), credentials=(credential(rate=1, burst=3), credential("cr_free"))))
    statuses = [answer(get("player_id=a"), served, store).status for _ in range(3)]
    refused = answer(get("player_id=a"), served, store)
    assert statuses == [200, 200, 200]
    assert problem(refused) == (429, "rate_limited")
    assert header(refused, "retry-after") == "1"
    assert answer(get("player_id=a", bearer=token("cr_free")), served, store).status == 200
    assert answer(get("player_id=a"), served, store, now=NOW + 1).status == 200


def test_over_the_tenants_limit__every_credential_of_it_is_refused_and_none_is_charged() -> None:
    store = Store()
    served = world(
        tenant(model(default=DEFAULT), credentials=(credential(), credential("cr_b")), rate=1, burst=2),
        tenant(model(), tenant_id="t2", slug="borealis", credentials=(credential("cr_two"),)),
    )
    for bearer in (token(), token("cr_b")):
        assert answer(get("player_id=a", bearer=bearer), served, store).status == 200
    for bearer in (token(), token("cr_b")):
        assert answer(get("player_id=a", bearer=bearer), served, store).status == 429
    assert answer(get("player_id=a", bearer=token("cr_two")), served, store).status == 204


def test_limit__refused_requests_cost_nothing() -> None:
    store = Store()
    served = world(tenant(model(default=DEFAULT), credentials=(credential(rate=2, burst=2),)))
    statuses = [answer(get("player_id=a"), served, store, now=NOW + n / 100).status for n in range(100)]
    assert statuses.count(200) == 3  # two at first, and one after half a second


# --- A server that does not know enough -----------------------------------------------------------------------------


def test_empty_world__503_instead_of_a_401_that_would_be_wrong() -> None:
    store = Store()
    for authorization in (None, f"Bearer {token()}"):
        response = answer(get(authorization=authorization), world(), store)
        assert problem(response) == (503, "not_ready")
        assert header(response, "retry-after") is not None


def test_tenant_missing__a_credential_that_nobody_knows__503_as_it_may_be_one_of_the_missing() -> None:
    served = world(tenant(model(default=DEFAULT)))
    served.missing = frozenset({"t2"})
    response = answer(get("player_id=a", bearer=token("cr_elsewhere")), served, Store())
    assert problem(response) == (503, "not_ready")
    assert header(response, "retry-after") is not None
    for authorization in (None, "Bearer nonsense"):
        assert answer(get(authorization=authorization), served, Store()).status == 401
    assert answer(get("player_id=a"), served, Store()).status == 200


def test_world_that_is_known_to_be_empty__401() -> None:
    served = world()
    served.was_whole = True
    assert answer(get("player_id=a"), served, Store()).status == 401


def test_snapshot_older_than_the_maximum__closed_and_only_for_its_tenant() -> None:
    store = Store()
    served = world(tenant(model(default=DEFAULT)))
    limit = SETTINGS.snapshot_max_age_seconds
    bearer = token(iat=NOW + int(limit) - 10, exp=NOW + int(limit) + 10)
    assert answer(get("player_id=a", bearer=bearer), served, store, now=NOW + limit).status == 200
    response = answer(get("player_id=a", bearer=bearer), served, store, now=NOW + limit + 1)
    assert problem(response) == (503, "not_ready")


def test_tenant_that_ended__its_tokens_are_no_good() -> None:
    store = Store()
    served = world(tenant(model(default=DEFAULT)))
    ended = tenant(credentials=(), is_ended=True)
    assert answer(get("player_id=a"), served, store).status == 200
    served.put(snapshot(ended, 2))
    assert sent(answer(get("player_id=a"), served, store)) == sent(UNAUTHORIZED)


# --- What is counted of errors ---------------------------------------------------------------------------------------


def test_error__is_counted_as_the_tenants_that_the_token_names() -> None:
    store = Store()
    served = aurora(store)
    assert answer(get("player_id="), served, store).errors == (("aurora", 400, "bad_key"),)
    assert answer(get("model=nothing"), served, store).errors == (("aurora", 404, "model_not_found"),)
    assert answer(get("player_id=ana", accept="text/html"), served, store).errors == (
        ("aurora", 406, "not_acceptable"),
    )
    assert answer(get(method="PUT"), served, store).errors == (("", 405, "method_not_allowed"),)
    assert answer(get(authorization=None), served, store).errors == (("", 401, "missing"),)
    old = token(iat=NOW + 10**6, exp=NOW + 10**6 + 60)
    late = answer(get("player_id=ana", bearer=old), served, store, now=NOW + 10**6)
    assert late.errors == (("aurora", 503, "not_ready"),)
    assert answer(get("player_id=ana"), served, store).errors == ()
    store.is_away = True
    unread = answer(get("player_id=ana"), served, store)
    assert unread.errors == (("aurora", 503, "unavailable"),)
    assert [exposure.source for exposure in unread.exposures] == ["fallback"]


def test_forged_tokens__too_many__429_that_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.prepared.BAD_TOKENS_PER_SECOND", 1)
    served = world(tenant(model(default=DEFAULT), credentials=(signer("cr_ed", "EdDSA", SIGNING_KEY),)))
    forged = [studio_token("cr_ed", "EdDSA", Ed25519PrivateKey.generate(), sub=name) for name in "ab"]
    first, second = (answer(get(bearer=bearer), served, Store()) for bearer in forged)
    assert problem(first) == (401, "unauthorized")
    assert problem(second) == (429, "rate_limited")
    assert header(second, "retry-after") == "1"
    assert second.errors == (("aurora", 429, "bad_tokens"),)


@pytest.mark.parametrize(("of_credential", "of_tenant", "whose"), [(1, 100, "credential"), (100, 1, "tenant")])
def test_limit__is_counted_as_whose_it_was(of_credential: int, of_tenant: int, whose: str) -> None:
    store = Store()
    served = world(
        tenant(
            model(default=DEFAULT),
            credentials=(credential(rate=of_credential, burst=of_credential),),
            rate=of_tenant,
            burst=of_tenant,
        )
    )
    assert answer(get("player_id=a"), served, store).errors == ()
    assert answer(get("player_id=a"), served, store).errors == (("aurora", 429, whose),)
