"""What signing in may take: failures by address, and passwords looked at at once. Both before a password is hashed.

django-axes locks a name from one address; one password tried on many names never meets that. It has one limit for all
that it counts by, and eight failures are too few for an office behind one address. A password takes a third of a second
of a processor: a few strangers who sign in wrongly would keep every thread, and nobody could mint a token.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address

from django.core.cache import cache
from django.http import HttpRequest
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError

from recsite.callers import client_address

log = logging.getLogger(__name__)

# From one address, within so long; of IPv6 a network of 64 bits, which is what one customer has.
FAILURES_OF_AN_ADDRESS = 30
WINDOW_SECONDS = 600
# In one process, which has eight threads as docs/production.md starts it, four in the demo.
PASSWORDS_AT_ONCE = 2

_AWAY = (ConnectionInterrupted, RedisError, OSError)
_passwords = threading.BoundedSemaphore(PASSWORDS_AT_ONCE)


class SignInRefused(Exception):
    """A sign-in whose password is not looked at.

    Attributes:
        seconds: how long to wait.
    """

    seconds = 0


class TooManyFailures(SignInRefused):
    """Too many came from this address."""

    seconds = WINDOW_SECONDS


class TooManyAtOnce(SignInRefused):
    """This process looks at as many passwords as it may."""

    seconds = 5


@contextmanager
def turn(request: HttpRequest) -> Iterator[None]:
    """Let a password be looked at while the block lasts.

    Redis away, failures are not counted; how many are looked at at once is bounded all the same.

    Raises:
        SignInRefused: not now.
    """
    failures = 0
    with suppress(*_AWAY):
        failures = int(cache.get(_name(request), 0))
    if failures >= FAILURES_OF_AN_ADDRESS:
        log.warning("sign_in.refused why=address")
        raise TooManyFailures
    if not _passwords.acquire(blocking=False):
        log.warning("sign_in.refused why=busy")
        raise TooManyAtOnce
    try:
        yield
    finally:
        _passwords.release()


def note_failure(request: HttpRequest) -> None:
    """Count a password that was wrong."""
    with suppress(*_AWAY, ValueError):  # ValueError: it ended between the two
        if not cache.add(_name(request), 1, timeout=WINDOW_SECONDS):
            cache.incr(_name(request))


def _name(request: HttpRequest) -> str:
    told = client_address(request)
    with suppress(ValueError):
        address = ip_address(told)
        if isinstance(address, IPv6Address):
            told = str(address.ipv4_mapped or int(address) >> 64)
    return f"sign-in:{hashlib.sha256(told.encode()).hexdigest()}"
