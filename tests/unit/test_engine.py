"""The serving contract, row by row, on the engine alone: `GET /v1/recommendations`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import engine
from serving.formats import snapshot as published
from serving.formats.blocks import encode_block
from serving.formats.keys import block_name, digest
from serving.formats.layouts import Layout
from serving.http import BITS, JSON, PATH, Exposure, LostBlock
from tests.serving_world import (
    ANA,
    DEFAULT,
    FIXED,
    PREFIX,
    ROWS,
    VARIABLE,
    Store,
    answer,
    aurora,
    get,
    header,
    model,
    problem,
    table,
    tenant,
    version,
    world,
)

# --- Found ----------------------------------------------------------------------------------------------------------


def test_found__json__model_version_and_record_in_layout_order() -> None:
    store = Store()
    response = answer(get("player_id=ana"), aurora(store), store)
    assert response.status == 200
    assert response.body == b'{"model":"offers","version":"2026-11-a","recommendation":{"offer":7,"gift":true}}'
    assert header(response, "content-type") == JSON
    assert header(response, "vary") == "Accept, Authorization"
    assert header(response, "recommendation-source") is None
    assert response.exposures == (Exposure("aurora", "offers", "2026-11-a", "table"),)
    assert store.reads == [block_name(PREFIX, "table1", 0)]


def test_found__bits__layout_revision_code_and_payload() -> None:
    store = Store()
    served = world(
        tenant(model(version(store.write("table1", ROWS), code=9, layout_revision=3), allocation=bytes([9]) * 10_000))
    )
    response = answer(get("player_id=ana", accept=BITS), served, store)
    assert response.status == 200
    assert header(response, "content-type") == BITS
    assert response.body == bytes([3, 9]) + Layout.parse(FIXED).pack(ANA)


def test_found__variable_width_layout__decoded_alike() -> None:
    store = Store()
    record = {"title": "Größe ☀", "items": [1, 2, 99]}
    served = world(
        tenant(model(version(store.write("table1", {"ana": record}, VARIABLE)), layout=VARIABLE, default=None))
    )
    assert json.loads(answer(get("player_id=ana"), served, store).body)["recommendation"] == record


@given(
    rows=st.dictionaries(
        st.text(st.characters(min_codepoint=0x20, codec="utf-8"), min_size=1, max_size=20),
        st.integers(0, 1000),
        min_size=1,
        max_size=200,
    )
)
def test_found__any_table__each_key_gets_its_own_row(rows: dict[str, int]) -> None:
    store = Store()
    records = {key: {"offer": offer, "gift": False} for key, offer in rows.items()}
    served = world(tenant(model(version(store.write("table1", records, block_bits=3)))))
    for key, record in records.items():
        response = answer(get({"player_id": key}), served, store)
        assert json.loads(response.body)["recommendation"] == record


@pytest.mark.parametrize("seconds", [1, 60, 86_400])
def test_found__max_age__within_ten_percent_and_the_same_for_a_key(seconds: int) -> None:
    store = Store()
    rows = {f"p{n}": ANA for n in range(300)}
    served = world(tenant(model(version(store.write("table1", rows)), max_client_age_seconds=seconds)))
    ages = set()
    for key in rows:
        first, second = (
            header(answer(get({"player_id": key}), served, store), "cache-control") or "" for _ in range(2)
        )
        assert first == second
        assert first.startswith("private, max-age=")
        ages.add(int(first.removeprefix("private, max-age=")))
    assert min(ages) >= max(1, int(0.9 * seconds))
    assert max(ages) <= 1.1 * seconds
    assert seconds == 1 or len(ages) > 8


def test_etag__whatever_it_is_a_hash_of_changes__it_changes() -> None:
    store = Store()
    one, two = store.write("table1", ROWS), store.write("table2", ROWS)

    def tag(key: str = "ana", accept: str = JSON, **changes: Any) -> str:
        table_used = changes.pop("active", one)
        served = world(tenant(model(version(table_used, **changes), layout_revisions=(3, 4))))
        return header(answer(get({"player_id": key}, accept=accept), served, store), "etag") or ""

    tags = [
        tag(),
        tag(accept=BITS),
        tag(key="ben"),
        tag(active=two),
        tag(name="2026-11-b"),
        tag(layout_revision=4),
    ]
    assert len(set(tags)) == len(tags)
    assert tag() == tags[0]
    assert all(t.startswith('"') and t.endswith('"') for t in tags)


@pytest.mark.parametrize("spelled", ["{}", "W/{}", '"x", {}', '{}, "x"', ' "x" , W/{} '])
@pytest.mark.parametrize("accept", [JSON, BITS])
@pytest.mark.parametrize("key", ["ana", "nobody"])
def test_if_none_match__names_the_tag__304_without_a_look_at_redis(spelled: str, accept: str, key: str) -> None:
    store = Store()
    served = aurora(store, default=DEFAULT)
    first = answer(get({"player_id": key}, accept=accept), served, store)
    tag = header(first, "etag") or ""
    store.reads.clear()
    again = answer(get({"player_id": key}, accept=accept, if_none_match=spelled.format(tag)), served, store)
    assert (again.status, again.body, store.reads) == (304, b"", [])
    assert [header(again, n) for n in ("etag", "cache-control", "vary")] == [
        header(first, n) for n in ("etag", "cache-control", "vary")
    ]
    assert again.exposures == first.exposures


@pytest.mark.parametrize("given_tag", ['"another"', "", "etag", 'W/"another"'])
def test_if_none_match__names_another__the_whole_answer(given_tag: str) -> None:
    store = Store()
    response = answer(get("player_id=ana", if_none_match=given_tag), aurora(store), store)
    assert (response.status, b'"offer":7' in response.body) == (200, True)


def test_if_none_match__star__304_only_if_there_is_an_answer() -> None:
    store = Store()
    assert answer(get("player_id=ana", if_none_match="*"), aurora(store), store).status == 304
    assert answer(get("player_id=nobody", if_none_match="*"), aurora(store), store).status == 204


def test_if_none_match__tag_of_the_other_format__the_whole_answer() -> None:
    store = Store()
    served = aurora(store)
    tag = header(answer(get("player_id=ana"), served, store), "etag")
    assert answer(get("player_id=ana", accept=BITS, if_none_match=tag), served, store).status == 200


# --- Not in the table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        (JSON, b'{"model":"offers","version":"2026-11-a","recommendation":{"offer":1,"gift":false}}'),
        (BITS, bytes([3, 0]) + Layout.parse(FIXED).pack(DEFAULT)),
    ],
)
def test_not_in_the_table__model_has_a_default__the_default_is_cached(accept: str, body: bytes) -> None:
    store = Store()
    response = answer(get("player_id=nobody", accept=accept), aurora(store, default=DEFAULT), store)
    assert (response.status, response.body) == (200, body)
    assert header(response, "recommendation-source") == "default"
    assert (header(response, "cache-control") or "").startswith("private, max-age=")
    assert header(response, "etag") is not None
    assert response.exposures == (Exposure("aurora", "offers", "2026-11-a", "default"),)


def test_not_in_the_table__default_changes__so_does_the_etag() -> None:
    store = Store()
    tags = {
        header(answer(get("player_id=x"), aurora(store, default=DEFAULT, default_revision=n), store), "etag")
        for n in (1, 2)
    }
    assert len(tags) == 2


def test_not_in_the_table__each_layout_has_its_own_default() -> None:
    old, new = version(code=0, layout_revision=3), version(name="2026-11-b", code=1, layout_revision=4)
    layouts = (
        published.Layout(3, FIXED, DEFAULT, 1),
        published.Layout(4, VARIABLE, {"title": "Hello", "items": None}, 2),
    )
    both = model(old, new, default=DEFAULT, allocation=bytes([0, 1]) * 5_000)
    served = world(tenant(msgspec.structs.replace(both, layouts=layouts)))
    bodies = {answer(get(f"player_id=p{n}"), served, Store()).body for n in range(20)}
    assert bodies == {
        b'{"model":"offers","version":"2026-11-a","recommendation":{"offer":1,"gift":false}}',
        b'{"model":"offers","version":"2026-11-b","recommendation":{"title":"Hello","items":null}}',
    }


def test_default__of_a_snapshot_of_the_release_before__is_the_models() -> None:
    told = model(default=DEFAULT, default_revision=7)
    layouts = tuple(published.Layout(layout.revision, layout.fields) for layout in told.layouts)
    old = world(tenant(msgspec.structs.replace(told, layouts=layouts)))
    [was, is_now] = [answer(get("player_id=ana"), served, Store()) for served in (old, world(tenant(told)))]
    assert was.body == is_now.body != b""
    assert header(was, "etag") == header(is_now, "etag"), "phones would ask for all defaults anew after an upgrade"


def test_not_in_the_table__no_default__204_that_is_not_kept() -> None:
    store = Store()
    response = answer(get("player_id=nobody"), aurora(store), store)
    assert (response.status, response.body, response.headers) == (204, b"", [("cache-control", "no-store")])
    assert response.exposures == (Exposure("aurora", "offers", "2026-11-a", "none"),)


def test_version_never_loaded__the_default_and_no_look_at_redis() -> None:
    store = Store()
    served = world(tenant(model(default=DEFAULT)))
    response = answer(get("player_id=ana"), served, store)
    assert (response.status, header(response, "recommendation-source")) == (200, "default")
    tag = header(response, "etag")
    assert answer(get("player_id=ana", if_none_match=tag), served, store).status == 304
    assert answer(get("player_id=ana"), world(tenant(model())), store).status == 204
    assert store.reads == []


# --- Redis away, blocks lost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [JSON, BITS])
def test_redis_away__the_default_as_a_fallback_that_is_not_kept(accept: str) -> None:
    store = Store()
    served = aurora(store, default=DEFAULT)
    regular = answer(get("player_id=nobody", accept=accept), served, store)
    store.is_away = True
    response = answer(get("player_id=ana", accept=accept), served, store)
    assert (response.status, response.body) == (200, regular.body)
    assert header(response, "recommendation-source") == "fallback"
    assert header(response, "cache-control") == "no-store"
    assert header(response, "etag") is None
    assert response.exposures == (Exposure("aurora", "offers", "2026-11-a", "fallback"),)
    assert response.lost == ()


def test_redis_away__no_default__503_and_when_to_come_back() -> None:
    store = Store()
    served = aurora(store)
    store.is_away = True
    response = answer(get("player_id=ana"), served, store)
    assert problem(response) == (503, "unavailable")
    assert header(response, "retry-after") == "1"
    assert response.exposures == (Exposure("aurora", "offers", "2026-11-a", "fallback"),)


def test_redis_away__the_previous_table_is_not_tried() -> None:
    store = Store()
    served = world(tenant(model(version(store.write("new", ROWS), store.write("old", ROWS)), default=DEFAULT)))
    store.is_away = True
    answer(get("player_id=ana"), served, store)
    assert len(store.reads) == 1


@pytest.mark.parametrize("how", ["lose", "damage"])
def test_active_table_lost__the_previous_one_answers_and_the_loss_is_named(how: str) -> None:
    store = Store()
    old = store.write("old", {"ana": {"offer": 3, "gift": False}})
    served = world(tenant(model(version(store.write("new", ROWS), old), default=DEFAULT)))
    getattr(store, how)("new")
    response = answer(get("player_id=ana"), served, store)
    assert json.loads(response.body)["recommendation"] == {"offer": 3, "gift": False}
    assert list(response.lost) == [LostBlock(block_name(PREFIX, "new", 0), "new")]
    assert header(response, "recommendation-source") is None


def test_active_table_lost__its_tag_and_the_previous_one_s_differ() -> None:
    store = Store()
    served = world(tenant(model(version(store.write("new", ROWS), store.write("old", ROWS)))))
    before = header(answer(get("player_id=ana"), served, store), "etag")
    store.lose("new")
    assert header(answer(get("player_id=ana"), served, store), "etag") != before


@pytest.mark.parametrize("has_previous", [False, True])
def test_every_table_lost__fallback(has_previous: bool) -> None:
    store = Store()
    previous = table("old") if has_previous else None
    served = world(tenant(model(version(table("new"), previous), default=DEFAULT)))
    response = answer(get("player_id=ana"), served, store)
    assert (response.status, header(response, "recommendation-source")) == (200, "fallback")
    assert [block.table_id for block in response.lost] == ["new", "old"][: 1 + has_previous]
    bare = world(tenant(model(version(table("new"), previous))))
    assert problem(answer(get("player_id=ana"), bare, store)) == (503, "unavailable")


def test_block_with_bits_that_no_record_has__as_good_as_lost() -> None:
    store = Store()
    fingerprint = digest(b"ana")[8:14]
    store.blocks[block_name(PREFIX, "new", 0)] = encode_block([(fingerprint, b"\xff\xff")], 2)
    served = world(tenant(model(version(table("new")), default=DEFAULT)))
    for accept in (JSON, BITS):
        response = answer(get("player_id=ana", accept=accept), served, store)
        assert header(response, "recommendation-source") == "fallback"
        assert len(response.lost) == 1


def test_sealed_table__as_it_was_written__is_served() -> None:
    store = Store()
    sealed = store.write("sealed", ROWS, block_bits=2, sealed_for="t1")
    response = answer(get("player_id=ana"), world(tenant(model(version(sealed)))), store)
    assert json.loads(response.body)["recommendation"] == ANA
    assert response.lost == ()


@pytest.mark.parametrize(
    "how", ["another table's", "another block's", "another studio's", "other bytes", "none", "short"]
)
def test_sealed_table__whatever_else_stands_in_redis__as_good_as_lost(how: str) -> None:
    store = Store()
    others = {key: {"offer": 999, "gift": False} for key in ROWS}
    sealed = store.write("sealed", ROWS, block_bits=1, sealed_for="t1")
    store.write("another", others, block_bits=1, sealed_for="t1")
    name = block_name(PREFIX, "sealed", digest(b"ana")[0] >> 7)
    good = store.blocks[name]
    if how == "another table's":
        store.blocks[name] = store.blocks[name.replace("sealed", "another")]
    elif how == "another block's":
        store.blocks[name] = store.blocks[block_name(PREFIX, "sealed", 1 - (digest(b"ana")[0] >> 7))]
    elif how == "another studio's":
        store.write("sealed", others, block_bits=1, sealed_for="t2")
    elif how == "other bytes":
        store.blocks[name] = bytes([good[0] ^ 1]) + good[1:]
    else:
        store.blocks[name] = good[:-8] if how == "none" else b"x"
    response = answer(get("player_id=ana"), world(tenant(model(version(sealed), default=DEFAULT))), store)
    assert header(response, "recommendation-source") == "fallback"
    assert list(response.lost) == [LostBlock(name, "sealed")]


def test_sealed_table__with_a_key_that_is_not_here__fallback_and_nothing_is_called_lost() -> None:
    store = Store()
    sealed = store.write("sealed", ROWS, sealed_for="t1")
    served = world(tenant(model(version(sealed), default=DEFAULT)), seal_keys={"newer": bytes(32)})
    response = answer(get("player_id=ana"), served, store)
    assert (header(response, "recommendation-source"), response.lost) == ("fallback", ())


def test_empty_block__is_whole_and_holds_nobody() -> None:
    store = Store()
    for layout in (FIXED, VARIABLE):
        served = world(tenant(model(version(store.write("empty", {}, layout)), layout=layout)))
        response = answer(get("player_id=ana"), served, store)
        assert (response.status, response.lost) == (204, ())


def test_engine__path_and_media_types__are_what_clients_were_told() -> None:
    assert (PATH, BITS, JSON) == ("/v1/recommendations", "application/vnd.recsite.bits", "application/json")
    assert engine.MAX_BATCH == 500


@pytest.mark.parametrize(
    ("key", "state", "default", "source", "record", "lost"),
    [
        ("ana", "whole", None, "table", {"offer": 7, "gift": True}, 0),
        ("eve", "whole", DEFAULT, "default", DEFAULT, 0),
        ("eve", "whole", None, "none", None, 0),
        ("ana", "away", DEFAULT, "fallback", DEFAULT, 0),
        ("ana", "away", None, "fallback", None, 0),
        ("ana", "lost", DEFAULT, "fallback", DEFAULT, 1),
        ("ana", "never loaded", DEFAULT, "default", DEFAULT, 0),
    ],
)
def test_lookup__before_any_form__says_where_the_answer_is_from_and_what_it_is(
    key: str, state: str, default: Any, source: str, record: Any, lost: int
) -> None:
    store = Store()
    written = store.write("table1", ROWS)
    store.is_away = state == "away"
    if state == "lost":
        store.lose("table1")
    served = world(tenant(model(version(None if state == "never loaded" else written), default=default)))
    prepared = served.tenants["t1"].models["offers"].versions[0]
    lookup = engine.Lookup(prepared, key.encode(), PREFIX)
    found = lookup.first()
    while found is None:
        found = lookup.take(*store.read(lookup.names))
    assert (found.version, found.source, len(found.lost)) == (prepared, source, lost)
    assert found.payload == (None if record is None else Layout.parse(FIXED).pack(record))
    assert (json.loads(found.record) if found.record else None) == record
