"""Which Redis server the lane reads a block from: the one that Sentinel names, or the cluster's node for its slot.

redis-py asks for the topology, in the background; a `NodeReader` for each server does the reading. A read never waits
for a topology: what no connected server can answer is UNAVAILABLE at once, and the topology is asked for again, twice a
second, until every block has a server that answers.

In a cluster a read that is told to ask elsewhere (MOVED, or ASK while a slot moves) follows, as long as its time has
not run out. Each key of a slot on its way is on exactly one of two nodes, and the node that the slot leaves says ASK
for those that are gone, so that nil is never said of a block that exists.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, assert_never

import hiredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisClusterException, RedisError

from serving.engine import UNAVAILABLE
from serving.metrics import Numbers
from serving.redis.reader import Address, NodeReader, Put, tls_context
from serving.redis.url import RedisUrl

logger = logging.getLogger(__name__)

# How often it is looked whether all is well, and how often the topology is asked for when it is, in case it changed
# without anybody noticing.
CHECK_SECONDS = 0.25
LOOK_SECONDS = 10.0
SENTINEL_SECONDS = 1.0
TOPOLOGY_TIMEOUT_SECONDS = 0.5
# A server that nothing is read from any more is let go after this time: replies are still on their way.
GRACE_SECONDS = 1.0
# A read sent to a server that is just being connected to tries again after this time.
AGAIN_SECONDS = 0.005
MOST_REDIRECTIONS = 5
_ASKING = "*1\r\n$6\r\nASKING\r\n"


def reader_for(url: str, *, deadline_seconds: float, numbers: Numbers) -> NodeReader | SentinelReader | ClusterReader:
    """Return the reader for a Redis of any kind that `serving.redis.url` knows.

    Raises:
        ValueError: no such URL.
        OSError: a file that it names for TLS cannot be read, or is none.
    """
    parsed = RedisUrl.parse(url)
    match parsed.kind:
        case "one":
            return NodeReader(Address.parse(url), deadline_seconds=deadline_seconds, numbers=numbers)
        case "sentinel":
            return SentinelReader(parsed, deadline_seconds=deadline_seconds, numbers=numbers)
        case "cluster":
            return ClusterReader(parsed, deadline_seconds=deadline_seconds, numbers=numbers)
        case unknown:
            assert_never(unknown)


def _reader_of(url: RedisUrl, deadline_seconds: float, numbers: Numbers) -> Callable[[str, int], NodeReader]:
    """Return what makes the reader of a server behind a URL; they have login, database and TLS in common."""
    tls = None if url.tls is None else tls_context(url.tls)

    def reader_of(host: str, port: int) -> NodeReader:
        address = Address(host, port, None, *url.login, url.database, tls, None if tls is None else host)
        return NodeReader(address, deadline_seconds=deadline_seconds, numbers=numbers)

    return reader_of


# --- Sentinel -------------------------------------------------------------------------------------------------------


class SentinelReader:
    """Reads blocks from the server that the Sentinels name.

    They are asked every second, not only when the connection is lost: a server that was replaced may live on.
    """

    def __init__(self, url: RedisUrl, *, deadline_seconds: float, numbers: Numbers) -> None:
        self._url = url
        self._reader_of = _reader_of(url, deadline_seconds, numbers)
        self._numbers = numbers
        self._node: NodeReader | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to the server."""
        return self._node is not None and self._node.is_connected

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect, as soon as the loop runs."""
        self._task = loop.create_task(self._follow(loop))

    def close(self) -> None:
        """Stop for good."""
        if self._task is not None:
            self._task.cancel()
        if self._node is not None:
            self._node.close()

    def read(self, names: Sequence[str], put: Put) -> None:
        """Read blocks as `BlockReader` says, from the master; without one they are UNAVAILABLE at once."""
        if self._node is not None:
            self._node.read(names, put)
            return
        self._numbers.redis_reads += len(names)
        self._numbers.redis_errors += len(names)
        for index in range(len(names)):
            put(index, UNAVAILABLE)

    async def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        sentinels: Any = Sentinel  # whose types are missing
        times = {"socket_timeout": TOPOLOGY_TIMEOUT_SECONDS, "socket_connect_timeout": TOPOLOGY_TIMEOUT_SECONDS}
        asking = {**times, **self._url.sentinel_keywords(), "retry": Retry(NoBackoff(), 0)}
        manager = sentinels(self._url.hosts, sentinel_kwargs=asking)
        known: tuple[str, int] | None = None
        is_away = False
        try:
            while True:
                try:
                    found = await manager.discover_master(self._url.service)
                except (RedisError, OSError) as error:
                    if not is_away:
                        logger.warning("redis.no_master for=blocks error=%s", type(error).__name__)
                    is_away = True
                else:
                    is_away = False
                    if found != known:
                        known = found
                        logger.info("redis.master for=blocks host=%s port=%s", *found)
                        self._move_to(found, loop)
                # Not all lanes at once; more often while there is nobody to read from.
                seconds = SENTINEL_SECONDS if self.is_connected else CHECK_SECONDS
                await asyncio.sleep(seconds * random.uniform(0.75, 1))  # noqa: S311  # no secret
        finally:
            await manager.aclose()

    def _move_to(self, found: tuple[str, int], loop: asyncio.AbstractEventLoop) -> None:
        before, self._node = self._node, self._reader_of(*found)
        self._node.start(loop)
        if before is not None:
            before.close()


# --- Cluster --------------------------------------------------------------------------------------------------------


class _Read(NamedTuple):
    """Where a read's blocks go, and until when it may follow redirections."""

    put: Put
    until: float


class ClusterReader:
    """Reads blocks from a cluster: one pipeline for each node and turn of the event loop.

    A read takes its deadline at most, and twice that if it is redirected late.
    """

    def __init__(self, url: RedisUrl, *, deadline_seconds: float, numbers: Numbers) -> None:
        self._url = url
        self._reader_of = _reader_of(url, deadline_seconds, numbers)
        self._deadline_seconds = deadline_seconds
        self._numbers = numbers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._nodes: dict[tuple[str, int], NodeReader] = {}
        self._owners: list[NodeReader | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._owning: set[NodeReader] = set()
        # Nodes that a read was sent on to since the topology was last asked for on schedule.
        self._guests: set[tuple[str, int]] = set()
        self._is_covered = False
        self._is_outdated = True

    @property
    def is_connected(self) -> bool:
        """Whether every slot has a node that is connected."""
        return self._is_covered and all(node.is_connected for node in self._owning)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect, as soon as the loop runs."""
        self._loop = loop
        self._task = loop.create_task(self._follow())

    def close(self) -> None:
        """Stop for good."""
        if self._task is not None:
            self._task.cancel()
        for node in self._nodes.values():
            node.close()

    def read(self, names: Sequence[str], put: Put) -> None:
        """Read blocks as `BlockReader` says, each from the node that holds its slot."""
        self._numbers.redis_reads += len(names)
        read = _Read(put, time.monotonic() + self._deadline_seconds)
        asked: dict[NodeReader | None, list[tuple[int, str]]] = {}
        for index, name in enumerate(names):
            asked.setdefault(self._owners[key_slot(name.encode())], []).append((index, name))
        for node, wanted in asked.items():
            self._ask(node, wanted, read, MOST_REDIRECTIONS)

    def _ask(
        self,
        node: NodeReader | None,
        wanted: list[tuple[int, str]],
        read: _Read,
        redirections: int,
        *,
        is_asking: bool = False,
    ) -> None:
        """Ask a node for blocks; where it sends the read elsewhere, go there so many times."""
        if node is None:
            self._fail(wanted, read)
            return
        head = [_ASKING] if is_asking else []

        def arrived(replies: list[Any], has_timed_out: bool) -> None:  # noqa: FBT001  # what `NodeReader.ask` calls
            for (index, name), reply in zip(wanted, replies[len(head) :: 1 + len(head)], strict=True):
                if reply is None or reply.__class__ is bytes:
                    read.put(index, reply)
                elif reply.__class__ is hiredis.ReplyError and str(reply).startswith(("MOVED ", "ASK ")):
                    self._follow_redirection(str(reply), index, name, read, redirections)
                else:
                    self._fail([(index, name)], read, has_timed_out=has_timed_out and reply is UNAVAILABLE)

        gets = ((*head, f"*2\r\n$3\r\nGET\r\n${len(name)}\r\n{name}\r\n") for _, name in wanted)
        node.ask([command for commands in gets for command in commands], arrived)

    def _follow_redirection(self, told: str, index: int, name: str, read: _Read, redirections: int) -> None:
        kind, _, address = told.split(" ")
        host, _, port = address.rpartition(":")
        is_asking = kind == "ASK"
        self._is_outdated |= not is_asking
        if not redirections or not host:
            self._fail([(index, name)], read)
            return
        self._guests.add((host, int(port)))
        self._ask_soon(self._node(host, int(port)), index, name, read, redirections - 1, is_asking=is_asking)

    def _ask_soon(
        self, node: NodeReader, index: int, name: str, read: _Read, redirections: int, *, is_asking: bool
    ) -> None:
        """Ask a node as soon as it is connected; give up when the read's time has run out."""
        assert self._loop is not None  # noqa: S101  # reads come after `start`
        if time.monotonic() >= read.until:
            self._fail([(index, name)], read)
        elif node.is_connected:
            self._ask(node, [(index, name)], read, redirections, is_asking=is_asking)
        else:
            self._loop.call_later(
                AGAIN_SECONDS, lambda: self._ask_soon(node, index, name, read, redirections, is_asking=is_asking)
            )

    def _fail(self, wanted: list[tuple[int, str]], read: _Read, *, has_timed_out: bool = False) -> None:
        self._is_outdated = True
        if has_timed_out:
            self._numbers.redis_timeouts += len(wanted)
        else:
            self._numbers.redis_errors += len(wanted)
        for index, _ in wanted:
            read.put(index, UNAVAILABLE)

    def _node(self, host: str, port: int) -> NodeReader:
        """Return the reader of a node; a new one begins to connect."""
        assert self._loop is not None  # noqa: S101  # as above
        node = self._nodes.get((host, port))
        if node is None:
            node = self._nodes[host, port] = self._reader_of(host, port)
            node.start(self._loop)
        return node

    # --- The topology -------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        cluster = self._cluster()
        looked_at = 0.0
        is_away = False
        try:
            while True:
                is_due = time.monotonic() - looked_at >= LOOK_SECONDS
                if self._is_outdated or is_due or not self.is_connected:
                    self._is_outdated = False
                    try:
                        await cluster.nodes_manager.initialize()
                    except (RedisError, RedisClusterException, OSError) as error:
                        if not is_away:
                            logger.warning("redis.no_topology for=blocks error=%s", type(error).__name__)
                        is_away = True
                        # None of the nodes known by now is there: begin again with those of the URL.
                        await cluster.aclose()
                        cluster = self._cluster()
                    else:
                        is_away = False
                        await self._take(cluster)
                    if is_due:
                        self._let_go()
                        looked_at = time.monotonic()
                # Not all lanes at once.
                await asyncio.sleep(CHECK_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311  # no secret
        finally:
            await cluster.aclose()

    def _cluster(self) -> RedisCluster:
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._url.hosts],
            **self._url.server_keywords(),
            require_full_coverage=False,
            socket_timeout=TOPOLOGY_TIMEOUT_SECONDS,
            socket_connect_timeout=TOPOLOGY_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    async def _take(self, cluster: RedisCluster) -> None:
        """Read by a topology from now on, once its nodes are connected or have had their time."""
        slots = cluster.nodes_manager.slots_cache
        nodes: dict[str, NodeReader] = {}
        owners: list[NodeReader | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for slot, holders in slots.items():
            primary = holders[0]
            node = nodes.get(primary.name)
            if node is None:
                node = nodes[primary.name] = self._node(primary.host, int(primary.port))
            owners[slot] = node
        until = time.monotonic() + GRACE_SECONDS
        is_new = set(nodes.values()) - self._owning
        while time.monotonic() < until and not all(node.is_connected for node in is_new):  # noqa: ASYNC110  # seldom
            await asyncio.sleep(AGAIN_SECONDS)
        if self._owning != set(nodes.values()):
            logger.info("redis.topology for=blocks nodes=%d slots=%d", len(nodes), len(slots))
        self._owners, self._owning = owners, set(nodes.values())
        self._is_covered = len(slots) == REDIS_CLUSTER_HASH_SLOTS

    def _let_go(self) -> None:
        """Let go of nodes that own nothing and were not asked lately."""
        assert self._loop is not None  # noqa: S101  # as above
        for address, node in list(self._nodes.items()):
            if node not in self._owning and address not in self._guests:
                del self._nodes[address]
                self._loop.call_later(GRACE_SECONDS, node.close)
        self._guests.clear()
