"""Tables written, verified and dropped in every kind of Redis: alone, behind TLS, in a cluster, with a replica."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from pytest_django import Settings
from redis.cluster import RedisCluster

from models_registry.loading import pacing, tables
from models_registry.loading.cutting import Cut
from models_registry.loading.tables import TableInRedis, TableProblem
from recsite.embedded import EmbeddedValkey, free_port
from serving.formats.blocks import encode_block
from serving.formats.encoding import base64url_encode
from serving.formats.keys import block_name, canonical_key, digest, locate
from serving.formats.layouts import Layout
from serving.redis.clients import Client
from tests.certificates import write_certificate
from tests.lane_process import eventually
from tests.redis_parts import tls_before

TABLE = ("test", "0123456789ab")
BITS = 11
LAYOUT = Layout.parse([{"name": "x", "type": "uint", "min": 0, "max": 65_535}])
IN_MEMORY = ("--save", "", "--appendonly", "no")


def table_in(client: Client, block_bits: int = BITS) -> TableInRedis:
    return TableInRedis(client, *TABLE, block_bits)


def nothing() -> None:
    """A heartbeat that says nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(tmp_path / "valkey", options=IN_MEMORY).start()
    yield valkey
    valkey.stop()


@pytest.fixture
def client(started: Client) -> Client:
    cast(Any, started).flushall()
    return started


@pytest.fixture(scope="module", params=["alone", "tls", "cluster"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    tmp_path = tmp_path_factory.mktemp("redis")
    is_cluster = request.param == "cluster"
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port())) if is_cluster else ()
    valkey = EmbeddedValkey(tmp_path / "valkey", options=(*IN_MEMORY, *options)).start()
    try:
        if is_cluster:
            with redis.Redis.from_url(valkey.url) as node:
                node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
                eventually(lambda: b"cluster_state:ok" in cast(bytes, node.execute_command("CLUSTER", "INFO")) or None)
            with RedisCluster.from_url(valkey.url) as cluster:
                yield cluster
        elif request.param == "tls":
            certificate, key = write_certificate(tmp_path)
            with (
                tls_before(valkey.port, certificate, key) as port,
                redis.Redis.from_url(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") as connection,
            ):
                yield connection
        else:
            with redis.Redis.from_url(valkey.url) as connection:
                yield connection
    finally:
        valkey.stop()


# --- Writing and reading back -----------------------------------------------------------------------------------------


def key(number: int) -> list[str]:
    return [f"p{number}"]


def blocks_of(rows: int) -> list[bytes]:
    """Return a table of `rows` players, the x of each being its number; most blocks are empty."""
    placed: dict[int, list[tuple[bytes, bytes]]] = {}
    for number in range(rows):
        block, fingerprint = locate(digest(canonical_key(key(number))), BITS)
        placed.setdefault(block, []).append((fingerprint, LAYOUT.pack({"x": number})))
    return [encode_block(placed.get(number, []), LAYOUT.payload_width) for number in range(2**BITS)]


def write(client: Client, blocks: list[bytes]) -> list[int]:
    lengths: list[int] = []
    half = len(blocks) // 2
    cuts = [Cut(0, blocks[:half]), Cut(half, []), Cut(half, blocks[half:])]
    assert list(table_in(client).write(cuts, lengths)) == [half, half, len(blocks)]
    return lengths


def held(client: Client, number: int) -> Any:
    return client.get(block_name(*TABLE, number))


def test_write_blocks__every_block__is_there_also_the_empty_ones(client: Client) -> None:
    blocks = blocks_of(1000)
    assert b"" in blocks
    lengths = write(client, blocks)
    assert lengths == [len(block) for block in blocks]
    assert [held(client, number) for number in range(len(blocks))] == blocks
    assert list(table_in(client).read_lengths()) == lengths
    table_in(client).verify_lengths(lengths, nothing)


def test_write_blocks__afterwards__the_pools_connections_answer_what_they_are_asked(client: Client) -> None:
    write(client, blocks_of(1000))
    for number in range(5):
        cast(Any, client).set(f"mine{number}", number)
        assert cast(Any, client).get(f"mine{number}") == b"%d" % number


def test_write_blocks__blocks_larger_than_what_is_sent_at_once__are_there(client: Client) -> None:
    blocks = [bytes([number]) * 700_000 for number in range(6)]
    lengths: list[int] = []
    assert list(table_in(client).write([Cut(0, blocks)], lengths)) == [6]
    assert [held(client, number) for number in range(6)] == blocks


def test_verify_rows__rows_as_written__found_by_key(client: Client) -> None:
    write(client, blocks_of(500))
    rows = [(key(number), {"x": number}) for number in range(0, 500, 7)]
    table_in(client).verify_rows(LAYOUT, rows)


def test_sealed_table__written__reads_back_and_notices_blocks_that_changed_places(
    client: Client, settings: Settings
) -> None:
    settings.SEAL_KEYS = f"s1:{base64url_encode(bytes(32))}"
    blocks = blocks_of(500)
    table = TableInRedis(client, *TABLE, BITS, "t1", "s1")
    lengths: list[int] = []
    list(table.write([Cut(0, blocks)], lengths))
    assert lengths == [len(block) + 8 for block in blocks]
    table.verify_lengths(lengths, nothing)
    table.verify_rows(LAYOUT, [(key(number), {"x": number}) for number in range(0, 500, 7)])
    assert [block for lot in table.read(2**BITS, 100) for block in lot] == blocks
    assert not table.has_bad_seal()

    number, _ = locate(digest(canonical_key(key(7))), BITS)
    cast(Any, client).set(block_name(*TABLE, number), held(client, number - 1))
    assert table.has_bad_seal()
    with pytest.raises(TableProblem, match="The block of key p7 had another seal"):
        table.verify_rows(LAYOUT, [(key(7), {"x": 7})])
    settings.SEAL_KEYS = f"s2:{base64url_encode(bytes(32))}"
    assert not table.has_bad_seal()
    with pytest.raises(TableProblem, match="lacks the key “s1”"):
        list(table.write([Cut(0, blocks)], []))


def test_drop_table__every_block__is_gone_and_nothing_else(client: Client) -> None:
    write(client, blocks_of(10))
    cast(Any, client).set(block_name("test", "another0tabl", 0), b"x")
    table_in(client).drop()
    assert not any(table_in(client).read_lengths())
    assert cast(Any, client).get(block_name("test", "another0tabl", 0)) == b"x"
    table_in(client).drop()


# --- What verification notices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("delete", "block {block} is missing"),
        ("shorten", "block {block} holds 7 bytes instead of 8"),
        ("lengthen", "block {block} holds 9 bytes instead of 8"),
    ],
)
def test_verify_lengths__a_block_that_is_not_as_written__named(change: str, words: str, client: Client) -> None:
    blocks = blocks_of(10)
    lengths = write(client, blocks)
    number = max(number for number, block in enumerate(blocks) if len(block) == 8)
    name = block_name(*TABLE, number)
    anything = cast(Any, client)
    if change == "delete":
        anything.delete(name)
    else:
        anything.set(name, b"x" * (7 if change == "shorten" else 9))
    with pytest.raises(TableProblem, match=words.format(block=f"{number:x}")):
        table_in(client).verify_lengths(lengths, nothing)


def test_verify_rows__another_value_in_redis__named(client: Client) -> None:
    write(client, blocks_of(10))
    with pytest.raises(TableProblem, match="The row of key p3 differs"):
        table_in(client).verify_rows(LAYOUT, [(key(3), {"x": 4})])


def test_verify_rows__a_row_that_is_not_there__named(client: Client) -> None:
    write(client, blocks_of(10))
    with pytest.raises(TableProblem, match="The row of key p11 was not found"):
        table_in(client).verify_rows(LAYOUT, [(key(11), {"x": 11})])


def test_verify_rows__bytes_that_are_no_block__named(client: Client) -> None:
    write(client, blocks_of(10))
    block, _ = locate(digest(canonical_key(key(3))), BITS)
    cast(Any, client).set(block_name(*TABLE, block), b"odd")
    with pytest.raises(TableProblem, match="The row of key p3 could not be decoded"):
        table_in(client).verify_rows(LAYOUT, [(key(3), {"x": 3})])


def test_write_blocks__whoever_looks_how_quick_redis_is__sees_none_of_the_blocks_on_their_way(
    server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "LOOK_SECONDS", 0)
    stored: list[tuple[int, int]] = []

    class Looking(pacing.Pacer):
        def after_send(self, blocks: int) -> None:
            stored.append((self._client.dbsize(), blocks))
            super().after_send(blocks)

    with redis.Redis.from_url(server.url) as client:
        pacer = Looking(client, rest=time.sleep)
        list(table_in(client).write([Cut(0, [bytes(900)] * 2000)], [], pacer=pacer))
    assert len(stored) == 2000 // tables.COMMANDS_PER_SEND
    assert [there for there, _ in stored] == [sent for _, sent in stored]


# --- A Redis that will not --------------------------------------------------------------------------------------------


def test_write_blocks__memory_is_full__raises_and_leaves_no_late_replies(server: EmbeddedValkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "3mb")
        client.config_set("maxmemory-policy", "noeviction")
        blocks = [bytes(2000)] * 4000
        with pytest.raises(redis.RedisError, match=r"OOM|maxmemory"):
            list(table_in(client).write([Cut(0, blocks)], []))
        assert [client.ping() for _ in range(3)] == [True] * 3
        table_in(client, block_bits=12).drop()
        assert client.dbsize() == 0


def test_write_blocks__the_server_stops_half_way__raises(server: EmbeddedValkey) -> None:
    def cuts() -> Iterator[Cut]:
        yield Cut(0, [bytes(1000)] * 2000)
        server.stop()
        yield Cut(2000, [bytes(1000)] * 2000)

    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.RedisError):
        list(table_in(client).write(cuts(), []))


# --- A replica --------------------------------------------------------------------------------------------------------


@pytest.fixture
def replica(server: EmbeddedValkey, tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("repl-diskless-sync-delay", 0)
        options = (*IN_MEMORY, "--replicaof", f"127.0.0.1 {server.port}")
        valkey = EmbeddedValkey(tmp_path / "replica", options=options).start()
        eventually(lambda: cast(Any, client.info("replication")).get("slave0", {}).get("state") == "online" or None)
    yield valkey
    valkey.stop()


def test_write_blocks__a_replica__has_everything_when_the_writing_ends(
    server: EmbeddedValkey, replica: EmbeddedValkey
) -> None:
    blocks = blocks_of(1000)
    with redis.Redis.from_url(server.url) as client, redis.Redis.from_url(replica.url) as copy:
        write(client, blocks)
        assert [held(copy, number) for number in range(len(blocks))] == blocks


def test_write_blocks__a_replica_that_hangs__a_problem_in_words(
    server: EmbeddedValkey, replica: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "REPLICA_TIMEOUT_MS", 300)
    replica.pause()
    with redis.Redis.from_url(server.url) as client, pytest.raises(TableProblem, match="Only 0 of 1 replicas"):
        write(client, blocks_of(10))
