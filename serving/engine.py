"""The engine: from a request and the world to the block to read, and from the block to the answer.

Pure: both doors do nothing but bring a request here, read the blocks it asks for, and send what it answers.

    step = engine.begin(request, world, now)
    while not isinstance(step, Response):
        step = step.resume(blocks read for step.names, those from Redis passed through step.opened)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

import msgspec

from serving.formats.blocks import DamagedBlock, find_payload
from serving.formats.keys import FINGERPRINT_BYTES, MAX_KEY_BYTES, BadKey, block_name, canonical_key, digest, slot
from serving.formats.layouts import DamagedPayload
from serving.formats.tokens import BadToken, is_unit
from serving.http import (
    BATCH_NOT_ACCEPTABLE,
    BITS,
    JSON,
    METHOD_NOT_ALLOWED,
    NO_ANSWER,
    NO_SUCH_MODEL,
    NOT_ACCEPTABLE,
    NOT_JSON,
    NOT_READY,
    SERVER_ONLY,
    UNAUTHORIZED_FOR,
    VARY,
    Error,
    Exposure,
    LostBlock,
    Refused,
    Request,
    Response,
    Source,
    accepted_ranges,
    bad_request,
    head_of,
    matches_tag,
    parse_query,
    problem,
    quality_of,
    wants_bits,
)
from serving.prepared import PreparedModel, PreparedTenant, PreparedVersion
from serving.world import Caller, OverLimit, World

MAX_BATCH = 500

# A key that needs no percent-encoding: the raw text of the query string equals the decoded value.
_USUAL_KEY = re.compile(rf"[ !-$'-*,-~]{{1,{MAX_KEY_BYTES}}}").fullmatch
_NO_STORE = head_of(("cache-control", "no-store"))
_DEFAULT = head_of(("recommendation-source", "default"))
_FALLBACK = _NO_STORE + head_of(("vary", VARY), ("recommendation-source", "fallback"))
# The bits of a fingerprint, once the two bytes after it are shifted out of the digest.
_FINGERPRINT = 2 ** (8 * FINGERPRINT_BYTES) - 1
_JSON = head_of(("content-type", JSON))
_BITS = head_of(("content-type", BITS))


class Unavailable:
    """What a door returns instead of a block that it could not read in time."""


UNAVAILABLE = Unavailable()
Block = bytes | None | Unavailable


class Settings(NamedTuple):
    """The settings of the engine, the same for every request."""

    redis_prefix: str
    snapshot_max_age_seconds: float


# --- The way of a request -------------------------------------------------------------------------------------------


def begin(request: Request, world: World, now: float, settings: Settings) -> Response | Lookup | BatchLookup:
    """Return the answer, or the look-up that it needs first. `now` is in Unix seconds."""
    method = request.method
    if method not in ("GET", "POST"):
        return METHOD_NOT_ALLOWED
    try:
        caller = world.caller(request.authorization, now)
    except OverLimit as over:
        return _of(world.tenants[over.tenant_id], _rate_limited(over.reason, over.seconds))
    except BadToken as refused:
        # A server that knows nobody cannot tell a bad token from a good one, and one that lacks a tenant cannot tell
        # that tenant's from nobody's.
        knows_nobody = not world.tenants and not world.was_whole
        may_be_missing = bool(world.missing) and refused.reason == "unknown_credential"
        return NOT_READY if knows_nobody or may_be_missing else UNAUTHORIZED_FOR[refused.reason]
    credential = caller.credential
    uses = world.uses
    uses[credential.id] = uses.get(credential.id, 0) + 1
    tenant = world.tenants[credential.tenant_id]
    if now - tenant.issued_at > settings.snapshot_max_age_seconds:
        return _of(tenant, NOT_READY)
    try:
        if method == "GET":
            _charge(caller, tenant, 1, now)
            return _begin_one(request, caller, tenant, settings)
        return _begin_batch(request, caller, tenant, now, settings)
    except Refused as refused:
        return _of(tenant, refused.response)


def _of(tenant: PreparedTenant, response: Response) -> Response:
    """Return an error as one that is counted as a tenant's."""
    ((_, status, reason),) = response.errors
    return msgspec.structs.replace(response, errors=((tenant.slug, status, reason),))


def _charge(caller: Caller, tenant: PreparedTenant, cost: int, now: float) -> None:
    own, reached = caller.credential.bucket, "credential"
    wait = own.take(cost, now)
    if not wait:
        reached = "tenant"
        wait = tenant.bucket.take(cost, now)
        if not wait:
            return
        own.give_back(cost)
    raise Refused(_rate_limited(reached, wait))


def _rate_limited(reached: str, wait: float) -> Response:
    retry_after = "retry-after", str(max(1, ceil(wait)))
    return problem(429, "rate_limited", "The rate limit is reached.", retry_after, reason=reached)


def _begin_one(request: Request, caller: Caller, tenant: PreparedTenant, settings: Settings) -> Response | Lookup:
    accept = request.accept
    is_bits = accept is not None and wants_bits(accept)
    if is_bits is None:
        raise Refused(NOT_ACCEPTABLE)
    usual = _usual(request.query, caller)
    if usual is not None:
        model, unit = usual
        # A unit of a token is a key too: it is held to the same bounds.
        key = unit.encode()
    else:
        parameters = parse_query(request.query)
        model = _model(parameters.get("model"), caller, tenant)
        unknown = parameters.keys() - model.parameters
        if unknown:
            raise bad_request("unknown_parameter", f"Model {model.slug} has no parameter “{min(unknown)}”.")
        key, unit = _key_and_unit(parameters, caller, model)
    return Lookup(_version(model, unit), key, settings.redis_prefix, request.if_none_match, wants_bits=is_bits).start()


def _usual(query: str, caller: Caller) -> tuple[PreparedModel, str] | None:
    """Return the model and the one key of a query string of the usual shape (see `PreparedCredential`), else None.

    A shortcut: the rest of `_begin_one` finds the same, in four times the time.
    """
    claims, credential = caller.claims, caller.credential
    unit = claims.subject
    if unit is not None:
        model = credential.by_query.get(query)
    else:
        head, _, unit = query.rpartition("=")
        model = credential.by_query_head.get(head)
        if _USUAL_KEY(unit) is None:
            return None
    if model is None or (claims.models is not None and model.slug not in claims.models):
        return None
    return model, unit


def _may_ask(caller: Caller, slug: str) -> bool:
    narrowed, allowed = caller.claims.models, caller.credential.models
    return (narrowed is None or slug in narrowed) and (allowed is None or slug in allowed)


def _model(slug: str | None, caller: Caller, tenant: PreparedTenant) -> PreparedModel:
    """Return the model asked for, or the only one the token may ask for."""
    if slug is not None:
        model = tenant.models.get(slug)
        if model is None or not _may_ask(caller, slug):
            raise Refused(NO_SUCH_MODEL)
        return model
    mine = [model for own_slug, model in tenant.models.items() if _may_ask(caller, own_slug)]
    if not mine:
        raise Refused(NO_SUCH_MODEL)
    if len(mine) > 1:
        raise bad_request("model_required", "This token may ask for several models. Name one with “model”.")
    return mine[0]


def _key_and_unit(given: Mapping[str, str], caller: Caller, model: PreparedModel) -> tuple[bytes, str]:
    """Return which row is asked for, and whose slot decides on the version."""
    subject = caller.claims.subject
    values: list[str] = []
    for field in model.key_fields:
        value = given.get(field)
        if subject is not None and field == model.unit_field:
            if value is not None and value != subject:
                raise bad_request("bad_key", f"This token can ask for its own {field} only.")
            value = subject
        if value is None:
            raise bad_request("bad_key", f"“{field}” is missing.")
        values.append(value)
    try:
        key = canonical_key(values)
    except BadKey as error:
        raise bad_request("bad_key", f"{str(error)[0].upper()}{str(error)[1:]}.") from None
    unit = given.get("unit")
    if unit is None:
        unit = values[model.key_fields.index(model.unit_field)] if model.unit_field else key.decode()
    elif subject is not None:
        raise bad_request("bad_parameter", "“unit” is for server tokens only, those without “sub”.")
    elif not is_unit(unit):
        raise bad_request("bad_parameter", "“unit” is empty, too long, or holds a control character.")
    return key, unit


def _version(model: PreparedModel, unit: str) -> PreparedVersion:
    code = model.overrides.get(unit) if model.overrides else None
    if code is None:
        code = model.allocation[slot(model.salt, unit)]
    return model.versions[code]


class Found(msgspec.Struct, gc=False):
    """What one key is to be answered, before it is put into a form.

    Attributes:
        version: the one the key is given.
        source: `none` where there is nothing to answer; a `fallback` may have nothing either.
        payload: the recommendation in bits; None where there is none.
        record: the same as JSON text; "" where there is none.
        lost: blocks that should have been there.
    """

    version: PreparedVersion
    source: Source
    payload: bytes | None
    record: str
    lost: Sequence[LostBlock]


class Lookup:
    """One canonical key on its way to its answer: the active table, then, if that was lost, the one before.

    `first` and `take` give what was found, `start` and `resume` the answer to a request for this key alone.

    Attributes:
        names: the Redis key of the block to read next (a list of one); empty where the version was never loaded.
    """

    __slots__ = ("_digest", "_if_none_match", "_lost", "_prefix", "_table", "_version", "_wants_bits", "names")

    def __init__(
        self,
        version: PreparedVersion,
        key: bytes,
        prefix: str,
        if_none_match: str | None = None,
        *,
        wants_bits: bool = False,
    ) -> None:
        self._version = version
        self._digest = int.from_bytes(digest(key), "big")
        self._prefix = prefix
        self._table = table = version.active
        self._lost: Sequence[LostBlock] = ()
        self._if_none_match = if_none_match
        self._wants_bits = wants_bits
        self.names = [block_name(prefix, table.id, self._digest >> table.shift)] if table.id else []

    def first(self) -> Found | None:
        """Return what needs no block, the default of a version that was never loaded; else None."""
        return None if self.names else self._instead("default")

    def opened(self, _: int, block: Block) -> Block:
        """Return a block as it came from Redis without its seal; None, as if lost, where that is not good.

        The index is that of `names`, which has one.
        """
        table = self._table
        if not table.is_sealed or not isinstance(block, bytes):
            return block
        # Without the key nobody knows whether it is good: that the key is missing here loses no table.
        return UNAVAILABLE if table.seal is None else table.seal.opened(self._digest >> table.shift, block)

    def take(self, block: Block) -> Found | None:
        """Return what there is once the block named in `names` was read (or could not be); None: read the next one."""
        version = self._version
        if isinstance(block, Unavailable):
            return self._instead("fallback")
        if block is not None:
            fingerprint = (self._digest >> 16 & _FINGERPRINT).to_bytes(FINGERPRINT_BYTES, "big")
            try:
                payload = find_payload(block, fingerprint, version.payload_width)
                if payload is None:
                    return self._instead("default")
                # The bits are decoded even where they are sent as they are: damage must not reach a client.
                return Found(version, "table", payload, version.records.text(payload), self._lost)
            except (DamagedBlock, DamagedPayload):  # every request passes here: that costs nothing
                pass  # as good as lost
        self._lost = [*self._lost, LostBlock(self.names[0], self._table.id)]
        previous = version.previous
        if previous is None or self._table is previous:
            return self._instead("fallback")
        self._table = previous
        self.names = [block_name(self._prefix, previous.id, self._digest >> previous.shift)]
        return None

    def _instead(self, source: Source) -> Found:
        version = self._version
        if version.default_payload is None and source == "default":
            source = "none"
        return Found(version, source, version.default_payload, version.default_record, self._lost)

    # --- The answer to a request for this key alone -------------------------------------------------------------------

    def start(self) -> Response | Lookup:
        """Return the first step."""
        if not self.names:
            return self._response(self._instead("default"))
        # A table never changes, so a client that holds this key's answer from it needs no look at it.
        if self._if_none_match is not None and self._if_none_match != "*":
            sources: tuple[Source, ...] = ("table", "default")
            for source in sources:
                tag = self._tag(source)
                if matches_tag(self._if_none_match, tag):
                    return self._not_modified(tag, source)
        return self

    def resume(self, blocks: Sequence[Block]) -> Response | Lookup:
        """Return the next step once the block named in `names` was read (or could not be)."""
        found = self.take(blocks[0])
        return self if found is None else self._response(found)

    def _response(self, found: Found) -> Response:
        version, source, payload = self._version, found.source, found.payload
        if payload is None:
            if source == "fallback":
                exposures = version.exposures[source]
                errors = (_unanswered(exposures[0]),)
                return msgspec.structs.replace(NO_ANSWER, exposures=exposures, lost=found.lost, errors=errors)
            return Response(204, _NO_STORE, b"", "", version.exposures[source], found.lost)
        if self._wants_bits:
            body, heads, form = version.prefix + payload, version.heads.bits, _BITS
        else:
            body, heads, form = f"{version.json_head}{found.record}}}".encode(), version.heads.json, _JSON
        if source == "fallback":
            return Response(200, form + _FALLBACK, body, "", version.exposures[source], found.lost)
        tag = self._tag(source)
        if self._if_none_match is not None and matches_tag(self._if_none_match, tag):
            return self._not_modified(tag, source)
        head = f"etag: {tag}\r\n{heads[self._digest & 255]}"
        if source == "default":
            head += _DEFAULT
        return Response(200, head, body, "", version.exposures[source], found.lost)

    def _not_modified(self, tag: str, source: Source) -> Response:
        version = self._version
        head = f"etag: {tag}\r\n{version.heads.not_modified[self._digest & 255]}"
        return Response(304, head, b"", "", version.exposures[source], self._lost)

    def _tag(self, source: Source) -> str:
        seed = self._table.tag_seeds[self._wants_bits if source == "table" else 2 + self._wants_bits]
        return f'"{self._digest >> 16 & _FINGERPRINT ^ seed:012x}"'


# --- Many keys at once ----------------------------------------------------------------------------------------------


class _BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[dict[str, str | int]]
    model: str | None = None


_batch_decoder = msgspec.json.Decoder(_BatchBody)


def _begin_batch(
    request: Request, caller: Caller, tenant: PreparedTenant, now: float, settings: Settings
) -> Response | BatchLookup:
    try:
        body = _batch_body(request, caller)
        most = min(caller.credential.bucket.burst, tenant.bucket.burst)
        if len(body.keys) > most:
            # A wait would not help: there are never that many tokens.
            raise bad_request("batch_too_large", f"This credential's limit allows at most {most:,} keys at once.")
    except Refused:
        _charge(caller, tenant, 1, now)
        raise
    _charge(caller, tenant, len(body.keys), now)
    model = _model(body.model, caller, tenant)
    allowed = model.parameters - {"model"}
    steps: list[Found | Response | Lookup] = []
    for key in body.keys:
        try:
            unknown = key.keys() - allowed
            if unknown:
                raise bad_request("unknown_parameter", f"Model {model.slug} has no field “{min(unknown)}”.")
            row, unit = _key_and_unit({name: str(value) for name, value in key.items()}, caller, model)
            lookup = Lookup(_version(model, unit), row, settings.redis_prefix)
            steps.append(lookup.first() or lookup)
        except Refused as refused:
            steps.append(_of(tenant, refused.response))
    return BatchLookup(model.slug, steps).next()


def _batch_body(request: Request, caller: Caller) -> _BatchBody:
    if caller.claims.subject is not None:
        raise Refused(SERVER_ONLY)
    if quality_of(accepted_ranges(request.accept), JSON)[0] <= 0:
        raise Refused(BATCH_NOT_ACCEPTABLE)
    if (request.content_type or "").partition(";")[0].strip().lower() != JSON:
        raise Refused(NOT_JSON)
    if request.query:
        raise bad_request("unknown_parameter", "A POST takes no query parameters. Put “model” in the body.")
    try:
        body = _batch_decoder.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request("bad_request", f"The body is invalid: {error}.") from None
    if not 1 <= len(body.keys) <= MAX_BATCH:
        raise bad_request("bad_request", f"“keys” must hold 1 to {MAX_BATCH} keys.")
    return body


class BatchLookup:
    """Many keys on their way to their answers.

    Attributes:
        names: the Redis keys of the blocks to read next, one for each key that still waits.
    """

    __slots__ = ("_slug", "_steps", "_waiting", "names")

    def __init__(self, slug: str, steps: list[Found | Response | Lookup]) -> None:
        self._slug = slug
        self._steps = steps
        self._waiting: list[Lookup] = []
        self.names: list[str] = []

    def next(self) -> Response | BatchLookup:
        """Return the answer if every key has one, else this with the names to read."""
        self._waiting = [step for step in self._steps if isinstance(step, Lookup)]
        self.names = [step.names[0] for step in self._waiting]
        return self if self.names else self._response()

    def opened(self, index: int, block: Block) -> Block:
        """Return a block as it came from Redis as `resume` wants it; the index is that of `names`."""
        return self._waiting[index].opened(0, block)

    def resume(self, blocks: Sequence[Block]) -> Response | BatchLookup:
        """Return the next step once the blocks named in `names` were read (or could not be), in that order."""
        arrived = iter(blocks)
        self._steps = [step.take(next(arrived)) or step if isinstance(step, Lookup) else step for step in self._steps]
        return self.next()

    def _response(self) -> Response:
        answers: list[bytes] = []
        exposures: list[Exposure] = []
        lost: list[LostBlock] = []
        errors: list[Error] = []
        for step in self._steps:
            assert not isinstance(step, Lookup)  # noqa: S101  # `next` came here because none is one any more
            if isinstance(step, Response):
                answers.append(_refusal(step))
                errors.extend(step.errors)
                continue
            exposures.extend(step.version.exposures[step.source])
            lost.extend(step.lost)
            if step.payload is None and step.source == "fallback":
                errors.append(_unanswered(exposures[-1]))
            answers.append(_batch_item(step))
        head = msgspec.json.encode({"model": self._slug})[:-1]
        body = head + b',"answers":[' + b",".join(answers) + b"]}"
        return Response(200, _JSON + _NO_STORE, body, "", exposures, lost, "", errors)


def _unanswered(exposure: Exposure) -> Error:
    """Return what is counted, besides its exposure, of a key without a block and without a default."""
    return exposure.tenant, NO_ANSWER.status, NO_ANSWER.code


def _batch_item(found: Found) -> bytes:
    """Return one key's answer: its status, then what it would have had for a body of its own, but the model."""
    if found.payload is None:
        return _refusal(NO_ANSWER) if found.source == "fallback" else b'{"status":204}'
    source = "" if found.source == "table" else f'"source":"{found.source}",'
    return f'{{"status":200,{source}{found.version.item_head}{found.record}}}'.encode()


def _refusal(response: Response) -> bytes:
    """Return the answer of a key that has none."""
    return msgspec.json.encode({"status": response.status, "code": response.code, "detail": response.detail})
