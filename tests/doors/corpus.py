"""The requests that both doors are asked, each named for what is odd about it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import jwt

from serving.http import BITS
from tests.doors.raw_http import request
from tests.doors.scene import COUNTRIES, Scene, player

PATH = "/v1/recommendations"
MODELS = (
    *("offers", "bare", "fresh", "fresh-bare", "restored", "lost", "lost-twice", "lost-bare", "damaged"),
    *("sealed", "swapped", "strange"),
)
SHARED_KEY = b"any key at all, as long as it is long enough"


class Case(NamedTuple):
    """One request, as bytes."""

    name: str
    raw: bytes


def get(name: str, query: str, token: str | None, *headers: tuple[str, str], method: str = "GET") -> Case:
    """Return a GET of the endpoint."""
    authorization = [] if token is None else [("Authorization", f"Bearer {token}")]
    return Case(name, request(method, f"{PATH}?{query}" if query else PATH, [*authorization, *headers]))


def post(name: str, body: Any, token: str, *headers: tuple[str, str]) -> Case:
    """Return a POST of many keys; a body of bytes goes as it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.lower() for name, _ in headers}
    own = [] if "content-type" in given else [("Content-Type", "application/json")]
    return Case(name, request("POST", PATH, [("Authorization", f"Bearer {token}"), *own, *headers], raw))


def corpus(scene: Scene) -> list[Case]:
    """Return every request that can be asked while nothing is wrong, and while something is."""
    return [
        *_tables(scene),
        *_parameters(scene),
        *_negotiation(scene),
        *_tokens(scene),
        *_batches(scene),
        *_paths(scene),
        *_request_ids(scene),
    ]


def _request_ids(scene: Scene) -> Iterator[Case]:
    token = scene.token(sub=player(6), models=["offers"])
    for given in ("a", "A-1._z", "x" * 64, "x" * 65, "", " a ", "a b", "a,b", "a\xe9", 'a"b', "a%0d%0ab"):
        for name, bearer in (("found", token), ("refused", "nonsense")):
            yield get(f"{name}, request {given[:10]!r}", "", bearer, ("X-Request-ID", given))
    yield get("two ids", "", "nonsense", ("X-Request-ID", "a"), ("X-Request-ID", "b"))
    yield Case("elsewhere, with an id", request("GET", "/v1/elsewhere", [("X-Request-ID", "a")]))
    for path in ("/healthz", "/readyz"):
        yield Case(f"{path} with an id", request("GET", path, [("X-Request-ID", "a")]))
    yield post("no JSON, with an id", b"{", scene.token(models=["offers"]), ("X-Request-ID", "a"))


def _tables(scene: Scene) -> Iterator[Case]:
    server = scene.token()
    for number in (0, 1, 2, 57, 399):
        sub = scene.token(sub=player(number))
        yield get(f"player token {number}", "model=offers", sub)
        yield get(f"player token {number}, bits", "model=offers", sub, ("Accept", BITS))
        yield get(f"server token {number}", f"model=offers&player_id={player(number)}", server)
    yield get("an override", "model=offers&player_id=tester", server)
    yield get("a unit of its own", f"model=offers&player_id={player(3)}&unit=someone", server)
    yield get("a unit with an override", f"model=offers&player_id={player(3)}&unit=tester", server)
    for model in MODELS:
        for who in (player(5), "nobody"):
            for accept in ("application/json", BITS):
                yield get(f"{model} of {who} as {accept}", f"model={model}&player_id={who}", server, ("Accept", accept))
    for country in (*COUNTRIES, "XX"):
        yield get(f"difficulty in {country}", f"model=difficulty&country={quote(country)}&level_band=7", server)
    yield get("difficulty for a player", "model=difficulty&country=DE&level_band=7", scene.token(sub="p0001"))
    yield get("one model in the token", "", scene.token(sub=player(9), models=["offers"]))
    yield get("one model in the credential", "", scene.token("cr_narrow", sub=player(9)))
    yield get("the other tenant's own", f"model=offers&player_id={player(9)}", scene.token("cr_other"))


def _parameters(scene: Scene) -> Iterator[Case]:
    server = scene.token(models=["offers"])
    player_token = scene.token(sub=player(4), models=["offers"])
    for name, query in {
        "no key": "",
        "an empty key": "player_id=",
        "a name without =": "player_id",
        "an unknown parameter": f"player_id={player(1)}&color=red",
        "twice": "player_id=a&player_id=b",
        "twice the same": "player_id=a&player_id=a",
        "the model twice": f"model=offers&model=offers&player_id={player(1)}",
        "a control character": "player_id=a%1Fb",
        "a newline": "player_id=a%0Ab",
        "not UTF-8": "player_id=%FF%FE",
        "half a character": "player_id=%E6%97",
        "a surrogate": "player_id=%ED%A0%80",
        "a bare percent": "player_id=100%",
        "a bad escape": "player_id=%zz",
        "an escaped name": f"player%5Fid={player(1)}",
        "a plus": "player_id=a+b",
        "an escaped plus": "player_id=a%2Bb",
        "empty pairs": f"&&player_id={player(1)}&",
        "a semicolon": f"player_id={player(1)};x=1",
        "an equals sign in the value": "player_id=a=b",
        "256 bytes": "player_id=" + "x" * 256,
        "257 bytes": "player_id=" + "x" * 257,
        "257 bytes in 129 characters": "player_id=" + quote("é") * 128 + "x",
        "raw UTF-8": "player_id=" + "é".encode().decode("latin-1"),
        "an empty unit": f"player_id={player(1)}&unit=",
        "a unit with a control character": f"player_id={player(1)}&unit=%01",
        "an unknown model": f"model=nothing&player_id={player(1)}",
        "an empty model": f"model=&player_id={player(1)}",
        "a model of the other tenant": f"model=secret-plans&player_id={player(1)}",
        "a model that the token leaves out": f"model=bare&player_id={player(1)}",
        "a question mark": f"player_id={player(1)}?",
        "a fragment's sign": f"player_id={player(1)}%23",
        "a very long query": "player_id=" + "y" * 3000,
    }.items():
        yield get(name, query, server)
        yield get(f"{name}, player token", query, player_token)
    yield get("its own player", f"player_id={player(4)}", player_token)
    yield get("another player", f"player_id={player(5)}", player_token)
    yield get("a unit in a player's request", "unit=someone", player_token)
    yield get("no model among several", f"player_id={player(1)}", scene.token())
    yield get("no model among two", f"player_id={player(1)}", scene.token("cr_two"))
    yield get("a model outside the credential", f"model=bare&player_id={player(1)}", scene.token("cr_narrow"))
    yield get("a token for no model", f"player_id={player(1)}", scene.token(models=[]))
    yield get("a token for models outside the credential", "", scene.token("cr_narrow", models=["bare"], sub=player(1)))


def _negotiation(scene: Scene) -> Iterator[Case]:
    token = scene.token(sub=player(6), models=["offers"])
    for accept in (
        "*/*",
        "",
        "application/*",
        "application/json; charset=utf-8",
        "application/json;q=0.5, application/vnd.recsite.bits;q=0.4",
        "application/json;q=0.4, application/vnd.recsite.bits;q=0.5",
        f"{BITS}, */*",
        f"*/*, {BITS};q=0",
        f"{BITS};q=1.0, application/json;q=1.0",
        BITS.upper(),
        "text/html",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/json;q=0",
        "application/json;q=abc",
        "application/json;q=7",
        ";;;,,,",
        "nonsense",
        "application/json;q=nan",
    ):
        yield get(f"Accept: {accept}", "", token, ("Accept", accept))
    yield get("two Accept headers", "", token, ("Accept", "text/html"), ("Accept", BITS))
    for tag in ('"nothing"', 'W/"nothing"', "*", "", "no quotes", '"a", "b"'):
        yield get(f"If-None-Match: {tag}", "", token, ("If-None-Match", tag))
        yield get(f"If-None-Match: {tag}, bits", "", token, ("If-None-Match", tag), ("Accept", BITS))
    yield get(
        "If-None-Match * without a row", "player_id=nobody", scene.token(models=["offers"]), ("If-None-Match", "*")
    )
    yield get("If-None-Match * with nothing", "player_id=nobody", scene.token(models=["bare"]), ("If-None-Match", "*"))
    yield get("the format parameter of DRF", "format=api", token)


def _tokens(scene: Scene) -> Iterator[Case]:
    query = f"model=offers&player_id={player(1)}"
    now = scene.now
    good = scene.token()
    header, payload, signature = good.split(".")

    def segment(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    own = {"alg": "HS256", "gen": 1, "kid": "cr_all", "mk": scene.master_key_id, "typ": "JWT"}
    yield get("no token", query, None)
    for authorization in (
        "",
        "Bearer",
        "Bearer ",
        f"bearer {good}",
        f"BEARER {good}",
        f"Bearer  {good}",
        f"Bearer {good} ",
        f"Bearer\t{good}",
        f"Token {good}",
        f"Basic {base64.b64encode(b'a:b').decode()}",
        good,
        f"Bearer {good}, Bearer {good}",
        "Bearer \xff\xfe",
    ):
        yield Case(
            f"Authorization: {authorization[:24]}…",
            request("GET", f"{PATH}?{query}", [("Authorization", authorization)]),
        )
    yield get("two Authorization headers", query, good, ("Authorization", f"Bearer {good}"))
    bad = {
        "not a token": "nonsense",
        "two segments": f"{header}.{payload}",
        "four segments": f"{good}.x",
        "empty segments": "..",
        "signature changed": f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        "signature padded": f"{good}=",
        "signature with stray bits": good[:-1] + chr(ord(good[-1]) + 1),
        "signature missing": f"{header}.{payload}.",
        "payload changed": f"{header}.{payload[:-2]}AA.{signature}",
        "payload not base64": f"{header}.!!.{signature}",
        "header not base64": f"!!.{payload}.{signature}",
        "header no object": f"{segment([1])}.{payload}.{signature}",
        "alg none": f"{segment({'alg': 'none', 'kid': 'cr_all'})}.{payload}.",
        "alg None with our header": f"{segment(own | {'alg': 'None'})}.{payload}.",
        "kid missing": jwt.encode(scene.claims(), SHARED_KEY, algorithm="HS256"),
        "kid unknown": jwt.encode(scene.claims(), SHARED_KEY, algorithm="HS256", headers={"kid": "cr_nobody"}),
        "kid odd": jwt.encode(scene.claims(), SHARED_KEY, algorithm="HS256", headers={"kid": "../../etc"}),
        "kid long": jwt.encode(scene.claims(), SHARED_KEY, algorithm="HS256", headers={"kid": "x" * 65}),
        "another key": jwt.encode(scene.claims(), SHARED_KEY, algorithm="HS256", headers={"kid": "cr_all"}),
        "the public key as HMAC key": _confused(scene),
        "another algorithm of ours": f"{segment(own | {'alg': 'HS512'})}.{payload}.{signature}",
        "a header too many": scene.token(headers={"jku": "https://evil.example"}),
        "generation unknown": scene.token(generation=9),
        "generation retired": scene.token("cr_lapsed", generation=1),
        "expired": scene.token(iat=now - 2000, exp=now - 1000),
        "in the future": scene.token(iat=now + 1000, exp=now + 1900),
        "not before": scene.token(nbf=now + 1000),
        "longer than a day": scene.token(exp=now + 24 * 3600 + 60),
        "exp missing": scene.token(exp=...),
        "iat missing": scene.token(iat=...),
        "aud missing": scene.token(aud=...),
        "iss missing": scene.token(iss=...),
        "exp 1e30": scene.token(exp=1e30),
        "exp text": scene.token(exp=str(now + 900)),
        "exp fraction": scene.token(exp=now + 900.5),
        "exp true": scene.token(exp=True),
        "exp huge": scene.token(exp=10**40),
        "exp negative": scene.token(exp=-1),
        "exp null": scene.token(exp=None),
        "iat text": scene.token(iat=str(now)),
        "nbf text": scene.token(nbf="soon"),
        "aud wrong": scene.token(aud="somebody-else"),
        "aud number": scene.token(aud=7),
        "aud list without us": scene.token(aud=["a", "b"]),
        "iss wrong": scene.token(iss="somebody-else"),
        "tenant wrong": scene.token(tenant="borealis"),
        "sub empty": scene.token(sub=""),
        "sub number": scene.token(sub=7),
        "sub null": scene.token(sub=None),
        "sub with a control character": scene.token(sub="a\x01"),
        "sub too long": scene.token(sub="x" * 257),
        "models text": scene.token(models="offers"),
        "models of numbers": scene.token(models=[1]),
        "longer than 4 KiB": scene.token(padding="x" * 4096),
        "of a tenant that has ended": scene.token("cr_gone"),
        "Ed25519 with another's key": scene.studio_token("cr_es", "EdDSA", scene.ed25519),
        "Ed25519 by the wrong issuer": scene.studio_token("cr_ed", "EdDSA", scene.ed25519, iss="recsite"),
        "Ed25519 with exp 1e30": scene.studio_token("cr_ed", "EdDSA", scene.ed25519, exp=1e30),
        "Ed25519 with exp text": scene.studio_token("cr_ed", "EdDSA", scene.ed25519, exp="123"),
        "Ed25519 without exp": _without(scene, "exp"),
    }
    for name, token in bad.items():
        yield get(f"token: {name}", query, token)
    fine = {
        "aud list": scene.token(aud=["other", "recsite"]),
        "tenant given": scene.token(tenant="aurora"),
        "unknown claims": scene.token(colour="red"),
        "a day long": scene.token(iat=now, exp=now + 24 * 3600),
        "rotated, the new": scene.token("cr_rotated", generation=2),
        "rotated, the old": scene.token("cr_rotated", generation=1),
        "just expired": scene.token(iat=now - 900, exp=now - 1),
        "Ed25519": scene.studio_token("cr_ed", "EdDSA", scene.ed25519),
        "ES256": scene.studio_token("cr_es", "ES256", scene.es256),
        "RS256": scene.studio_token("cr_rs", "RS256", scene.rs256),
    }
    for name, token in fine.items():
        yield get(f"token: {name}", query, token)


def _confused(scene: Scene) -> str:
    """Return a token signed by HMAC with a public key, which a negotiating verifier would take."""
    return jwt.encode(scene.claims(iss="https://backend.aurora.example"), SHARED_KEY, headers={"kid": "cr_rs"})


def _without(scene: Scene, claim: str) -> str:
    claims = scene.claims(iss="https://backend.aurora.example")
    del claims[claim]
    return jwt.encode(claims, scene.ed25519, algorithm="EdDSA", headers={"kid": "cr_ed"})


def _batches(scene: Scene) -> Iterator[Case]:
    server = scene.token()
    narrow = scene.token(models=["offers"])
    keys = [{"player_id": player(n)} for n in range(40)]
    yield post("batch", {"model": "offers", "keys": keys}, server)
    yield post("batch of 500", {"keys": [{"player_id": player(n % 450)} for n in range(500)]}, narrow)
    yield post("batch of 501", {"keys": [{"player_id": player(n)} for n in range(501)]}, narrow)
    mixed = [
        {"player_id": player(1)},
        {"player_id": "nobody"},
        {"player_id": ""},
        {"player_id": 7},
        {"player_id": player(2), "unit": "tester"},
        {"player_id": player(2), "unit": ""},
        {"player_id": "a\x01"},
        {"color": "red"},
        {},
        {"player_id": player(1), "model": "bare"},
    ]
    for model in MODELS:
        yield post(f"batch of all kinds from {model}", {"model": model, "keys": mixed}, server)
    levels = [{"country": c, "level_band": b} for c in (*COUNTRIES, "XX") for b in (3, "4", 99)]
    yield post("batch of two key fields", {"model": "difficulty", "keys": levels}, server)
    yield post("batch without a model", {"keys": keys}, server)
    yield post("batch of the other tenant's model", {"model": "secret-plans", "keys": keys}, server)
    yield post("batch with a player token", {"keys": keys}, scene.token(sub=player(1), models=["offers"]))
    yield post("batch as bits", {"keys": keys}, narrow, ("Accept", BITS))
    yield post("batch, bits preferred", {"keys": keys}, narrow, ("Accept", f"{BITS}, application/json;q=0.1"))
    yield post("batch without JSON's type", {"keys": keys}, narrow, ("Content-Type", "text/plain"))
    yield post("batch with a charset", {"keys": keys}, narrow, ("Content-Type", "application/json; charset=utf-8"))
    yield post("batch with a bad token", {"keys": keys}, "nonsense")
    for name, body in {
        "nothing": b"",
        "no JSON": b"{",
        "a list": b"[]",
        "null": b"null",
        "no keys": b"{}",
        "keys null": b'{"keys":null}',
        "keys empty": b'{"keys":[]}',
        "keys of texts": b'{"keys":["a"]}',
        "a value that is a list": b'{"keys":[{"player_id":["a"]}]}',
        "a value that is true": b'{"keys":[{"player_id":true}]}',
        "a value that is a fraction": b'{"keys":[{"player_id":1.5}]}',
        "a value that is null": b'{"keys":[{"player_id":null}]}',
        "a huge number": b'{"keys":[{"player_id":123456789012345678901234567890}]}',
        "something more": b'{"keys":[{"player_id":"a"}],"more":1}',
        "not UTF-8": b'{"keys":[{"player_id":"\xff"}]}',
        "a lone surrogate": b'{"keys":[{"player_id":"\\ud800"}]}',
        "deep nesting": b'{"keys":' + b"[" * 5000,
        "two documents": b'{"keys":[{"player_id":"a"}]}{}',
    }.items():
        yield post(f"body: {name}", body, narrow)
    good = json.dumps({"keys": keys[:3]}).encode()
    chunked = f"{len(good):x}\r\n".encode() + good + b"\r\n0\r\n\r\n"
    head = request(
        "POST",
        PATH,
        [("Authorization", f"Bearer {narrow}"), ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")],
    )
    yield Case("a chunked body", head + chunked)
    yield Case(
        "a query with a body",
        request(
            "POST",
            f"{PATH}?model=offers",
            [("Authorization", f"Bearer {server}"), ("Content-Type", "application/json")],
            good,
        ),
    )


def _paths(scene: Scene) -> Iterator[Case]:
    token = scene.token(sub=player(1), models=["offers"])
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "FOO"):
        yield get(f"method {method}", "", token, method=method)
    for path in ("/v1/", "/v1/recommendations/", "/v1/recommendation", "/v1/RECOMMENDATIONS", "/v1/recommendations/x"):
        yield Case(f"path {path}", request("GET", path, [("Authorization", f"Bearer {token}")]))
    yield Case("path escaped", request("GET", "/v1/recommend%61tions", [("Authorization", f"Bearer {token}")]))
