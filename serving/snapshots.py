"""Keeps the world current: verified snapshots from Redis, and from files when Redis is away.

A `SnapshotKeeper` judges envelopes and keeps the good ones; a `SnapshotWatch` is the thread that brings them to it.
Both doors use both. An empty Redis is not an empty world: a tenant goes by its tombstone, never by being absent.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from typing_extensions import override

from serving.formats.keys import lost_tables_name
from serving.formats.snapshot import (
    BadSnapshot,
    Listed,
    Roster,
    Snapshot,
    announcements_name,
    content_digest,
    open_roster,
    open_snapshot,
    revisions_name,
    roster_name,
    snapshot_name,
)
from serving.metrics import Numbers
from serving.redis.clients import Client, by_holder
from serving.reporting import Reporter
from serving.sharing import LimitSharing
from serving.whole_files import replace_whole
from serving.world import World

logger = logging.getLogger(__name__)

_TENANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUFFIX = ".snapshot"
_ROSTER_FILE = "roster"
# The same refusal from the same place is logged once in this time; it is counted each time.
_REPEAT_SECONDS = 60
_MAX_REMEMBERED = 1000
_SNAPSHOTS_AT_ONCE = 32
# How soon the watch notices that it is to end, and how long it is waited for.
_NOTICE_SECONDS = 0.25
# How often the roster is read by a process that knows all, and how much older one in the file may be.
_ROSTER_EVERY_SECONDS = 60
# What clocks may differ by before it is said: the roster takes a while from its time to Redis.
_CLOCK_SECONDS = 5.0
_END_SECONDS = 3.0


class SnapshotKeeper:
    """Judges envelopes, keeps the newest good one of each tenant in the world and in a file.

    For one thread: the watch's (and whoever calls `load_files` before it starts). Several processes may share the
    directory; the newest revision wins. The trusted public keys are by id.

    Partial knowledge is not the whole: which tenants the map of revisions promises that are not here is in the world,
    and a process is not ready before it once knew all of them.

    Attributes:
        clock_off_seconds: by how much, at least, this machine's clock differs from the control plane's.
    """

    def __init__(self, world: World, trusted: dict[str, Ed25519PublicKey], directory: Path, numbers: Numbers) -> None:
        self._world = world
        self._trusted = trusted
        self._directory = directory
        self._numbers = numbers
        self._said: dict[str, tuple[str, float]] = {}
        self._promised: frozenset[str] = frozenset()
        self._roster: Roster | None = None
        self._is_partly_away = False
        self._digests: dict[str, bytes] = {}
        # What the newest roster says of each tenant, and when.
        self._listed: dict[str, Listed] = {}
        self._listed_at = 0
        self.clock_off_seconds = 0.0

    def offer(self, envelope: bytes, origin: str = "caller") -> bool:
        """Take an envelope if it is signed with a trusted key, whole, and newer than what is here; tell whether it is.

        `origin` says in the log where it is from.
        """
        snapshot = self._judge(envelope, origin)
        if snapshot is None:
            return False
        try:
            self._save(snapshot, envelope)
        except OSError as error:
            logger.warning("snapshot.not_saved tenant=%s error=%s", snapshot.tenant.id, error)
        return True

    def load_files(self) -> int:
        """Take what earlier processes left in the folder; return how many tenants became known by that."""
        paths = sorted(self._directory.glob(f"*{_SUFFIX}"))
        known = sum(self._judge(_read(path), f"file:{path.name}") is not None for path in paths)
        with contextlib.suppress(BadSnapshot):  # there is none, or none that is worth anything
            self._renew(open_roster(_read(self._directory / _ROSTER_FILE), self._trusted))
        return known

    def wanted(self, revisions: Mapping[bytes, bytes]) -> list[str]:
        """Return the ids of tenants of whom the map of revisions promises a newer snapshot than the one here."""
        wanted: list[str] = []
        promised: set[str] = set()
        for raw_id, raw_revision in revisions.items():
            tenant_id = raw_id.decode("ascii", "replace")
            if not _TENANT_ID.fullmatch(tenant_id) or not raw_revision.isdigit() or len(raw_revision) > 18:
                self._refuse(f"map:{tenant_id[:64]}", "unreadable", "an entry of the map is not an id with a revision")
                continue
            promised.add(tenant_id)
            known = self._world.tenants.get(tenant_id)
            if known is None or known.revision < int(raw_revision):
                wanted.append(tenant_id)
        self._promised = frozenset(promised)
        self._look_for_missing()
        return wanted

    def wants_roster(self) -> bool:
        """Tell whether it is still to be known whom there is to know."""
        return not self._world.was_whole

    def offer_roster(self, envelope: bytes | None, unseen_seconds: float | None = None) -> None:
        """Take the list of all tenants; of a control plane that is older than this there is none.

        One that is new here was not there `unseen_seconds` ago, so that it cannot be older; None if that is not known.
        """
        if envelope is None:
            return
        try:
            roster = open_roster(envelope, self._trusted)
        except BadSnapshot as error:
            self._refuse("roster", "unreadable", str(error))
            return
        held = self._roster
        # One of the future, from a clock that was ahead, must not keep all others out until its time has come.
        if held is not None and roster.issued_at < held.issued_at <= time.time() + _CLOCK_SECONDS:
            self._refuse("roster", "outdated", f"{roster.issued_at} is older than {held.issued_at}")
            return
        if held is None or roster.issued_at != held.issued_at:
            self._note_clock(roster.issued_at, unseen_seconds)
        self._roster = roster
        self._renew(roster)
        try:
            self._save_roster(roster, envelope)
        except OSError as error:
            self._say_once("roster.file", f"snapshot.not_saved roster error={error}")

    def note_fetched(self, *, is_all: bool = True) -> None:
        """Say that what was wanted was asked for, and whether all of it could be.

        What is not here now is not in Redis, was refused, or is where nobody answers.
        """
        self._look_for_missing()
        self._is_partly_away = not is_all
        if is_all and not self._world.missing and (self._promised or self._roster is not None):
            self._world.was_whole = True
        if self._world.missing:
            few = ",".join(sorted(self._world.missing)[:3])
            self._say_once("missing", f"snapshot.missing tenants={len(self._world.missing)} among_them={few}")

    def is_ready(self, now: float, max_age_seconds: float) -> bool:
        """Tell whether requests can be answered: all tenants are known, and one is current.

        That there is none is a signed statement too. Who once knew all goes on when a promise comes that is not kept:
        whoever can write to Redis could take every lane out by it.
        """
        if not self._world.was_whole and (self._world.missing or self._is_partly_away):
            return False
        issued = [tenant.issued_at for tenant in tuple(self._world.tenants.values())]
        # Only once the look is over: requests are answered by `was_whole` too.
        if not issued and self._world.was_whole and self._roster is not None and not self._roster.tenant_ids:
            issued = [self._roster.issued_at]
        return any(now - at <= max_age_seconds for at in issued)

    def expected(self) -> int:
        """Return how many tenants the map of revisions promises."""
        return len(self._promised)

    def oldest_age_seconds(self, now: float) -> float:
        """Return the time since the stalest living tenant's snapshot was signed.

        Where no tenant lives, since that was last said; infinite where nothing is known.
        """
        tenants = tuple(self._world.tenants.values())
        ages = [now - tenant.issued_at for tenant in tenants if not tenant.is_ended]
        if ages:
            return max(ages)
        said = [tenant.issued_at for tenant in tenants]
        if self._roster is not None:
            said.append(self._roster.issued_at)
        return now - max(said) if said else math.inf

    def _look_for_missing(self) -> None:
        # Once all were known the map tells of new ones; the roster that was read at the start would only grow old.
        listed = self._roster.tenant_ids if self._roster is not None and not self._world.was_whole else ()
        self._world.missing = self._promised.union(listed) - self._world.tenants.keys()

    def _note_clock(self, issued_at: int, unseen_seconds: float | None) -> None:
        """See what the time of something signed says of this machine's clock: by it tokens and snapshots are judged."""
        age = time.time() - issued_at
        ahead = 0.0 if unseen_seconds is None else age - unseen_seconds
        off = max(ahead, -age)
        self.clock_off_seconds = off if off > _CLOCK_SECONDS else 0.0
        if off > _CLOCK_SECONDS:
            which = "ahead of" if ahead >= 0 and off == ahead else "behind"
            self._say_once("clock", f"clock.off this clock is {off:.0f} s or more {which} the control plane's")

    def _renew(self, roster: Roster) -> None:
        """Take every snapshot here that the roster names as signed when the roster was, which is not in the future.

        One that it names otherwise, or not at all, grows old: what was revoked lives no longer for being kept here.
        """
        self._listed_at = min(roster.issued_at, int(time.time()))
        self._listed = {listed.id: listed for listed in roster.tenants}
        for tenant_id in self._listed:
            self._renew_one(tenant_id)

    def _renew_one(self, tenant_id: str) -> None:
        listed, tenant = self._listed.get(tenant_id), self._world.tenants.get(tenant_id)
        if listed is None or tenant is None:
            return
        if (listed.revision, listed.digest) == (tenant.revision, self._digests.get(tenant_id)):
            tenant.issued_at = max(tenant.issued_at, self._listed_at)

    def _judge(self, envelope: bytes, origin: str) -> Snapshot | None:
        try:
            snapshot = open_snapshot(envelope, self._trusted)
        except BadSnapshot as error:
            self._refuse(origin, "unreadable", str(error))
            return None
        known = self._world.tenants.get(snapshot.tenant.id)
        if known is not None and snapshot.revision <= known.revision:
            # The same one again is no news: a poll and an announcement cross.
            if snapshot.revision < known.revision:
                self._refuse(origin, "outdated", f"revision {snapshot.revision} is older than {known.revision}")
            return None
        try:
            self._world.put(snapshot)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the one before goes on
            self._refuse(origin, "contradictory", f"{type(error).__name__}: {error}")
            return None
        self._digests[snapshot.tenant.id] = content_digest(envelope)
        self._renew_one(snapshot.tenant.id)
        self._said.pop(origin, None)
        logger.info("snapshot.taken tenant=%s revision=%s from=%s", snapshot.tenant.slug, snapshot.revision, origin)
        return snapshot

    def _refuse(self, origin: str, reason: str, detail: str) -> None:
        self._numbers.refuse_snapshot(reason)
        self._say_once(origin, f"snapshot.refused reason={reason} from={origin} detail={detail!r}")

    def _say_once(self, about: str, line: str) -> None:
        """Log what was not said about this within the last minute."""
        last, at = self._said.get(about, ("", 0.0))
        now = time.monotonic()
        if last != line or now - at > _REPEAT_SECONDS:
            if len(self._said) >= _MAX_REMEMBERED:
                self._said.clear()
            self._said[about] = (line, now)
            logger.warning("%s", line)

    def _save(self, snapshot: Snapshot, envelope: bytes) -> None:
        """Write the file, unless another process has written a newer one (or this very one) already.

        Only what replaces one waits for the disk: without power it must not be the older one again, which may know a
        credential that was revoked. The first of a tenant would be missing, or refused: a lane that starts with an
        empty disk and thousands of tenants is ready sooner.
        """
        if not _TENANT_ID.fullmatch(snapshot.tenant.id):
            return
        path = self._directory / f"{snapshot.tenant.id}{_SUFFIX}"
        with _locked(self._directory):
            is_there = path.exists()
            if is_there:
                try:
                    if open_snapshot(_read(path), self._trusted).revision >= snapshot.revision:
                        return
                except BadSnapshot:
                    pass  # worth nothing
            replace_whole(path, envelope, synced=is_there)

    def _save_roster(self, roster: Roster, envelope: bytes) -> None:
        """Write the file, unless the one there is hardly older: several processes share it."""
        path = self._directory / _ROSTER_FILE
        with _locked(self._directory):
            with contextlib.suppress(BadSnapshot):
                if open_roster(_read(path), self._trusted).issued_at > roster.issued_at - _ROSTER_EVERY_SECONDS:
                    return
            replace_whole(path, envelope, synced=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # which is no envelope


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SnapshotWatch(threading.Thread):
    """Asks Redis for newer snapshots every so often, and at once when one is announced. Tries again for ever.

    Its connections are its own: what it does, and what Redis does to it, holds no answer up. In passing it reports
    the tables of which blocks were found lost, what its reporter has to say, and shares limits with other processes.

    It looks at the map of revisions every `poll_seconds`, and reports after each look; limits are shared more often.
    """

    def __init__(
        self,
        keeper: SnapshotKeeper,
        reporter: Reporter,
        sharing: LimitSharing,
        client: Client,
        prefix: str,
        poll_seconds: float,
    ) -> None:
        super().__init__(name="snapshot-watch", daemon=True)
        self._keeper = keeper
        self._reporter = reporter
        self._sharing = sharing
        self._client = client
        self._prefix = prefix
        self._poll_seconds = poll_seconds
        self._is_ending = threading.Event()
        self._is_away = False
        self._lost: set[str] = set()
        self._polled_at = time.monotonic()
        self._roster_read_at = -math.inf

    def poll(self) -> bool:
        """Look once; return whether Redis answered. Takes a few time-outs at most; raises nothing that Redis causes."""
        try:
            self._fetch()
        except (redis.RedisError, OSError) as error:
            if not self._is_away:
                # An error that Redis answers with is said: a key of another type is no Redis that is away.
                said = str(error) if isinstance(error, redis.ResponseError) else type(error).__name__
                logger.warning("redis.away for=snapshots error=%r", said)
            self._is_away = True
            return False
        if self._is_away:
            logger.info("redis.back for=snapshots")
        self._is_away = False
        self._polled_at = time.monotonic()
        return True

    def poll_age_seconds(self) -> float:
        """Return the time since Redis last answered, or since the start if it never did."""
        return time.monotonic() - self._polled_at

    def share_limits(self) -> None:
        """Share limits with other processes if that is due; Redis away, this process keeps the shares it has."""
        with contextlib.suppress(redis.RedisError, OSError):
            self._sharing.exchange_if_due()

    def report_lost(self, table_ids: Iterable[str]) -> None:
        """Note tables of which blocks are lost; Redis is told with the next look, for the control plane to repair."""
        if len(self._lost) < _MAX_REMEMBERED:
            self._lost.update(table_ids)

    def end(self) -> None:
        """Make the thread end, and send what was not sent yet. Takes a few seconds where Redis does not answer."""
        self._is_ending.set()
        with contextlib.suppress(redis.RedisError, OSError):
            if self.is_alive():
                self.join(_END_SECONDS)
            self._sharing.end()
            self._reporter.send_traffic()
            self._reporter.end()

    @override
    def run(self) -> None:
        while not self._is_ending.is_set():
            try:
                self._turn()
                self._listen()
            except (redis.RedisError, OSError):
                self._is_ending.wait(self._poll_seconds)  # no announcements for now; looking goes on
            except Exception:
                logger.exception("snapshot.watch_failed")
                self._is_ending.wait(self._poll_seconds)

    def _listen(self) -> None:
        """Look whenever something is announced or a look is due, until the connection for announcements fails."""
        client: Any = self._client  # redis-py's types are missing for a cluster
        announcements = client.pubsub(ignore_subscribe_messages=True)
        try:
            announcements.subscribe(announcements_name(self._prefix))
            while not self._is_ending.is_set():
                self._turn()
                self._await_announcement(announcements)
        finally:
            announcements.close()

    def _turn(self) -> None:
        self.poll()
        self.share_limits()
        if self._lost:
            self._tell_lost()
        with contextlib.suppress(redis.RedisError, OSError):  # it keeps what it could not send
            self._reporter.report()

    def _await_announcement(self, announcements: redis.client.PubSub) -> None:
        """Wait until something is announced, the next look is due, or all this is to end."""
        until = time.monotonic() + self._poll_seconds
        while (left := until - time.monotonic()) > 0 and not self._is_ending.is_set():
            if announcements.get_message(timeout=min(left, _NOTICE_SECONDS)) is not None:
                return
            self.share_limits()

    def _fetch(self) -> None:
        problem: Exception | None = None
        if self._keeper.wants_roster() or time.monotonic() - self._roster_read_at >= _ROSTER_EVERY_SECONDS:
            try:
                roster: Any = self._client.get(roster_name(self._prefix))
                now = time.monotonic()
                unseen = now - self._roster_read_at
                self._keeper.offer_roster(roster, unseen if math.isfinite(unseen) else None)
                self._roster_read_at = now
            except (redis.RedisError, OSError) as error:
                problem = error  # as below
        revisions: dict[bytes, bytes] = self._client.hgetall(revisions_name(self._prefix))  # type: ignore[assignment]  # redis-py types both of its clients at once
        ids = {snapshot_name(self._prefix, tenant_id): tenant_id for tenant_id in self._keeper.wanted(revisions)}
        for names in by_holder(self._client, ids).values():
            try:
                for first in range(0, len(names), _SNAPSHOTS_AT_ONCE):
                    self._take({name: ids[name] for name in names[first : first + _SNAPSHOTS_AT_ONCE]})
            except (redis.RedisError, OSError) as error:
                problem = error  # one node of a cluster may be away; the others' tenants need not wait for it
        self._keeper.note_fetched(is_all=problem is None)
        if problem is not None:
            raise problem

    def _take(self, ids: Mapping[str, str]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for name in ids:
            pipeline.get(name)
        for tenant_id, envelope in zip(ids.values(), pipeline.execute(), strict=True):
            if envelope is not None:
                self._keeper.offer(envelope, f"redis:{tenant_id}")

    def _tell_lost(self) -> None:
        tables, self._lost = self._lost, set()
        try:
            self._client.sadd(lost_tables_name(self._prefix), *tables)
        except (redis.RedisError, OSError) as error:
            # What stays lost will be found again.
            logger.warning("table.lost_not_reported tables=%d error=%s", len(tables), type(error).__name__)
