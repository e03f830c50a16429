"""The world: every tenant's newest snapshot, indexed so that a request finds all it needs in a few look-ups.

Pure: no clock, no socket, no file. `serving.snapshots` brings it snapshots from one thread; the engine asks it
questions, from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.hmac import HMAC

from serving.formats import snapshot as published
from serving.formats.tokens import (
    MAX_TOKEN_BYTES,
    BadToken,
    Claims,
    Payload,
    TokenRefusal,
    check_claims,
    check_hs256,
    check_with_pyjwt,
    derive_key,
    header_segment,
    hmac_of,
    unverified_kid,
)
from serving.limits import Bucket
from serving.prepared import PreparedCredential, PreparedTenant
from serving.verified import VerifiedTokens

# A caller who was refused tends to send the same token again.
MAX_REFUSED_TOKENS = 2048
# How long a token is taken as it is that names models which its credential does not have, or not yet.
_MODELS_HOLD_SECONDS = 60


class Outdated(ValueError):
    """A snapshot that is older than the one already here."""


class OverLimit(Exception):
    """A token that is not verified, because that would cost more than its credential may.

    Attributes:
        tenant_id: whose credential it is.
        reason: the limit that is reached.
        seconds: how long to wait.
    """

    def __init__(self, tenant_id: str, reason: Literal["credential", "tenant", "bad_tokens"], seconds: float) -> None:
        super().__init__(tenant_id, reason, seconds)
        self.tenant_id = tenant_id
        self.reason = reason
        self.seconds = seconds


class Caller(msgspec.Struct, gc=False):
    """Who a good token says is asking.

    The garbage collector leaves it, and its claims, alone: they are in no cycle, tens of thousands of them are kept,
    and to walk them all would hold up every request of that moment.

    Attributes:
        good_until: Unix seconds; from then on the token is looked at anew.
    """

    credential: PreparedCredential
    claims: Claims
    good_until: int


class World:
    """Every tenant that serving knows. Master keys and seal keys are by id; the audience is what `aud` must be.

    Attributes:
        tenants: by id.
        missing: ids of tenants that are promised and not here.
        was_whole: all that was promised was here once; also where that was nobody.
        uses: requests so far by credential id; a batch counts once.
        first_share: of its limit that a bucket begins with, as other processes have the rest.
    """

    def __init__(
        self, master_keys: dict[str, bytes], audience: str, seal_keys: Mapping[str, bytes] | None = None
    ) -> None:
        self.tenants: dict[str, PreparedTenant] = {}
        self.missing: frozenset[str] = frozenset()
        self.was_whole = False
        self.uses: dict[str, int] = {}
        self.first_share = 1.0
        self._master_keys = master_keys
        self._seal_keys = seal_keys or {}
        self._audience = audience
        self._by_header: dict[bytes, PreparedCredential] = {}
        self._by_kid: dict[str, PreparedCredential] = {}
        self._verified: VerifiedTokens[Caller, PreparedCredential] = VerifiedTokens()
        self._refused: dict[str, tuple[PreparedCredential, TokenRefusal]] = {}

    def put(self, snapshot: published.Snapshot) -> None:
        """Replace a tenant's snapshot by a newer one. All of it is prepared before any of it is used.

        Raises:
            Outdated: the one here is newer, or as new.
            BadSnapshot, BadLayout, BadValue: it contradicts itself; the one before stays.
        """
        before = self.tenants.get(snapshot.tenant.id)
        if before is not None and snapshot.revision <= before.revision:
            raise Outdated(f"revision {snapshot.revision} is not newer than {before.revision}")
        tenant = PreparedTenant(snapshot, self._seal_keys, before)
        known = before.credentials if before is not None else {}
        for credential in snapshot.tenant.credentials:
            same = known.get(credential.id)
            # An unchanged credential keeps its bucket and its verified tokens.
            tenant.credentials[credential.id] = (
                same if same is not None and same.published == credential else self._prepare(credential, tenant.id)
            )
        if before is not None and before.bucket.is_like(tenant.bucket):
            tenant.bucket = before.bucket
        else:
            tenant.bucket.allot(self.first_share)
        # In this order no request of another thread meets a credential without its tenant, or a gap between secrets.
        self.tenants[tenant.id] = tenant
        for prepared in tenant.credentials.values():
            prepared.know(tenant.models)
            self._by_kid[prepared.published.id] = prepared
            for header in prepared.keys:
                self._by_header[header] = prepared
        for credential_id, prepared in known.items():
            if tenant.credentials.get(credential_id) is not prepared:
                self._forget(prepared)

    def buckets(self) -> dict[str, Bucket]:
        """Return every bucket by a name that is the same in all processes."""
        named: dict[str, Bucket] = {}
        for tenant in tuple(self.tenants.values()):
            named[f"t:{tenant.id}"] = tenant.bucket
            for credential_id, credential in tenant.credentials.items():
                named[f"c:{credential_id}"] = credential.bucket
        return named

    def caller(self, authorization: str | None, now: float) -> Caller:
        """Return who the token of an Authorization header (None where it is absent) speaks for; `now` in Unix seconds.

        Raises:
            BadToken: it is not accepted, for whatever reason.
            OverLimit: it was not looked at.
        """
        if authorization is None:
            raise BadToken("missing", "there is none")
        known = self._verified.callers.get(authorization)
        if known is not None and known.credential.is_live and now < known.good_until:
            return known
        token = _bearer_token(authorization)
        as_kept = f"Bearer {token}"
        if as_kept != authorization:
            return self.caller(as_kept, now)  # however it is spelled, it is kept once
        if known is not None:
            self._verified.forget(authorization, known.credential)
        caller = self._verify(authorization, token.encode(), now)
        # Whoever is over a limit is verified each time: one who has a key could fill the memory with good tokens.
        if not caller.credential.bucket.wait(now):
            self._verified.keep(authorization, caller, caller.credential)
        return caller

    def _verify(self, authorization: str, token: bytes, now: float) -> Caller:
        header = token[: token.index(b".")]
        credential = self._by_header.get(header)
        if credential is None:
            return self._verify_studios_own(authorization, token, now)
        key, until = credential.keys[header]
        if until is not None and now >= until:
            raise BadToken("revoked", "signed with a secret that was retired")
        return self._caller(credential, check_hs256(token, len(header), key), until, now)

    def _verify_studios_own(self, authorization: str, token: bytes, now: float) -> Caller:
        """Verify a token that a studio's own key signs, within what that may cost."""
        kid = unverified_kid(token)
        credential = self._by_kid.get(kid)
        if credential is None:
            raise BadToken("unknown_credential", "no credential has this id")
        if credential.public_key is None:
            raise BadToken("revoked", "no secret of its credential signs tokens with this header")
        refused = self._refused.get(authorization)
        if refused is not None and refused[0] is credential:
            raise BadToken(refused[1], "it was before")
        self._check_may_cost(credential, now)
        try:
            payload = check_with_pyjwt(token, credential.public_key, credential.published.algorithm)
            return self._caller(credential, payload, None, now)
        except BadToken as bad:
            credential.bad_tokens.take(1, now)
            # What becomes good by waiting, or by a change of the studio, is not remembered.
            if bad.reason in ("signature", "malformed", "expired"):
                if len(self._refused) >= MAX_REFUSED_TOKENS:
                    self._refused.clear()
                self._refused[authorization] = credential, bad.reason
            raise

    def _check_may_cost(self, credential: PreparedCredential, now: float) -> None:
        """Raise OverLimit where a request with this token would meet a limit, or too many of its kind were bad."""
        tenant_id = credential.tenant_id
        if wait := credential.bad_tokens.wait(now):
            raise OverLimit(tenant_id, "bad_tokens", wait)
        if wait := credential.bucket.wait(now):
            raise OverLimit(tenant_id, "credential", wait)
        if wait := self.tenants[tenant_id].bucket.wait(now):
            raise OverLimit(tenant_id, "tenant", wait)

    def _caller(self, credential: PreparedCredential, payload: Payload, until: int | None, now: float) -> Caller:
        tenant = self.tenants[credential.tenant_id]
        claims = check_claims(
            payload, now=now, audience=self._audience, issuer=credential.published.issuer, tenant_slug=tenant.slug
        )
        good_until = claims.expires_at if until is None else min(until, claims.expires_at)
        if claims.models is not None:
            # The names are the models' own, and others are not kept: a token may name hundreds.
            named = frozenset(claims.models)
            mine = tuple(model.slug for slug in named if (model := tenant.models.get(slug)) is not None)
            if len(mine) < len(named):
                good_until = min(good_until, int(now) + _MODELS_HOLD_SECONDS)
            claims = msgspec.structs.replace(claims, models=mine)
        return Caller(credential, claims, good_until)

    def _prepare(self, credential: published.Credential, tenant_id: str) -> PreparedCredential:
        keys: dict[bytes, tuple[HMAC, int | None]] = {}
        for accepted in credential.accepted:
            master_key = self._master_keys.get(accepted.master_key_id)
            # A lane that was not given this master key yet refuses its tokens, and serves everybody else.
            if master_key is not None:
                header = header_segment(credential.id, accepted.generation, accepted.master_key_id)
                key = derive_key(master_key, accepted.master_key_id, credential.id, accepted.generation)
                keys[header] = (hmac_of(key), accepted.until)
        prepared = PreparedCredential(credential, tenant_id, keys)
        prepared.bucket.allot(self.first_share)
        return prepared

    def _forget(self, credential: PreparedCredential) -> None:
        credential.is_live = False
        self._verified.forget_all(credential)
        # Verified tokens hold it for a while yet; it must not hold the models of its time.
        credential.know({})
        if self._by_kid.get(credential.published.id) is credential:
            del self._by_kid[credential.published.id]
        for header in credential.keys:
            if self._by_header.get(header) is credential:
                del self._by_header[header]


def _bearer_token(authorization: str) -> str:
    """Return the token of an Authorization header, of ASCII and three segments; raises BadToken."""
    token = authorization[7:].strip(" ")
    if authorization[:7].lower() != "bearer " or not token.isascii():
        raise BadToken("malformed", "not a bearer token")
    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken("malformed", "longer than 4 KiB")
    if token.count(".") != 2:
        raise BadToken("malformed", "not three segments")
    return token
