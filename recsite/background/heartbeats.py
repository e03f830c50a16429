"""A sign of life of each process in the background, every five seconds, left in two places.

In a file of `RECSITE_VAR_DIR`, for the probe of that very process (`recsite healthy`): it needs nothing but the file,
so that a Redis or a database that is away has no worker restarted and no load begun again. And in Redis, for the
metrics: there what is silent is forgotten by itself, its age is told by Redis's clock alone, and a database that hangs
does not make everybody look dead. `PREFIX:heartbeat:COMPONENT` is written by all processes of a kind: it tells of the
last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec
import redis
from django.conf import settings

from models_registry.redis_clients import watching_client
from serving.configuration import free_ratio

log = logging.getLogger(__name__)

Component = Literal["worker", "loader", "beat"]
COMPONENTS: tuple[Component, ...] = get_args(Component)

EVERY_SECONDS = 5.0
# So long without a sign, and a process counts as one that hangs.
SILENT_SECONDS = 60
# So long a kind of process is remembered in Redis of which none lives any more.
FORGET_MS = 7 * 24 * 3600 * 1000


def heartbeat_name(component: Component) -> str:
    """Return the Redis key of a component's sign of life."""
    return f"{settings.REDIS_PREFIX}:heartbeat:{component}"


def sign_path(component: Component, var_dir: Path) -> Path:
    """Return the file whose age tells when a process of this kind gave its last sign."""
    return var_dir / "heartbeats" / component


class Told(msgspec.Struct, frozen=True):
    """What a process says of itself with its sign.

    Attributes:
        free: share of the disk of its folder; None if that is not there.
    """

    version: str
    commit: str
    free: float | None


class Heartbeat:
    """Leaves the signs of one process, which may be of several kinds. Where it can't is logged once."""

    def __init__(self, components: Collection[Component]) -> None:
        self._components = components
        self._problem = ""
        self._due_at = 0.0

    def beat_if_due(self) -> None:
        """Leave signs unless that was done within the last five seconds."""
        if time.monotonic() >= self._due_at:
            self._due_at = time.monotonic() + EVERY_SECONDS
            self.beat()

    def beat(self) -> None:
        """Leave signs; bounded in time by Redis's time-outs, 2 s in all."""
        problem = ""
        try:
            for component in self._components:
                path = sign_path(component, settings.VAR_DIR)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        except OSError as error:
            problem = f"{type(error).__name__}: {error}"
        version, commit = settings.RELEASE
        said = msgspec.msgpack.encode(Told(version, commit, free_ratio(settings.VAR_DIR)))
        try:
            for component in self._components:
                watching_client().psetex(heartbeat_name(component), FORGET_MS, said)
        except (redis.RedisError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem and not self._problem:
            log.warning("heartbeat.not_left problem=%s", problem)
        self._problem = problem


class Sign(NamedTuple):
    """A component's last sign of life.

    Attributes:
        age_seconds: by Redis's clock.
        told: None where a release that says something else left it.
    """

    component: Component
    age_seconds: float
    told: Told | None


def signs() -> Iterator[Sign]:
    """Yield for each kind of process that is remembered the last sign that one of them gave.

    Raises:
        redis.RedisError, OSError: Redis does not say.
    """
    for component in COMPONENTS:
        name = heartbeat_name(component)
        with watching_client().pipeline(transaction=False) as pipeline:
            pipeline.pttl(name)
            pipeline.get(name)
            left_ms, value = pipeline.execute()
        if left_ms >= 0 and value is not None:
            told = None
            with suppress(msgspec.MsgspecError):
                told = msgspec.msgpack.decode(value, type=Told)
            yield Sign(component, (FORGET_MS - left_ms) / 1000, told)


def verdict(component: Component, var_dir: Path) -> tuple[bool, str]:
    """Say whether the process of this kind whose folder this is lives and works, and the sentence for whoever asks."""
    path = sign_path(component, var_dir)
    try:
        age_seconds = max(time.time() - path.stat().st_mtime, 0.0)
    except FileNotFoundError:
        return False, f"{component}: no sign of life yet, there is no {path}."
    except OSError as error:
        return False, f"{component}: its sign of life cannot be read: {error}."
    if age_seconds > SILENT_SECONDS:
        return False, f"{component}: no sign of life for {age_seconds:,.0f} s, and one is due every 5 s."
    return True, f"{component}: gave a sign of life {age_seconds:.0f} s ago."
