"""Tokens: what is accepted, and a museum of what is not. Each of the latter is a BadToken, so a 401, never a 500."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, get_args

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from serving.formats import snapshot as published
from serving.formats.tokens import (
    MAX_TOKEN_BYTES,
    BadToken,
    TokenRefusal,
    derive_key,
    header_parameters,
    header_segment,
)
from serving.world import Caller, World
from tests.serving_world import (
    MASTER_KEYS,
    NOW,
    claims,
    credential,
    model,
    signer,
    studio_token,
    tenant,
    token,
    world,
)

ED = ed25519.Ed25519PrivateKey.from_private_bytes(b"e" * 32)
ES = ec.derive_private_key(12345, ec.SECP256R1())
RS = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
OTHER_ED = ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32)
STUDIO = {"cr_ed": ("EdDSA", ED), "cr_es": ("ES256", ES), "cr_rs": ("RS256", RS)}


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: Any, payload: Any, key: bytes | None = None) -> str:
    """Return an HMAC token with exactly this header, signed with `cr_one`'s key unless told otherwise."""
    text = f"{header if isinstance(header, str) else segment(header)}.{segment(payload)}"
    key = key or derive_key(MASTER_KEYS["mk1"], "mk1", "cr_one", 1)
    return f"{text}.{segment(hmac.digest(key, text.encode(), 'sha256'))}"


OWN_HEADER = {"alg": "HS256", "typ": "JWT", **header_parameters("cr_one", 1, "mk1")}
OWN_SEGMENT = header_segment("cr_one", 1, "mk1").decode()


def served() -> World:
    return world(
        tenant(
            model(),
            credentials=(
                credential(),
                *(signer(kid, algorithm, key) for kid, (algorithm, key) in STUDIO.items()),
            ),
        ),
        tenant(tenant_id="t2", slug="borealis", credentials=(credential("cr_two"),)),
    )


def caller(bearer: str | bytes, now: float = NOW) -> Caller:
    return served().caller(f"Bearer {bearer if isinstance(bearer, str) else bearer.decode('latin-1')}", now)


def refuse(bearer: str | bytes, now: float = NOW) -> None:
    with pytest.raises(BadToken):
        caller(bearer, now)


# --- Accepted -------------------------------------------------------------------------------------------------------


def test_own_token__names_credential_subject_and_models() -> None:
    who = caller(token(sub="ana", models=["offers"]))
    assert who.credential.published.id == "cr_one"
    assert (who.claims.subject, who.claims.models, who.claims.expires_at) == ("ana", ("offers",), NOW + 900)


def test_own_token__is_what_pyjwt_writes_with_sorted_keys() -> None:
    assert token().partition(".")[0] == OWN_SEGMENT
    assert json.loads(base64.urlsafe_b64decode(OWN_SEGMENT + "==")) == OWN_HEADER


@pytest.mark.parametrize("kid", STUDIO)
def test_studio_token__with_its_credentials_algorithm__accepted(kid: str) -> None:
    algorithm, key = STUDIO[kid]
    who = caller(studio_token(kid, algorithm, key, sub="ana"))
    assert (who.credential.published.id, who.claims.subject) == (kid, "ana")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["somebody", "the-audience"]},
        {"tenant": "aurora"},
        {"nbf": NOW + 30},
        {"iat": NOW + 30, "exp": NOW + 900},
        {"iat": NOW, "exp": NOW + 24 * 3600},
        {"sub": "ü" * 128},
        {"models": []},
        {"jti": "x", "anything": {"else": [1]}},
    ],
)
def test_claims__at_the_edge__accepted(changes: dict[str, Any]) -> None:
    assert caller(token(**changes)).claims.expires_at == changes.get("exp", NOW + 900)
    assert caller(studio_token("cr_ed", "EdDSA", ED, **changes)).credential.published.id == "cr_ed"


def test_leeway__thirty_seconds_after_the_end() -> None:
    assert caller(token(), NOW + 929.9)
    refuse(token(), NOW + 930)


def test_verified_before__refused_once_it_has_expired() -> None:
    known = served()
    assert known.caller(f"Bearer {token()}", NOW)
    with pytest.raises(BadToken):
        known.caller(f"Bearer {token()}", NOW + 930)


def test_refused__why_is_told_apart_for_whoever_counts_it() -> None:
    good = token()
    later = (published.AcceptedKey(2, "mk1"), published.AcceptedKey(1, "mk1", NOW + 10))
    retiring = world(tenant(credentials=(credential(accepted=later),)))
    whys: dict[TokenRefusal, list[tuple[World, str | None, float]]] = {
        "missing": [(served(), None, NOW)],
        "malformed": [
            (served(), f"Basic {good}", NOW),
            (served(), "Bearer x.y", NOW),
            (served(), "Bearer x.y.z", NOW),
            (served(), f"Bearer {'x' * 5000}", NOW),
            (served(), f"Bearer {signed(OWN_SEGMENT, b'[]')}", NOW),
            (served(), f"Bearer {studio_token('cr_ed', 'ES256', ES)}", NOW),
            (served(), f"Bearer {signed({'alg': 'EdDSA', 'kid': 'cr_ed', 'x5c': ['A' * 800]}, claims())}", NOW),
            (served(), f"Bearer {signed(b'[' * 3000, claims())}", NOW),
        ],
        "unknown_credential": [(served(), f"Bearer {token('cr_nobody')}", NOW)],
        "revoked": [(served(), f"Bearer {token(generation=2)}", NOW), (retiring, f"Bearer {good}", NOW + 10)],
        "signature": [
            (served(), f"Bearer {good[:-4]}AAAA", NOW),
            (served(), f"Bearer {studio_token('cr_ed', 'EdDSA', OTHER_ED)}", NOW),
        ],
        "expired": [(served(), f"Bearer {good}", NOW + 930)],
        "clock": [
            (served(), f"Bearer {token(iat=NOW + 31)}", NOW),
            (served(), f"Bearer {token(nbf=NOW + 31)}", NOW),
        ],
        "claims": [
            (served(), f"Bearer {token(**changes)}", NOW)
            for changes in ({"aud": "x"}, {"iss": "x"}, {"tenant": "x"}, {"sub": ""}, {"exp": NOW + 10**6})
        ],
    }
    assert whys.keys() == set(get_args(TokenRefusal))
    for why, cases in whys.items():
        for known, authorization, now in cases:
            with pytest.raises(BadToken) as refused:
                known.caller(authorization, now)
            assert refused.value.reason == why, refused.value


# --- Refused: claims ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...},
        {"exp": 1e30},
        {"exp": 10**30},
        {"exp": float(NOW + 900)},
        {"exp": str(NOW + 900)},
        {"exp": True},
        {"exp": None},
        {"exp": [NOW + 900]},
        {"exp": -1},
        {"exp": NOW - 31, "iat": NOW - 100},
        {"exp": NOW, "iat": NOW},
        {"exp": NOW + 24 * 3600 + 1},
        {"exp": NOW + 100, "iat": NOW + 200},
        {"iat": ...},
        {"iat": 1.5},
        {"iat": str(NOW)},
        {"iat": False},
        {"iat": NOW + 31, "exp": NOW + 900},
        {"nbf": NOW + 31},
        {"nbf": "soon"},
        {"nbf": None},
        {"aud": ...},
        {"aud": "somebody"},
        {"aud": ["somebody"]},
        {"aud": []},
        {"aud": {"the-audience": 1}},
        {"aud": None},
        {"iss": ...},
        {"iss": "somebody"},
        {"iss": ["the-issuer"]},
        {"iss": None},
        {"tenant": "borealis"},
        {"tenant": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": None},
        {"sub": "a\x00b"},
        {"sub": "ü" * 129},
        {"models": "offers"},
        {"models": [1]},
        {"models": None},
        {"models": {"offers": 1}},
    ],
)
def test_claims__missing_or_odd__refused(changes: dict[str, Any]) -> None:
    refuse(signed(OWN_SEGMENT, claims(**changes)))
    studio_changes = changes if "iss" in changes else {"iss": "the-studio", **changes}
    payload = claims(**studio_changes)
    refuse(jwt.api_jws.encode(json.dumps(payload).encode(), ED, "EdDSA", headers={"kid": "cr_ed"}))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_payload__in_another_encoding__refused(encoding: str) -> None:
    refuse(signed(OWN_SEGMENT, json.dumps(claims()).encode(encoding)))
    payload = json.dumps(claims(iss="the-studio"))
    assert caller(jwt.api_jws.encode(payload.encode(), ED, "EdDSA", headers={"kid": "cr_ed"}))
    refuse(jwt.api_jws.encode(payload.encode(encoding), ED, "EdDSA", headers={"kid": "cr_ed"}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"17",
        b"{",
        b"\xff\xfe",
        b'{"exp": NaN}',
        b'{"exp": Infinity}',
        b'{"exp": 1e999}',
        b'{"sub": "\\ud800", "exp": 1800000900, "iat": 1800000000, "aud": "the-audience", "iss": "the-issuer"}',
        b"[" * 2000 + b"]" * 2000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"9" * 2000,
        b'{"exp": ' + b"9" * 2000 + b"}",
    ],
)
def test_payload__no_json_object_or_a_monstrous_one__refused(payload: bytes) -> None:
    refuse(signed(OWN_SEGMENT, payload))
    refuse(jwt.api_jws.encode(payload, ED, "EdDSA", headers={"kid": "cr_ed"}))


# --- Refused: header and signature ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", None, "HS256", "HS384", "RS256", ["HS256"], 1]
)
@pytest.mark.parametrize("kid", ["cr_one", "cr_ed", "cr_rs"])
def test_algorithm__is_never_negotiated(algorithm: Any, kid: str) -> None:
    payload = segment(claims(iss="the-studio" if kid != "cr_one" else "the-issuer"))
    header = segment({"alg": algorithm, "typ": "JWT", "kid": kid})
    for signature in ("", "AA", segment(b"x" * 32), segment(hashlib.sha256(payload.encode()).digest())):
        refuse(f"{header}.{payload}.{signature}")


def test_public_key_as_hmac_secret__refused() -> None:
    pem = RS.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for key in (pem, pem.strip()):
        refuse(signed({"alg": "HS256", "typ": "JWT", "kid": "cr_rs"}, claims(iss="the-studio"), key))


def test_right_key_but_another_header__refused() -> None:
    key = derive_key(MASTER_KEYS["mk1"], "mk1", "cr_one", 1)
    for header in (
        {**OWN_HEADER, "extra": 1},
        {**OWN_HEADER, "crit": ["gen"]},
        {**OWN_HEADER, "typ": "at+jwt"},
        {name: value for name, value in OWN_HEADER.items() if name != "typ"},
        {"alg": "HS256", "kid": "cr_one"},
        dict(sorted(OWN_HEADER.items(), reverse=True)),
        {**OWN_HEADER, "jwk": {"kty": "oct", "k": segment(key)}},
    ):
        refuse(signed(header, claims(), key))
    refuse(signed(segment(json.dumps(OWN_HEADER, sort_keys=True).encode()), claims(), key))  # with spaces
    refuse(signed(OWN_SEGMENT + "=", claims(), key))


def test_longer_hmac_with_the_right_key__refused() -> None:
    key = derive_key(MASTER_KEYS["mk1"], "mk1", "cr_one", 1)
    for algorithm in ("HS384", "HS512"):
        refuse(jwt.encode(claims(), key * 2, algorithm=algorithm, headers=header_parameters("cr_one", 1, "mk1")))


@pytest.mark.parametrize(
    "kid",
    [
        "",
        "nobody",
        "cr one",
        "cr_one\n",
        "../../etc/passwd",
        "' OR 1=1 --",
        "x" * 65,
        1,
        None,
        ["cr_ed"],
        {"a": 1},
        True,
    ],
)
def test_kid__unknown_or_malformed__refused(kid: Any) -> None:
    header = segment({"alg": "EdDSA", "typ": "JWT", "kid": kid})
    text = f"{header}.{segment(claims(iss='the-studio'))}"
    refuse(f"{text}.{segment(ED.sign(text.encode()))}")


def test_kid__of_another_credential__refused() -> None:
    refuse(studio_token("cr_ed", "EdDSA", OTHER_ED))
    refuse(studio_token("cr_one", "EdDSA", ED))
    refuse(studio_token("cr_es", "EdDSA", ED))
    refuse(studio_token("cr_ed", "ES256", ES))
    key_of_one = derive_key(MASTER_KEYS["mk1"], "mk1", "cr_one", 1)
    refuse(signed(header_segment("cr_two", 1, "mk1").decode(), claims(), key_of_one))
    assert caller(token("cr_two")).credential.tenant_id == "t2"
    refuse(token("cr_two", tenant="aurora"))


def test_kid__missing__refused() -> None:
    refuse(jwt.encode(claims(iss="the-studio"), ED, algorithm="EdDSA"))


def test_key_of_another_generation_or_master_key__refused() -> None:
    refuse(token(generation=2))
    refuse(token(master_key_id="mk2"))
    refuse(signed(OWN_SEGMENT, claims(), derive_key(MASTER_KEYS["mk1"], "mk1", "cr_one", 2)))
    refuse(signed(OWN_SEGMENT, claims(), derive_key(MASTER_KEYS["mk2"], "mk1", "cr_one", 1)))
    refuse(signed(OWN_SEGMENT, claims(), derive_key(MASTER_KEYS["mk2"], "mk2", "cr_one", 1)))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "EdDSA", "kid": "cr_ed", "crit": ["exp"]},
        {"alg": "EdDSA", "kid": "cr_ed", "crit": ["b64"], "b64": False},
        {"alg": "EdDSA", "kid": "cr_ed", "b64": False},
        {"alg": "eddsa", "kid": "cr_ed"},
        {"alg": "Ed25519", "kid": "cr_ed"},
        {"kid": "cr_ed"},
        [["alg", "EdDSA"], ["kid", "cr_ed"]],
        "EdDSA",
        None,
    ],
)
def test_studio_header__odd__refused(header: Any) -> None:
    text = f"{segment(header)}.{segment(claims(iss='the-studio'))}"
    refuse(f"{text}.{segment(ED.sign(text.encode()))}")


def test_header__a_key_that_comes_with_the_token__is_not_used() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": segment(OTHER_ED.public_key().public_bytes_raw())}
    for extra in ({"jwk": jwk}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/cert"}):
        refuse(jwt.encode(claims(iss="the-studio"), OTHER_ED, algorithm="EdDSA", headers={"kid": "cr_ed", **extra}))


@pytest.mark.parametrize(("kid", "algorithm"), [("cr_ed", "EdDSA"), ("cr_one", "HS256")])
def test_base64__not_canonical__refused(kid: str, algorithm: str) -> None:
    good = token() if kid == "cr_one" else studio_token(kid, algorithm, ED)
    assert caller(good)
    header, payload, signature = good.split(".")
    stray = signature[:-1] + chr(ord(signature[-1]) + 1)
    for odd in (
        f"{good}=",
        f"{good}==",
        f"{header}.{payload}.{stray}",
        f"{header}.{payload}.{signature}\n",
        f"{header}.{payload}. {signature}",
        f"{header}.{payload}.{signature[:4]}!{signature[4:]}",
        f"{header}.{payload}.{signature.replace('-', '+').replace('_', '/')}!",
        f"{header}.{payload}=.{signature}",
        f"{header}=.{payload}.{signature}",
        f"\t{good}",
        f"{good}.",
        f".{good}",
        f"{header}.{payload}.",
        f"{header}..{signature}",
        f".{payload}.{signature}",
        f"{header}.{payload}",
        "..",
        ".",
        "",
    ):
        refuse(odd)


@pytest.mark.parametrize("kid", ["cr_one", "cr_ed", "cr_es", "cr_rs"])
def test_signature__any_bit_changed__refused(kid: str) -> None:
    good = token() if kid == "cr_one" else studio_token(kid, *STUDIO[kid])
    head, _, signature = good.rpartition(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    for position in (0, len(raw) // 2, len(raw) - 1):
        changed = bytearray(raw)
        changed[position] ^= 1
        refuse(f"{head}.{segment(bytes(changed))}")
    refuse(f"{head}.{segment(bytes(raw[:-1]))}")
    refuse(f"{head}.{segment(bytes(raw) + b'x')}")


def test_length__four_kib_and_not_a_byte_more() -> None:
    for kid in ("cr_one", "cr_ed"):

        def of_length(filler: int, kid: str = kid) -> str:
            extra: dict[str, Any] = {"filler": "x" * filler}
            return token(**extra) if kid == "cr_one" else studio_token(kid, "EdDSA", ED, **extra)

        lengths = {len(of_length(filler)): of_length(filler) for filler in range(2600, 2960)}
        longest = max(length for length in lengths if length <= MAX_TOKEN_BYTES)
        assert longest >= MAX_TOKEN_BYTES - 1
        assert caller(lengths[longest])
        refuse(lengths[min(length for length in lengths if length > MAX_TOKEN_BYTES)])


@given(garbage=st.binary(max_size=200))
def test_any_bytes_at_all__refused_and_nothing_worse(garbage: bytes) -> None:
    refuse(garbage)


@given(header=st.binary(max_size=60), payload=st.binary(max_size=60), signature=st.binary(max_size=70))
def test_any_three_segments__refused_and_nothing_worse(header: bytes, payload: bytes, signature: bytes) -> None:
    refuse(f"{segment(header)}.{segment(payload)}.{segment(signature)}")
    refuse(f"{OWN_SEGMENT}.{segment(payload)}.{segment(signature)}")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    changed=st.dictionaries(
        st.sampled_from(["exp", "iat", "nbf", "aud", "iss", "sub", "tenant", "models"]), JSON_VALUES
    )
)
def test_any_claims_rightly_signed__accepted_or_refused_and_nothing_worse(changed: dict[str, Any]) -> None:
    for bearer in (
        signed(OWN_SEGMENT, {**claims(), **changed}),
        jwt.api_jws.encode(
            json.dumps({**claims(iss="the-studio"), **changed}).encode(), ED, "EdDSA", headers={"kid": "cr_ed"}
        ),
    ):
        try:
            who = caller(bearer)
        except BadToken:
            continue
        assert 0 < who.claims.expires_at - NOW <= 24 * 3600 + 30


def test_at_most_two_headers__of_a_credential() -> None:
    accepted = (published.AcceptedKey(2, "mk1"), published.AcceptedKey(1, "mk1", NOW + 10))
    known = world(tenant(credentials=(credential(accepted=accepted),)))
    assert len(known._by_header) == 2
