"""Tables in Redis: blocks written in pipelines, read back, and dropped so slowly that nobody notices.

Commands are put together as bytes by the hundred and sent through a connection of redis-py's pool, which knows about
addresses, passwords and TLS. In a cluster redis-py's own pipeline does it, slower, because it knows where keys live.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import redis
from django.conf import settings
from redis.cluster import ClusterNode, RedisCluster

from models_registry.loading.cutting import Cut
from models_registry.loading.pacing import Pacer
from models_registry.models import Table
from models_registry.redis_clients import loading_client
from serving.formats.blocks import DamagedBlock, find_payload
from serving.formats.keys import block_name, canonical_key, digest, locate
from serving.formats.layouts import DamagedPayload, Layout
from serving.formats.seals import Seal, parse_seal_keys, seal_of
from serving.redis.clients import Client

# Others wait behind what was sent and is not answered, also those who wait for Redis' processor: these many blocks take
# it a tenth of a millisecond.
COMMANDS_PER_SEND = 32
BYTES_PER_SEND = 2**20
SENDS_IN_FLIGHT = 2
REPLICA_TIMEOUT_MS = 10_000
# Freeing a block takes Redis about a microsecond; this many in one command stay far below a millisecond.
NAMES_PER_COMMAND = 200


class TableProblem(Exception):
    """A table that was not written as it should be. The message is one clear sentence for `Load.problem`."""


class NoSealKey(TableProblem):
    """A table that is sealed with a key which this process was not given."""


@dataclass(frozen=True)
class TableInRedis:
    """Where one table's 2 ** `block_bits` blocks are, and what is done with them there."""

    client: Client
    prefix: str
    table_id: str
    block_bits: int
    tenant_id: str = ""
    seal_key_id: str = ""

    @classmethod
    def of(cls, table: Table) -> Self:
        """Return where a table of the database is."""
        tenant_id = table.version.model.tenant.public_id if table.seal_key_id else ""
        where = loading_client(), settings.REDIS_PREFIX, table.table_id, table.block_bits
        return cls(*where, tenant_id, table.seal_key_id)

    @property
    def seal(self) -> Seal | None:
        """What its blocks end with; None where they have no seal.

        Raises:
            NoSealKey: this process has not the key.
        """
        if not self.seal_key_id:
            return None
        try:
            return seal_of(parse_seal_keys(settings.SEAL_KEYS), self.seal_key_id, self.tenant_id, self.table_id)
        except KeyError:
            raise NoSealKey(
                f"RECSITE_SEAL_KEYS of this worker lacks the key “{self.seal_key_id}”, with which the table is sealed."
            ) from None

    @property
    def blocks(self) -> range:
        """The numbers of its blocks."""
        return range(1 << self.block_bits)

    def block_name(self, number: int) -> str:
        """Return the key of a block."""
        return block_name(self.prefix, self.table_id, number)

    @property
    def _head(self) -> bytes:
        """What the keys of all blocks begin with; the block's number in hexadecimal follows."""
        return self.block_name(0)[:-1].encode()

    def write(self, cuts: Iterable[Cut], lengths: list[int], *, pacer: Pacer | None = None) -> Generator[int]:
        """SET blocks in order; yield how many have been sent so far after each cut.

        The length in bytes of every block is appended to `lengths`, for `verify_lengths`. The pacer rests between one
        small pipeline and the next.

        Raises:
            redis.RedisError: Redis is away, or refuses a block (its memory is full).
            TableProblem: not every replica took what was written in time.
        """
        if (seal := self.seal) is not None:
            cuts = _sealed(cuts, seal)
        if isinstance(self.client, RedisCluster):
            yield from self._write_to_cluster(self.client, cuts, lengths, pacer)
            return
        head = self._head
        with _Pipe(self.client) as pipe:
            for cut in cuts:
                for number, block in enumerate(cut.blocks, start=cut.first):
                    name = b"%b%x" % (head, number)
                    size = len(block)
                    lengths.append(size)
                    command = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, size, block)
                    is_sent = pipe.send(command)
                    if is_sent and pacer is not None:
                        if pacer.is_about_to_look:
                            pipe.drain()
                        pacer.after_send(len(lengths))
                yield len(lengths)
            pipe.drain()
            pipe.wait_for_replicas()

    def _write_to_cluster(
        self, cluster: RedisCluster, cuts: Iterable[Cut], lengths: list[int], pacer: Pacer | None
    ) -> Iterator[int]:
        at_once = _commands_per_pipeline(cluster)
        for cut in cuts:
            for start in range(0, len(cut.blocks), at_once):
                pipeline = cast(Any, cluster).pipeline()
                for number, block in enumerate(cut.blocks[start : start + at_once], start=cut.first + start):
                    pipeline.set(self.block_name(number), block)
                    lengths.append(len(block))
                pipeline.execute()
                if pacer is not None:
                    pacer.after_send(len(lengths))
            yield len(lengths)
        for primary in cluster.get_primaries():
            _await_replicas(cluster, primary)

    def read_lengths(self, numbers: range | None = None) -> Iterator[int]:
        """Yield the length in bytes of blocks, all if none are named, as Redis has them; 0 for one that it has not."""
        numbers = self.blocks if numbers is None else numbers
        if isinstance(self.client, RedisCluster):
            at_once = _commands_per_pipeline(self.client)
            for start in range(0, len(numbers), at_once):
                yield from _ask(self.client, "STRLEN", map(self.block_name, numbers[start : start + at_once]))
            return
        head = self._head
        replies: list[Any] = []
        with _Pipe(self.client, replies) as pipe:
            for number in numbers:
                name = b"%b%x" % (head, number)
                pipe.send(b"*2\r\n$6\r\nSTRLEN\r\n$%d\r\n%b\r\n" % (len(name), name))
                yield from replies
                replies.clear()
            pipe.drain()
            yield from replies

    def read(self, end: int, at_once: int) -> Generator[list[bytes]]:
        """Yield the blocks before `end` in order, so many at once, two such lots being requested ahead.

        Raises:
            TableProblem: one is not there, or its seal is not good.
            redis.RedisError: Redis is away.
        """
        seal = self.seal
        replies: list[Any] = []
        sent = yielded = 0
        if isinstance(self.client, RedisCluster):
            for first in range(0, end, at_once):
                numbers = range(first, min(first + at_once, end))
                yield _whole(_ask(self.client, "GET", map(self.block_name, numbers)), first, seal)
            return
        head = self._head
        with _Pipe(self.client, replies, commands_per_send=min(at_once, COMMANDS_PER_SEND)) as pipe:
            while yielded < end:
                while sent < end and len(replies) < at_once:
                    name = b"%b%x" % (head, sent)
                    pipe.send(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name))
                    sent += 1
                if sent == end:
                    pipe.drain()
                yield _whole(replies[:at_once], yielded, seal)
                yielded += len(replies[:at_once])
                del replies[:at_once]

    def verify_lengths(self, lengths: Sequence[int], beat: Callable[[], None], *, start: int = 0) -> None:
        """Read back how long every block from `start` on is.

        Raises:
            TableProblem: a block is missing or of another length than was written.
        """
        found = self.read_lengths(range(start, start + len(lengths)))
        for number, (length, written) in enumerate(zip(found, lengths, strict=True), start=start):
            if length != written:
                what = f"holds {length:,} bytes instead of {written:,}" if length else "is missing"
                raise TableProblem(f"Redis lost part of what was written: block {number:x} {what}.")
            if not number % COMMANDS_PER_SEND:
                beat()

    def verify_rows(self, layout: Layout, rows: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> None:
        """Look rows up as serving does, by key, and compare what is found with the rows themselves.

        Raises:
            TableProblem: a row is not found, or decodes to something else.
        """
        seal = self.seal
        for key_values, record in rows:
            number, fingerprint = locate(digest(canonical_key(key_values)), self.block_bits)
            block = cast(bytes | None, self.client.get(self.block_name(number)))
            key = " / ".join(key_values)
            if block is not None and seal is not None:
                block = seal.opened(number, block)
                if block is None:
                    raise TableProblem(f"The block of key {key} had another seal when it was read back.")
            try:
                payload = None if block is None else find_payload(block, fingerprint, layout.payload_width)
                if payload is None:
                    raise TableProblem(f"The row of key {key} was not found when it was read back.")
                if layout.pack(layout.unpack(payload)) != payload or payload != layout.pack(record):
                    raise TableProblem(f"The row of key {key} differs from the source's when it was read back.")
            except (DamagedBlock, DamagedPayload) as error:
                problem = f"The row of key {key} could not be decoded when it was read back: {error}."
                raise TableProblem(problem) from None

    def count_missing(self, numbers: Sequence[int] | None = None) -> int:
        """Count the blocks, of all if none are named, that Redis lacks; stop after the first few hundred found.

        Raises:
            redis.RedisError: Redis is away.
        """
        for names in self._names(numbers):
            if missing := len(names) - _count(self.client, "EXISTS", names):
                return missing
        return 0

    def has_bad_seal(self) -> bool:
        """Tell whether a block is not there or not as it was written; False where this process cannot know.

        Raises:
            redis.RedisError: Redis is away.

        Cost: all of a sealed table is read.
        """
        if not self.seal_key_id:
            return False
        try:
            for _ in self.read(len(self.blocks), NAMES_PER_COMMAND):
                pass
        except NoSealKey:
            return False
        except TableProblem:
            return True
        return False

    def drop(self, numbers: Sequence[int] | None = None) -> None:
        """UNLINK blocks, all if none are named, a few at a time; blocks that are not there do no harm.

        Raises:
            redis.RedisError: Redis is away; calling again goes on.
        """
        for names in self._names(numbers):
            began = time.monotonic()
            _count(self.client, "UNLINK", names)
            # Redis has at least as long for others.
            time.sleep(time.monotonic() - began)

    def _names(self, numbers: Sequence[int] | None) -> Iterator[list[str]]:
        """Yield the keys of blocks, so many at once as go into one command."""
        numbers = self.blocks if numbers is None else numbers
        for start in range(0, len(numbers), NAMES_PER_COMMAND):
            yield [self.block_name(number) for number in numbers[start : start + NAMES_PER_COMMAND]]


def _sealed(cuts: Iterable[Cut], seal: Seal) -> Iterator[Cut]:
    for cut in cuts:
        yield Cut(cut.first, [block + seal.of(number, block) for number, block in enumerate(cut.blocks, cut.first)])


def _whole(blocks: list[bytes | None], first: int, seal: Seal | None) -> list[bytes]:
    if None in blocks:
        raise TableProblem(f"Redis has lost block {first + blocks.index(None):x} of the served table.")
    if seal is None:
        return cast(list[bytes], blocks)
    opened = [seal.opened(number, block) for number, block in enumerate(cast(list[bytes], blocks), first)]
    if None in opened:
        raise TableProblem(f"Block {first + opened.index(None):x} of the served table in Redis is damaged.")
    return cast(list[bytes], opened)


def _count(client: Client, command: str, names: Sequence[str]) -> int:
    """Return what a command that counts keys returns for many; in a cluster they live on many nodes."""
    if isinstance(client, RedisCluster):
        return sum(_ask(client, command, names))
    return int(cast(Any, client).execute_command(command, *names))


def _ask(cluster: RedisCluster, command: str, names: Iterable[str]) -> list[Any]:
    """Return a cluster's replies to a command for each of some keys, sent together."""
    pipeline = cast(Any, cluster).pipeline()
    for name in names:
        pipeline.execute_command(command, name)
    return cast(list[Any], pipeline.execute())


def _commands_per_pipeline(client: RedisCluster) -> int:
    """Return how many commands a cluster's nodes take together: each as many as a single Redis."""
    return COMMANDS_PER_SEND * max(1, len(client.get_primaries()))


def _await_replicas(client: RedisCluster, primary: ClusterNode) -> None:
    """Wait until every replica of a node has what the node was sent so far, through whatever connection."""
    before: Any = client.info("replication", target_nodes=primary)
    until = time.monotonic() + REPLICA_TIMEOUT_MS / 1000
    while True:
        info: Any = client.info("replication", target_nodes=primary)
        replicas = [info[f"slave{number}"] for number in range(info["connected_slaves"])]
        online = [replica for replica in replicas if replica["state"] == "online"]
        reached = sum(replica["offset"] >= before["master_repl_offset"] for replica in online)
        if reached == len(online):
            return
        if time.monotonic() > until:
            raise _too_few(reached, len(online))
        time.sleep(0.05)


def _too_few(reached: int, replicas: int) -> TableProblem:
    return TableProblem(
        f"Only {reached} of {replicas} replicas of Redis confirmed the table within "
        f"{REPLICA_TIMEOUT_MS // 1000} seconds."
    )


class _Pipe:
    """Commands sent ahead of their replies through one connection.

    A reply that is an error is raised. The connection is thrown away unless every reply has been read, because a late
    one must not reach the next user of the connection. Replies are appended to `replies`, or forgotten.
    """

    def __init__(
        self, client: redis.Redis, replies: list[Any] | None = None, *, commands_per_send: int = COMMANDS_PER_SEND
    ) -> None:
        self._commands_per_send = commands_per_send
        self._pool = client.connection_pool
        self._connection: Any = self._pool.get_connection()
        self._replies = replies
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._in_flight: deque[int] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None or self._in_flight:
            self._connection.disconnect()
        self._pool.release(self._connection)

    def send(self, command: bytes) -> bool:
        """Send a command some time soon; say whether that was now."""
        self._waiting.append(command)
        self._waiting_bytes += len(command)
        if len(self._waiting) < self._commands_per_send and self._waiting_bytes < BYTES_PER_SEND:
            return False
        self._flush()
        if len(self._in_flight) > SENDS_IN_FLIGHT:
            self._read_some()
        return True

    def drain(self) -> None:
        """Send what is left and read every reply."""
        self._flush()
        while self._in_flight:
            self._read_some()

    def wait_for_replicas(self) -> None:
        """Wait until every replica has what was sent through this connection (WAIT looks at no other's writes)."""
        self._connection.send_command("INFO", "replication", check_health=False)
        info = bytes(self._connection.read_response(disable_decoding=True)).decode()
        # One that is still copying everything has the table when it has finished.
        replicas = info.count("state=online")
        if not replicas:
            return
        self._connection.send_command("WAIT", replicas, REPLICA_TIMEOUT_MS, check_health=False)
        reached = int(self._connection.read_response(timeout=REPLICA_TIMEOUT_MS / 1000 + 5))
        if reached < replicas:
            raise _too_few(reached, replicas)

    def _flush(self) -> None:
        if not self._waiting:
            return
        # A health check here would read a reply that belongs to an earlier command.
        self._connection.send_packed_command([b"".join(self._waiting)], check_health=False)
        self._in_flight.append(len(self._waiting))
        self._waiting, self._waiting_bytes = [], 0

    def _read_some(self) -> None:
        read = self._connection.read_response
        for _ in range(self._in_flight[0]):
            reply = read()
            if isinstance(reply, Exception):
                raise reply
            if self._replies is not None:
                self._replies.append(reply)
        self._in_flight.popleft()
