"""Google's clients for BigQuery, bounded in time, and their errors put into sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import bigquery
from google.cloud.bigquery_storage import BigQueryReadClient
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from models_registry.loading.sources.confinement import shown
from models_registry.loading.sources.port import SourceProblem
from models_registry.models import ProblemCode

# How long calls are tried again, and what goes with each call over HTTP: an address that nobody answers is known in
# seconds.
RETRY_SECONDS = 8.0
CALL: dict[str, Any] = {"retry": bigquery.DEFAULT_RETRY.with_timeout(RETRY_SECONDS), "timeout": 20.0}
STORAGE_RETRY = Retry(
    predicate=if_exception_type(exceptions.ServiceUnavailable), initial=0.2, multiplier=2, timeout=RETRY_SECONDS
)

# Google's words for what passes by itself.
PASSING_REASONS = frozenset(
    {"quotaExceeded", "rateLimitExceeded", "jobRateLimitExceeded", "userRateLimitExceeded", "backendError"}
)
_UNREACHABLE = (exceptions.ServerError, exceptions.RetryError, requests.RequestException, TransportError, TimeoutError)
REMOTE_ERRORS = (exceptions.GoogleAPIError, GoogleAuthError, requests.RequestException, TimeoutError)


@dataclass(frozen=True)
class Endpoints:
    """Where BigQuery is: `api` and `storage` are None for Google itself, or an emulator's two addresses."""

    project: str | None
    api: str | None
    storage: str | None


@dataclass(frozen=True)
class Clients:
    """The two clients that reading takes: jobs and tables over HTTP, rows over gRPC."""

    rest: bigquery.Client
    storage: BigQueryReadClient


@contextmanager
def connect(endpoints: Endpoints, fallback_project: str | None) -> Iterator[Clients]:
    """Yield both clients and close them afterwards.

    Args:
        endpoints: where BigQuery is. An emulator is spoken to without credentials.
        fallback_project: who pays if neither settings nor the credentials name a project.
    """
    if bool(endpoints.api) != bool(endpoints.storage):
        raise SourceProblem("Set both addresses of BigQuery, the API's and the Storage API's, or neither.")
    with explained("its credentials"):
        if endpoints.api and endpoints.storage:
            rest = bigquery.Client(
                project=endpoints.project or fallback_project or "emulator",
                credentials=AnonymousCredentials(),
                client_options={"api_endpoint": endpoints.api},
            )
            channel = grpc.insecure_channel(
                endpoints.storage, options=[("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
            )
            storage = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
        else:
            rest = _google_rest(endpoints.project, fallback_project)
            storage = BigQueryReadClient()
    try:
        yield Clients(rest, storage)
    finally:
        storage.transport.close()
        rest.close()


def _google_rest(project: str | None, fallback_project: str | None) -> bigquery.Client:
    try:
        return bigquery.Client(project=project)
    except OSError:
        # The credentials name no project. The one that holds the table is the best guess of who pays.
        if fallback_project is None:
            raise SourceProblem("No Google project is set for the worker to run queries in.") from None
        return bigquery.Client(project=fallback_project)


@contextmanager
def explained(what: str, *, missing: str | None = None) -> Iterator[None]:
    """Turn Google's errors into a SourceProblem.

    Args:
        what: what was asked about, e.g. “the query”.
        missing: what is not there where BigQuery finds something missing; None: `what` itself.
    """
    try:
        yield
    except REMOTE_ERRORS as error:
        raise _problem(error, what, missing or what) from error


def _problem(error: Exception, what: str, missing: str) -> SourceProblem:
    if isinstance(error, exceptions.RetryError) and isinstance(error.cause, Exception):
        return _problem(error.cause, what, missing)
    said = _said(error)
    match error:
        case exceptions.NotFound():
            return SourceProblem(f"BigQuery cannot find {missing}: {said}.", ProblemCode.SOURCE_MISSING)
        case exceptions.TooManyRequests():
            return _quota(what, said)
        case exceptions.Forbidden():
            return _forbidden(_reason(error), what, said)
        case exceptions.Unauthorized():
            sentence = "BigQuery does not accept the worker's Google credentials."
            return SourceProblem(sentence, ProblemCode.SOURCE_NOT_ALLOWED)
        case exceptions.ClientError():
            return SourceProblem(f"BigQuery refuses {what}: {said}.")
    if isinstance(error, _UNREACHABLE):
        sentence = f"BigQuery could not be reached to read {what}. Try again later."
        return SourceProblem(sentence, ProblemCode.SOURCE_UNAVAILABLE)
    if isinstance(error, GoogleAuthError):
        return SourceProblem("The worker has no working Google credentials.", ProblemCode.SOURCE_NOT_ALLOWED)
    return SourceProblem(f"BigQuery failed to read {what}: {said}.", ProblemCode.SOURCE_UNAVAILABLE)


def _forbidden(reason: str, what: str, said: str) -> SourceProblem:
    """Return the problem of a 403, which Google also gives for what no permission would mend."""
    if reason in PASSING_REASONS:
        return _quota(what, said)
    if reason == "billingNotEnabled":
        sentence = f"Billing is not enabled for the Google project that reads {what}: {said}."
    elif reason == "policyViolation":
        sentence = f"A policy of the organisation (VPC Service Controls) forbids reading {what}: {said}."
    else:
        sentence = f"BigQuery does not allow the worker to read {what}: {said}."
    return SourceProblem(sentence, ProblemCode.SOURCE_NOT_ALLOWED)


def _quota(what: str, said: str) -> SourceProblem:
    return SourceProblem(f"BigQuery's quota is used up for {what}: {said}.", ProblemCode.SOURCE_UNAVAILABLE)


def _reason(error: Any) -> str:
    """Return Google's own word for why it refuses; "" where it gives none."""
    details = _details(error)
    return str(details[0].get("reason") or "") if details else ""


def _said(error: Any) -> str:
    """Return Google's own words, without the request's address and the job's footer that the client adds to them."""
    details = _details(error)
    text = details[0].get("message") if details else getattr(error, "message", None)
    return shown(str(text or type(error).__name__)).rstrip(".")


def _details(error: Any) -> list[dict[str, Any]]:
    return [detail for detail in getattr(error, "errors", None) or () if isinstance(detail, dict)]
