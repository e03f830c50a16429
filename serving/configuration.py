"""Puts serving's parts together from Django's settings, the same way for both doors."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

from django.conf import settings

from serving.engine import Settings
from serving.formats.seals import parse_seal_keys
from serving.formats.snapshot import parse_public_keys
from serving.formats.tokens import parse_master_keys
from serving.http import NOT_READY, READY, Response
from serving.metrics import Numbers, Reading
from serving.redis.clients import connect
from serving.reporting import Reporter
from serving.sharing import LimitSharing
from serving.snapshots import SnapshotKeeper, SnapshotWatch
from serving.world import World


class Serving(NamedTuple):
    """What a door needs besides a way to read blocks."""

    settings: Settings
    world: World
    numbers: Numbers
    keeper: SnapshotKeeper
    watch: SnapshotWatch

    def start(self) -> None:
        """Learn what can be learnt at once, from files and from Redis (bounded in time), then keep watching."""
        self.keeper.load_files()
        if self.watch.poll():
            self.watch.share_limits()
        self.watch.start()

    def readiness(self) -> Response:
        """Return the answer of /readyz."""
        return READY if self.keeper.is_ready(time.time(), self.settings.snapshot_max_age_seconds) else NOT_READY

    def reading(self) -> Reading:
        """Return the numbers as they stand, gauges included."""
        gauges = self.numbers.gauges
        gauges["recsite_snapshot_age_seconds"] = self.keeper.oldest_age_seconds(time.time())
        gauges["recsite_snapshot_poll_age_seconds"] = self.watch.poll_age_seconds()
        living = [tenant.slug for tenant in tuple(self.world.tenants.values()) if not tenant.is_ended]
        gauges["recsite_tenants"] = len(living)
        gauges["recsite_tenants_expected"] = self.keeper.expected()
        gauges["recsite_snapshots_missing"] = len(self.world.missing)
        gauges["recsite_clock_skew_seconds"] = self.keeper.clock_off_seconds
        reading = self.numbers.reading(living)
        reading.values |= installation()
        return reading


def installation() -> dict[str, dict[tuple[str, ...], float]]:
    """Return what is told of the release and of the disk, which nobody must be served for."""
    told: dict[str, dict[tuple[str, ...], float]] = {"recsite_build_info": {settings.RELEASE: 1}}
    if (free := free_ratio(settings.VAR_DIR)) is not None:
        told["recsite_var_free_ratio"] = {(): free}
    return told


def free_ratio(directory: Path) -> float | None:
    """Return the share of a folder's disk that is free, or None where the folder is not there."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    return disk.f_bavail / disk.f_blocks if disk.f_blocks else None


def assemble(kind: Literal["lane", "door"], *, siblings: int = 1) -> Serving:
    """Return the parts, not started: no socket is opened, no file is read, no thread runs.

    As many `siblings`, processes of the same command with this one, share its limits.

    Raises:
        ValueError: a key in the settings is malformed.
    """
    numbers = Numbers()
    seal_keys = parse_seal_keys(settings.SEAL_KEYS)
    world = World(parse_master_keys(settings.TOKEN_MASTER_KEYS), settings.TOKEN_AUDIENCE, seal_keys)
    keeper = SnapshotKeeper(
        world, parse_public_keys(settings.SNAPSHOT_PUBLIC_KEYS), settings.LANE_STATE_DIR / "snapshots", numbers
    )
    client = connect(settings.TABLES_REDIS_URL, timeout_seconds=1, connect_timeout_seconds=1)
    prefix = settings.REDIS_PREFIX
    reporter = Reporter(kind, client, prefix, world, numbers)
    sharing = LimitSharing(reporter.process, client, prefix, world, siblings=siblings)
    watch = SnapshotWatch(keeper, reporter, sharing, client, prefix, settings.SNAPSHOT_POLL_SECONDS)
    own = Settings(prefix, settings.SNAPSHOT_MAX_AGE.total_seconds())
    return Serving(own, world, numbers, keeper, watch)
