"""What HTTP clients send and what they get: requests, responses, errors, and how their headers are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args
from urllib.parse import unquote_to_bytes

import msgspec

from serving.formats.tokens import TokenRefusal

PATH = "/v1/recommendations"
JSON = "application/json"
BITS = "application/vnd.recsite.bits"
PROBLEM = "application/problem+json"
VARY = "Accept, Authorization"
MAX_BODY_BYTES = 1_048_576

Source = Literal["table", "default", "fallback", "none"]
# Of an error, for counting: whose request it ended ("" where no token said), its status, and why: its code; of a 401
# what was wrong with the token (`TokenRefusal`), of a 429 which limit it was (`credential`, `tenant`, `bad_tokens`).
Error = tuple[str, int, str]


class Request(msgspec.Struct, gc=False):
    """The parts of an HTTP request that the engine looks at. A header that is absent is None."""

    method: str
    query: str
    authorization: str | None
    accept: str | None
    if_none_match: str | None
    content_type: str | None
    body: bytes
    request_id: str | None = None
    traceparent: str | None = None


class Exposure(NamedTuple):
    """What is counted of an answer: whose, of which model and version, and where it came from."""

    tenant: str
    model: str
    version: str
    source: Source


class LostBlock(NamedTuple):
    """A block that should have been there and was not, or was damaged: its Redis key, and the table it belongs to."""

    name: str
    table_id: str


class Response(msgspec.Struct, gc=False):
    """What a door sends. Many are shared by requests: nobody changes one.

    Attributes:
        head: the headers as they stand in an answer, each with its line's end (`head_of`).
        code: the stable code of an error; "" otherwise.
        exposures: for counting alone, as are `lost` and `errors`.
        detail: what an error says.
        errors: the one that this is, or those of a batch's keys.
    """

    status: int
    head: str
    body: bytes
    code: str = ""
    exposures: Sequence[Exposure] = ()
    lost: Sequence[LostBlock] = ()
    detail: str = ""
    errors: Sequence[Error] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Return each header's name and value, in order.

        The lane sends `head` as it is. Only the DRF door needs them apart, and it, not the lane, pays for that.
        """
        return [(name, value) for line in self.head.splitlines() for name, _, value in [line.partition(": ")]]


def head_of(*headers: tuple[str, str]) -> str:
    """Return headers as they stand in an answer."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers)


# --- Errors ---------------------------------------------------------------------------------------------------------

# The title of an error is the same for all with its status.
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    411: "Length required",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Refused",
    429: "Too many requests",
    431: "Request header fields too large",
    500: "Internal error",
    503: "Service unavailable",
}


def problem_document(
    status: int, code: str, detail: str, *, title: str | None = None, extra: Mapping[str, object] | None = None
) -> bytes:
    """Return an RFC 9457 document: a stable code for programs, a sentence about this very request, then `extra`.

    The title is that of the status in `TITLES` where none is given.
    """
    members = {"title": TITLES[status] if title is None else title, "status": status, "code": code, "detail": detail}
    return msgspec.json.encode({"type": "about:blank", **members, **(extra or {})})


def problem(status: int, code: str, detail: str, *extra: tuple[str, str], reason: str = "") -> Response:
    """Return an RFC 9457 error with a stable code; `extra` are further headers, `reason` is what is counted."""
    head = head_of(("content-type", PROBLEM), ("cache-control", "no-store"), *extra)
    body = problem_document(status, code, detail)
    return Response(status, head, body, code, detail=detail, errors=(("", status, reason or code),))


UNAUTHORIZED = problem(401, "unauthorized", "A valid bearer token is required.", ("www-authenticate", "Bearer"))
NO_SUCH_MODEL = problem(404, "model_not_found", "There is no such model for this token.")
NOT_FOUND = problem(404, "not_found", f"There is nothing here. Recommendations are at {PATH}.")
METHOD_NOT_ALLOWED = problem(405, "method_not_allowed", "Use GET or POST.", ("allow", "GET, POST"))
OVER_CAPACITY = problem(503, "over_capacity", "Too many requests at once. Try again.", ("retry-after", "1"))
TOO_LARGE = problem(413, "body_too_large", f"The body is larger than {MAX_BODY_BYTES:,} bytes.")
HEADERS_TOO_LARGE = problem(431, "headers_too_large", "The request line and headers are too long.")
NOT_HTTP = problem(400, "bad_request", "This is not HTTP/1.1.")
NOT_ENCODED = problem(400, "bad_request", "The address holds a character that must be percent-encoded.")
BODY_INCOMPLETE = problem(400, "bad_request", "The body did not arrive whole or in time.")
NOT_READY = problem(503, "not_ready", "This server has no current configuration. Try again.", ("retry-after", "5"))
NO_ANSWER = problem(503, "unavailable", "The recommendation can't be read just now. Try again.", ("retry-after", "1"))
NOT_ACCEPTABLE = problem(406, "not_acceptable", f"Answers are {JSON} or {BITS}.")
BATCH_NOT_ACCEPTABLE = problem(406, "not_acceptable", f"Answers to several keys are {JSON} only.")
SERVER_ONLY = problem(
    403, "server_token_required", "Only a server token, one without “sub”, may ask for several keys at once."
)
NOT_JSON = problem(415, "unsupported_media_type", f"Send the keys as {JSON}.")

# One answer for all, told apart where they are counted.
UNAUTHORIZED_FOR: dict[TokenRefusal, Response] = {
    reason: msgspec.structs.replace(UNAUTHORIZED, errors=(("", 401, reason),)) for reason in get_args(TokenRefusal)
}

# /healthz: the process runs. /readyz: it also knows whom to serve (else NOT_READY).
_PLAIN = head_of(("content-type", "text/plain"), ("cache-control", "no-store"))
ALIVE = Response(200, _PLAIN, b"alive\n")
READY = Response(200, _PLAIN, b"ready\n")


class Refused(Exception):
    """A request that ends in an error, on its way up to `begin`."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.code)
        self.response = response


def bad_request(code: str, detail: str) -> Refused:
    """Return what to raise for a 400."""
    return Refused(problem(400, code, detail))


# --- The request's id ------------------------------------------------------------------------------------------------

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def good_id(given: str | None) -> str | None:
    """Return the id that a request came with, None if it came with none, or with what is none."""
    return given if given is not None and _GOOD_ID.fullmatch(given) else None


def echoed_id(status: int, given: str | None) -> str | None:
    """Return the id that an answer carries: that of the request, if the answer is an error.

    The answers that there are many of have no room for it.
    """
    return good_id(given) if status >= 400 else None


# --- Reading what clients send --------------------------------------------------------------------------------------


def parse_query(query: str) -> dict[str, str]:
    """Return a query string's parameters, each at most once.

    Raises:
        Refused: a 400; one is there twice, or its bytes are not UTF-8.
    """
    parameters: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair or not pair.isascii():
            try:
                name, value = _unquote(name), _unquote(value)
            except UnicodeError:
                raise bad_request("bad_parameter", "A parameter is not valid UTF-8.") from None
        if name in parameters:
            raise bad_request("bad_parameter", f"“{name}” may be given only once.")
        parameters[name] = value
    return parameters


def _unquote(text: str) -> str:
    # Doors hand over the bytes of the request line as Latin-1 text, whatever they were meant to be.
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode()


def wants_bits(accept: str | None) -> bool | None:
    """Tell whether a client wants bits rather than JSON; None if it wants neither."""
    if accept is None or accept in ("*/*", JSON, ""):
        return False
    if accept == BITS:
        return True
    ranges = accepted_ranges(accept)
    bits, json = quality_of(ranges, BITS), quality_of(ranges, JSON)
    if bits[0] <= 0 and json[0] <= 0:
        return None
    # Equal quality: what was named more exactly; equal there too: JSON.
    return bits > json


def accepted_ranges(accept: str | None) -> dict[str, float]:
    """Return the media ranges of an Accept header with their qualities; one that cannot be read counts as 0."""
    ranges: dict[str, float] = {}
    for item in (accept or "*/*").split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media:
            ranges[media] = quality if 0 <= quality <= 1 else 0.0
    return ranges


def quality_of(ranges: dict[str, float], media: str) -> tuple[float, int]:
    """Return the quality of a media type and how exactly it was named (2 itself, 1 its group, 0 anything)."""
    for candidate, exactness in ((media, 2), (f"{media.partition('/')[0]}/*", 1), ("*/*", 0)):
        if candidate in ranges:
            return ranges[candidate], exactness
    return 0.0, 0


def matches_tag(if_none_match: str, tag: str) -> bool:
    """Tell whether an If-None-Match header names a tag (RFC 9110: weak comparison, `*` names any)."""
    if if_none_match in (tag, "*"):
        return True
    return any(item.strip().removeprefix("W/") == tag for item in if_none_match.split(","))
