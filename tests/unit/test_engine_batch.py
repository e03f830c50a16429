"""`POST /v1/recommendations` on the engine alone: many keys at once, for server tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import engine
from serving.http import BITS, JSON, Exposure, Response
from tests.serving_world import (
    DEFAULT,
    NOW,
    SETTINGS,
    Store,
    answer,
    aurora,
    credential,
    get,
    header,
    model,
    post,
    table,
    tenant,
    token,
    version,
    world,
)

ROWS = {f"p{n}": {"offer": n, "gift": False} for n in range(600)}


def batch(*keys: Any, model_slug: str | None = "offers", **more: Any) -> bytes:
    body: dict[str, Any] = {"keys": list(keys), **more}
    if model_slug is not None:
        body["model"] = model_slug
    return json.dumps(body).encode()


def test_many_keys__answered_in_order_each_with_its_own_status() -> None:
    store = Store()
    keys = [{"player_id": "p5"}, {}, {"player_id": "nobody"}, {"player_id": ""}, {"player_id": "p2", "x": "y"}]
    response = answer(post(batch(*keys)), aurora(store, ROWS), store)
    body = json.loads(response.body)
    assert response.status == 200
    assert list(body) == ["model", "answers"]
    assert [item["status"] for item in body["answers"]] == [200, 400, 204, 400, 400]
    assert body["answers"][0] == {
        "status": 200,
        "version": "2026-11-a",
        "recommendation": {"offer": 5, "gift": False},
    }
    assert body["answers"][1] == {"status": 400, "code": "bad_key", "detail": "“player_id” is missing."}
    assert body["answers"][2] == {"status": 204}
    assert body["answers"][4]["code"] == "unknown_parameter"
    assert header(response, "cache-control") == "no-store"


def test_many_keys__say_where_each_is_from() -> None:
    store = Store()
    served = aurora(store, ROWS, default=DEFAULT)
    body = json.loads(answer(post(batch({"player_id": "p1"}, {"player_id": "x"})), served, store).body)
    assert [item.get("source") for item in body["answers"]] == [None, "default"]
    store.is_away = True
    body = json.loads(answer(post(batch({"player_id": "p1"})), served, store).body)
    assert body["answers"][0]["source"] == "fallback"
    assert body["answers"][0]["recommendation"] == DEFAULT


def test_many_keys__without_default_while_redis_is_away__each_503() -> None:
    store = Store()
    served = aurora(store, ROWS)
    store.is_away = True
    response = answer(post(batch({"player_id": "p1"}, {"player_id": "p2"})), served, store)
    assert response.status == 200
    assert [item["status"] for item in json.loads(response.body)["answers"]] == [503, 503]


def test_five_hundred_keys__read_in_one_step() -> None:
    store = Store()
    request = post(batch(*({"player_id": f"p{n}"} for n in range(500))))
    step = engine.begin(request, aurora(store, ROWS), NOW, SETTINGS)
    assert not isinstance(step, Response)
    assert len(step.names) == 500
    done = step.resume(store.read(step.names))
    assert isinstance(done, Response)
    offers = [item["recommendation"]["offer"] for item in json.loads(done.body)["answers"]]
    assert offers == list(range(500))
    assert done.exposures == [Exposure("aurora", "offers", "2026-11-a", "table")] * 500


def test_lost_blocks_of_some__read_from_the_previous_table() -> None:
    store = Store()
    old = store.write("old", {key: {"offer": 999, "gift": True} for key in ROWS}, block_bits=3)
    served = world(tenant(model(version(store.write("new", ROWS, block_bits=3), old))))
    gone = next(name for name in store.blocks if ":t:new:" in name)
    del store.blocks[gone]
    response = answer(post(batch(*({"player_id": key} for key in list(ROWS)[:200]))), served, store)
    offers = [item["recommendation"]["offer"] for item in json.loads(response.body)["answers"]]
    assert {offer for number, offer in enumerate(offers) if offer != number} == {999}
    assert 0 < offers.count(999) < 100
    assert {block.name for block in response.lost} == {gone}
    assert len(response.lost) == offers.count(999)


def test_whole_numbers__are_keys_too() -> None:
    store = Store()
    served = world(tenant(model(version(store.write("t", {"42": {"offer": 1, "gift": True}})))))
    body = json.loads(answer(post(batch({"player_id": 42})), served, store).body)
    assert body["answers"][0]["status"] == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_request"),
        (b"{", "bad_request"),
        (b"[]", "bad_request"),
        (b'"x"', "bad_request"),
        (b"\xff\xfe", "bad_request"),
        (b'{"keys": [{"player_id": "\xff"}]}', "bad_request"),
        (b'{"keys": "p1"}', "bad_request"),
        (b'{"keys": []}', "bad_request"),
        (b'{"keys": [{"player_id": 1.5}]}', "bad_request"),
        (b'{"keys": [{"player_id": true}]}', "bad_request"),
        (b'{"keys": [{"player_id": null}]}', "bad_request"),
        (b'{"keys": [{"player_id": ["p1"]}]}', "bad_request"),
        (b'{"keys": [1]}', "bad_request"),
        (b'{"keys": [{}], "more": 1}', "bad_request"),
        (b'{"keys": [{}], "model": 7}', "bad_request"),
        (b'{"model": "offers"}', "bad_request"),
        (b"[" * 100_000, "bad_request"),
        (batch(*({"player_id": "x"} for _ in range(501))), "bad_request"),
    ],
)
def test_bad_body__400(body: bytes, code: str) -> None:
    store = Store()
    response = answer(post(body), aurora(store, ROWS), store)
    assert (response.status, response.code) == (400, code)


@given(body=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_body_at_all__an_answer_and_never_an_exception(body: bytes) -> None:
    store = Store()
    assert answer(post(body), aurora(store, ROWS), store).status in {200, 400}


@given(
    keys=st.lists(
        st.dictionaries(st.sampled_from(["player_id", "unit", "model", "x", "\ud800"]), st.text() | st.integers()),
        min_size=1,
        max_size=4,
    )
)
def test_any_keys_at_all__each_has_a_status(keys: list[dict[str, Any]]) -> None:
    store = Store()
    response = answer(post(json.dumps({"keys": keys}).encode()), aurora(store, ROWS), store)
    assert response.status in {200, 400}
    if response.status == 200:
        assert len(json.loads(response.body)["answers"]) == len(keys)


def test_player_token__may_not() -> None:
    store = Store()
    response = answer(post(batch({"player_id": "p1"}), bearer=token(sub="p1")), aurora(store, ROWS), store)
    assert (response.status, response.code) == (403, "server_token_required")


@pytest.mark.parametrize("accept", [BITS, "text/html", f"{JSON};q=0"])
def test_anything_but_json__406(accept: str) -> None:
    store = Store()
    response = answer(post(batch({"player_id": "p1"}), accept=accept), aurora(store, ROWS), store)
    assert (response.status, response.code) == (406, "not_acceptable")


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded"])
def test_body_not_said_to_be_json__415(content_type: str | None) -> None:
    store = Store()
    response = answer(post(batch({"player_id": "p1"}), content_type=content_type), aurora(store, ROWS), store)
    assert (response.status, response.code) == (415, "unsupported_media_type")


def test_content_type__with_a_charset_and_in_capitals__is_json() -> None:
    store = Store()
    request = post(batch({"player_id": "p1"}), content_type="Application/JSON; charset=utf-8", accept="*/*")
    assert answer(request, aurora(store, ROWS), store).status == 200


def test_query_parameters__have_no_place_in_a_post() -> None:
    store = Store()
    response = answer(post(batch({"player_id": "p1"}), query="model=offers"), aurora(store, ROWS), store)
    assert (response.status, response.code) == (400, "unknown_parameter")


def test_model__left_out_or_foreign__as_in_a_get() -> None:
    store = Store()
    served = world(
        tenant(model(version(store.write("t", ROWS))), model(slug="other")),
        tenant(model(slug="secret"), tenant_id="t2", slug="borealis", credentials=(credential("cr_two"),)),
    )
    one = batch({"player_id": "p1"}, model_slug=None)
    assert answer(post(one), served, store).code == "model_required"
    assert answer(post(one, bearer=token(models=["offers"])), served, store).status == 200
    for slug in ("secret", "nothing"):
        response = answer(post(batch({"player_id": "p1"}, model_slug=slug)), served, store)
        assert (response.status, response.code) == (404, "model_not_found")


def test_limit__n_keys_cost_n_and_a_refused_batch_costs_nothing() -> None:
    store = Store()
    served = world(tenant(model(version(table())), credentials=(credential(rate=1, burst=10),)))
    store.is_away = True
    keys = [{"player_id": "p1"}] * 7
    assert answer(post(batch(*keys)), served, store).status == 200
    refused = answer(post(batch(*keys)), served, store)
    assert (refused.status, header(refused, "retry-after")) == (429, "4")
    assert [answer(get("player_id=a"), served, store).status for _ in range(4)] == [503, 503, 503, 429]


def test_limit__more_keys_than_the_burst_can_ever_hold__400_and_not_429_for_ever() -> None:
    store = Store()
    for own, shared in ((3, 9), (9, 3)):
        credentials = (credential(rate=1, burst=own),)
        served = world(tenant(model(version(table())), credentials=credentials, rate=1, burst=shared))
        refused = answer(post(batch(*[{"player_id": "p1"}] * 4)), served, store)
        assert (refused.status, refused.code) == (400, "batch_too_large")
        assert "at most 3 keys" in refused.body.decode()


def test_limit__a_body_that_cannot_be_read_costs_one() -> None:
    store = Store()
    served = world(tenant(model(), credentials=(credential(rate=1, burst=2),)))
    statuses = [answer(post(b"nonsense"), served, store).status for _ in range(3)]
    assert statuses == [400, 400, 429]


def test_errors_of_keys__are_counted_as_the_tenants() -> None:
    store = Store()
    served = aurora(store, ROWS)
    refused = answer(post(batch({"player_id": "p5"}, {}, {"player_id": "p1", "x": "y"})), served, store)
    assert refused.errors == [("aurora", 400, "bad_key"), ("aurora", 400, "unknown_parameter")]
    store.is_away = True
    unread = answer(post(batch({"player_id": "p5"}, {"player_id": "p6"})), served, store)
    assert unread.errors == [("aurora", 503, "unavailable")] * 2
    assert [exposure.source for exposure in unread.exposures] == ["fallback"] * 2
