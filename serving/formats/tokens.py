"""Tokens: how a credential's key is derived, what its tokens' header is, and what makes a token good.

Tokens this service signs are checked without negotiation: the header segment must equal, byte for byte, a header that
some credential's tokens have, and that header alone names credential, key and algorithm. Every other token goes
through PyJWT with the one algorithm of its credential.
"""

from __future__ import annotations

import hmac
import re
from typing import Annotated, Any, Literal

import jwt
import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import UNSET, UnsetType

from serving.formats.encoding import base64url_decode, base64url_encode

MAX_TOKEN_BYTES = 4096
# Of the first segment, which is read before anything is verified. Whoever signs puts `alg`, `typ` and `kid` there.
MAX_HEADER_BYTES = 1024
MAX_LIFE_SECONDS = 24 * 3600
LEEWAY_SECONDS = 30
MAX_UNIT_BYTES = 256
KID = re.compile(r"[A-Za-z0-9_-]{1,64}")


# What is counted of tokens that are not accepted. `revoked`: of a known credential, but signed with a secret that was
# retired, or under a master key that this process was not given. `clock`: issued, or valid, only in the future.
# `claims`: for another audience or tenant, from another issuer, or valid for too long.
TokenRefusal = Literal[
    "missing", "malformed", "unknown_credential", "revoked", "signature", "expired", "clock", "claims"
]


class _Header(msgspec.Struct, gc=False):
    """All that counts of a header; what else there is is passed over, not built."""

    kid: str


class BadToken(ValueError):
    """A token that is not accepted. Why is for numbers and a debug log, never for the caller."""

    @property
    def reason(self) -> TokenRefusal:
        """Return what it was raised with first; a text for people comes second."""
        reason: TokenRefusal = self.args[0]
        return reason


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What a good token says. Times are Unix seconds.

    Attributes:
        subject: the player the token is for; None in a server token.
        models: the slugs it is narrowed to; None for all of its credential's.
    """

    expires_at: int
    subject: str | None
    models: tuple[str, ...] | None


_Time = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Payload(msgspec.Struct, gc=False):
    """A payload whose signature is good, with the claims that count in their types; nothing else of it is checked."""

    exp: _Time
    iat: _Time
    aud: str | list[str]
    iss: str
    nbf: _Time | UnsetType = UNSET
    sub: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    tenant: str | UnsetType = UNSET


# PyJWT looks at no claim: `check_claims` does.
_SIGNATURE_ALONE: Any = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
_payloads = msgspec.json.Decoder(Payload)
_headers = msgspec.json.Decoder(_Header)


# --- Keys and headers of the tokens this service signs ------------------------------------------------------------


def parse_master_keys(setting: str) -> dict[str, bytes]:
    """Read `id:base64url,…` (the setting RECSITE_TOKEN_MASTER_KEYS); the first mints.

    Raises:
        ValueError: a key is missing, shorter than 32 bytes, or its id is not of the form of a `kid`.
    """
    keys: dict[str, bytes] = {}
    for item in setting.split(","):
        key_id, _, raw = item.strip().partition(":")
        key = base64url_decode(raw)
        if not KID.fullmatch(key_id) or len(key) < 32:
            raise ValueError("each key is id:base64url of at least 32 bytes")
        keys[key_id] = key
    return keys


def derive_key(master_key: bytes, master_key_id: str, credential_id: str, generation: int) -> bytes:
    """Return the 32-byte HMAC key of one secret generation of a credential (HKDF-SHA256, RFC 5869)."""
    info = f"recsite token\x00{credential_id}\x00{generation}\x00{master_key_id}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(master_key)


def header_parameters(credential_id: str, generation: int, master_key_id: str) -> dict[str, Any]:
    """Return what the header holds besides `alg` and `typ`."""
    return {"kid": credential_id, "gen": generation, "mk": master_key_id}


def header_segment(credential_id: str, generation: int, master_key_id: str) -> bytes:
    """Return the first segment of every token signed with this key: exactly as PyJWT writes it, keys sorted."""
    header = {"alg": "HS256", "typ": "JWT", **header_parameters(credential_id, generation, master_key_id)}
    return base64url_encode(msgspec.json.encode(header, order="sorted")).encode()


# --- Checking -------------------------------------------------------------------------------------------------------


def hmac_of(key: bytes) -> HMAC:
    """Return what `check_hs256` takes: a copy of it costs half of what setting up a new one does."""
    return HMAC(key, SHA256())


def check_hs256(token: bytes, header_length: int, key: HMAC) -> Payload:
    """Check the signature of a token whose header was found to be this service's own; return its payload.

    Raises:
        BadToken: the signature does not fit, the payload is no JSON object, or a claim is missing or of another type.
    """
    signed, _, signature = token.rpartition(b".")
    own = key.copy()
    own.update(signed)
    # Compared as they are spelled: what is not canonical base64url cannot be equal.
    if not hmac.compare_digest(base64url_encode(own.finalize()).encode(), signature):
        raise BadToken("signature", "it does not fit")
    try:
        return _payloads.decode(base64url_decode(signed[header_length + 1 :]))
    except (ValueError, RecursionError):
        raise BadToken("malformed", "payload is not as it must be") from None


def unverified_kid(token: bytes) -> str:
    """Return the `kid` of a token, nothing verified: only good for finding the key to verify it with.

    Raises:
        BadToken: there is none, or it is not of the form `[A-Za-z0-9_-]{1,64}`, or the header is longer than 1 KiB.
    """
    segment = token.partition(b".")[0]
    if len(segment) > MAX_HEADER_BYTES:
        raise BadToken("malformed", "header is longer than 1 KiB")
    try:
        kid = _headers.decode(base64url_decode(segment)).kid
    except (ValueError, RecursionError):
        raise BadToken("malformed", "header is not JSON with a kid") from None
    if not KID.fullmatch(kid):
        raise BadToken("malformed", "no usable kid")
    return kid


def check_with_pyjwt(token: bytes, public_key: Any, algorithm: str) -> Payload:
    """Check the signature of a studio-signed token with its credential's one algorithm; return its payload.

    Raises:
        BadToken: anything at all is odd about it.
    """
    try:
        # PyJWT reads past padding, stray bits and bytes that are no base64url: one token would have many spellings.
        _, payload, _ = [base64url_decode(segment) for segment in token.split(b".")]
        jwt.decode(token, public_key, algorithms=[algorithm], options=_SIGNATURE_ALONE)
        # PyJWT also reads UTF-16, and UTF-8 behind a byte order mark; our own tokens' payloads are read as this does.
        return _payloads.decode(payload)
    except jwt.InvalidSignatureError:
        raise BadToken("signature", "it does not fit") from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadToken("malformed", str(error)) from None


def check_claims(payload: Payload, *, now: float, audience: str, issuer: str, tenant_slug: str) -> Claims:
    """Check a verified payload's claims.

    Required: `exp` and `iat` (whole numbers, at most 24 h apart), `aud`, `iss`. `nbf`, `sub`, `models` and `tenant`
    are checked where they are given. Leeway is 30 s.

    Raises:
        BadToken: a claim does not hold now.
    """
    expires_at, issued_at, not_before = payload.exp, payload.iat, payload.nbf
    if not 0 < expires_at - issued_at <= MAX_LIFE_SECONDS:
        raise BadToken("claims", "lives longer than 24 h, or not at all")
    if now >= expires_at + LEEWAY_SECONDS:
        raise BadToken("expired", "its end has passed")
    if issued_at > now + LEEWAY_SECONDS:
        raise BadToken("clock", "issued in the future")
    if not_before is not UNSET and not_before > now + LEEWAY_SECONDS:
        raise BadToken("clock", "not valid yet")
    given_audience = payload.aud
    if given_audience != audience and (isinstance(given_audience, str) or audience not in given_audience):
        raise BadToken("claims", "for another audience")
    if payload.iss != issuer:
        raise BadToken("claims", "from another issuer")
    if payload.tenant is not UNSET and payload.tenant != tenant_slug:
        raise BadToken("claims", "for another tenant")
    subject, models = payload.sub, payload.models
    if subject is UNSET:
        return Claims(expires_at, None, None if models is UNSET else models)
    if not is_unit(subject):
        raise BadToken("claims", "sub is no unit")
    return Claims(expires_at, subject, None if models is UNSET else models)


def is_unit(text: str) -> bool:
    """Tell whether a text can be bucketed: not empty, at most 256 bytes of UTF-8, no control character."""
    if text.isascii() and text.isprintable():
        return 0 < len(text) <= MAX_UNIT_BYTES
    try:
        return min(text) >= " " and len(text.encode()) <= MAX_UNIT_BYTES
    except UnicodeEncodeError:
        return False
