"""The lane's reader of blocks against a real Redis, however it is reached and whatever is done to it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
import uvloop

from recsite.embedded import EmbeddedValkey, free_port
from serving.engine import UNAVAILABLE, Block
from serving.metrics import Numbers
from serving.redis.reader import MOST_AT_ONCE, Address, NodeReader, read_all
from tests.certificates import write_certificate

# Far longer than anything takes: whatever is still waiting by then hangs.
HANGS_SECONDS = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """Yield a valkey-server that a test may stop, with a user of its own and a Unix socket."""
    valkey = EmbeddedValkey(
        tmp_path / "valkey",
        options=(
            *("--save", "", "--appendonly", "no", "--unixsocket", str(tmp_path / "s")),
            *("--user", "default", "on", "nopass", "~*", "&*", "+@all"),
            *("--user", "lane", "on", ">p@ss", "~recsite:*", "+get", "+select", "+ping"),
        ),
    ).start()
    yield valkey
    valkey.stop()


@pytest.fixture
def client(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        yield connection


class Reading:
    """A reader in its event loop, and what it counts."""

    def __init__(self, reader: NodeReader, numbers: Numbers) -> None:
        self.reader = reader
        self.numbers = numbers

    async def read(self, *names: str) -> list[object]:
        blocks: asyncio.Future[list[Block]] = asyncio.get_running_loop().create_future()
        read_all(self.reader.read, names, blocks.set_result)
        return list(await blocks)

    async def connected(self, *, expected: bool = True) -> None:
        while self.reader.is_connected != expected:  # noqa: ASYNC110  # the reader has no event for tests
            await asyncio.sleep(0.01)


def run(url: str, story: Callable[[Reading], Awaitable[None]], *, deadline_seconds: float = 0.05) -> Numbers:
    """Run a story with a reader on the loop that the lane uses."""
    numbers = Numbers()

    async def main() -> None:
        reader = NodeReader(Address.parse(url), deadline_seconds=deadline_seconds, numbers=numbers)
        reader.start(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(HANGS_SECONDS):
                await story(Reading(reader, numbers))
        finally:
            reader.close()

    uvloop.run(main())
    return numbers


# --- However it is reached ------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Listen on a free port for as long as the block runs."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_any_way_in__blocks_empty_blocks_and_missing_ones_in_order(
    server: EmbeddedValkey, client: redis.Redis, tmp_path: Path
) -> None:
    urls = [
        server.url,
        f"redis://127.0.0.1:{server.port}/3",
        f"redis://lane:p%40ss@127.0.0.1:{server.port}/3",
        f"unix://{tmp_path}/s?db=3",
        f"unix://lane:p%40ss@{tmp_path}/s",
    ]
    for database in (0, 3):
        client.select(database)
        client.mset({"recsite:a": b"\x00\r\n$-1\r\nA", "recsite:empty": b"", "recsite:large": bytes(300_000)})

    async def story(reading: Reading) -> None:
        await reading.connected()
        names = ["recsite:missing", "recsite:a", "recsite:empty", "recsite:large", "recsite:a"]
        expected = [None, b"\x00\r\n$-1\r\nA", b"", bytes(300_000), b"\x00\r\n$-1\r\nA"]
        assert await reading.read(*names) == expected
        assert await reading.read("recsite:missing") == [None]

    for url in urls:
        numbers = run(url, story, deadline_seconds=5)
        assert (numbers.redis_reads, numbers.redis_errors, numbers.redis_timeouts) == (6, 0, 0)


def test_a_user_without_a_password__is_let_in(tmp_path: Path) -> None:
    users = ("--user", "open", "on", "nopass", "~*", "&*", "+@all", "--user", "default", "off")
    server = EmbeddedValkey(tmp_path / "valkey", options=("--save", "", "--appendonly", "no", *users))

    async def story(reading: Reading) -> None:
        await reading.connected()
        assert await reading.read("recsite:a") == [b"A"]

    try:
        server.start(awaited=b"-NOAUTH")
        url = f"redis://open@127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url) as client:
            client.set("recsite:a", b"A")
        run(url, story, deadline_seconds=5)
    finally:
        server.stop()


def test_tls__the_certificate_is_checked(server: EmbeddedValkey, client: redis.Redis, tmp_path: Path) -> None:
    client.set("recsite:a", b"A")
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async def main() -> None:
        async with listening(relay, tls=context) as port:
            for query, trusted in (("?ssl_cert_reqs=none", True), (f"?ssl_ca_certs={certificate}", True), ("", False)):
                address = Address.parse(f"rediss://localhost:{port}/0{query}")
                reader = NodeReader(address, deadline_seconds=5, numbers=Numbers())
                reader.start(asyncio.get_running_loop())
                if trusted:
                    reading = Reading(reader, Numbers())
                    await reading.connected()
                    assert await reading.read("recsite:a") == [b"A"]
                else:
                    await asyncio.sleep(0.5)
                    assert not reader.is_connected
                reader.close()

    asyncio.run(asyncio.wait_for(main(), HANGS_SECONDS))


@pytest.mark.parametrize("url", ["http://localhost", "redis+nothing://x", "localhost:6379", ""])
def test_address__no_url_of_a_redis__refused(url: str) -> None:
    with pytest.raises(ValueError, match="scheme"):
        Address.parse(url)


# --- One write for many reads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reads", "writes"), [(MOST_AT_ONCE - 1, 1), (2 * MOST_AT_ONCE + 1, 3)])
def test_reads_of_one_turn__go_out_together(
    server: EmbeddedValkey, client: redis.Redis, reads: int, writes: int
) -> None:
    client.mset({f"k{n}": b"%d" % n for n in range(reads)})

    async def story(reading: Reading) -> None:
        await reading.connected()
        writes_before = reading.numbers.redis_batches
        arrived_before = client.info("stats")["total_reads_processed"]
        blocks = await asyncio.gather(*(reading.read(f"k{n}") for n in range(reads)))
        assert blocks == [[b"%d" % n] for n in range(reads)]
        assert reading.numbers.redis_batches - writes_before == writes
        # The server saw it so: each in one or two reads of its own, besides the two INFOs and a heartbeat.
        assert client.info("stats")["total_reads_processed"] - arrived_before <= 4 + 2 * writes

    run(server.url, story, deadline_seconds=5)


def test_many_keys__are_one_write(server: EmbeddedValkey, client: redis.Redis) -> None:
    client.mset({f"k{n}": b"%d" % n for n in range(500)})

    async def story(reading: Reading) -> None:
        await reading.connected()
        before = reading.numbers.redis_batches
        assert await reading.read(*(f"k{n}" for n in range(500))) == [b"%d" % n for n in range(500)]
        assert reading.numbers.redis_batches - before == 1

    run(server.url, story, deadline_seconds=5)


# --- Whatever is done to it -----------------------------------------------------------------------------------------


def test_redis_hangs__reads_end_by_their_deadline_and_no_late_reply_reaches_the_next(
    server: EmbeddedValkey, client: redis.Redis
) -> None:
    client.mset({"early": b"early", **{f"k{n}": b"%d" % n for n in range(50)}})

    async def story(reading: Reading) -> None:
        for _ in range(3):
            await reading.connected()
            assert await reading.read("early") == [b"early"]
            server.pause()
            before = reading.numbers.redis_timeouts
            assert await asyncio.gather(*(reading.read("early") for _ in range(5))) == [[UNAVAILABLE]] * 5
            assert reading.numbers.redis_timeouts - before == 5
            assert not reading.reader.is_connected
            assert await reading.read("early") == [UNAVAILABLE]
            server.resume()
            await reading.connected()
            # The five replies come now, to a connection that is no more.
            for number in range(50):
                assert await reading.read(f"k{number}") == [b"%d" % number]

    numbers = run(server.url, story)
    assert numbers.redis_errors == 3


def test_redis_hangs_while_nobody_asks__noticed_by_the_heartbeat(server: EmbeddedValkey) -> None:
    async def story(reading: Reading) -> None:
        await reading.connected()
        server.pause()
        await reading.connected(expected=False)
        server.resume()
        await reading.connected()

    run(server.url, story)


def test_redis_restarts__healed_without_help(server: EmbeddedValkey, client: redis.Redis) -> None:
    async def story(reading: Reading) -> None:
        for _ in range(2):
            await reading.connected()
            client.set("k", b"v")
            assert await reading.read("k") == [b"v"]
            server.stop()
            await reading.connected(expected=False)
            assert await reading.read("k", "k") == [UNAVAILABLE, UNAVAILABLE]
            await asyncio.sleep(0.6)  # beyond the longest pause between two attempts
            server.start()

    run(server.url, story)


def test_redis_is_killed_in_the_middle_of_a_read__unavailable_then_healed(
    server: EmbeddedValkey, client: redis.Redis
) -> None:
    client.set("k", b"v")

    async def story(reading: Reading) -> None:
        await reading.connected()
        server.pause()
        waiting = asyncio.create_task(reading.read("k"))
        await asyncio.sleep(0.05)
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        assert await waiting == [UNAVAILABLE]
        server.start()
        await reading.connected()
        assert await reading.read("k") == [None]

    numbers = run(server.url, story, deadline_seconds=10)
    assert (numbers.redis_errors, numbers.redis_timeouts) == (1, 0)


def test_redis_was_never_there__reads_fail_at_once(tmp_path: Path) -> None:
    for url in (f"redis://127.0.0.1:{free_port()}/0", f"unix://{tmp_path}/nothing", "redis://no-such-host.invalid/0"):

        async def story(reading: Reading) -> None:
            assert await reading.read("k", "l") == [UNAVAILABLE, UNAVAILABLE]
            await asyncio.sleep(0.2)
            assert await reading.read("k") == [UNAVAILABLE]

        assert run(url, story, deadline_seconds=30).redis_errors == 3


@pytest.mark.parametrize("user", ["lane:wrong", "nobody:p%40ss"])
def test_password_is_wrong__never_connected(server: EmbeddedValkey, user: str) -> None:
    async def story(reading: Reading) -> None:
        await asyncio.sleep(0.4)
        assert not reading.reader.is_connected
        assert await reading.read("k") == [UNAVAILABLE]

    run(f"redis://{user}@127.0.0.1:{server.port}/0", story)


def test_redis_says_no__unavailable_and_the_connection_goes_on(server: EmbeddedValkey, client: redis.Redis) -> None:
    client.set("recsite:a", b"A")
    client.rpush("recsite:list", "x")
    client.set("secret", b"S")

    async def story(reading: Reading) -> None:
        await reading.connected()
        assert await reading.read("secret", "recsite:a", "recsite:list") == [UNAVAILABLE, b"A", UNAVAILABLE]
        assert reading.reader.is_connected

    numbers = run(f"redis://lane:p%40ss@127.0.0.1:{server.port}/0", story)
    assert numbers.redis_errors == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+PO",
        b"+OK\r\n",
        b"$-1\r\n",
        b"+PONG\r\n+PONG\r\n",
    ],
)
def test_no_proper_pong__never_connected(answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)

    async def main() -> None:
        async with listening(handle) as port:
            reader = NodeReader(Address.parse(f"redis://127.0.0.1:{port}"), deadline_seconds=0.05, numbers=Numbers())
            reader.start(asyncio.get_running_loop())
            for _ in range(30):
                await asyncio.sleep(0.01)
                assert not reader.is_connected or answer.startswith(b"+PONG")
                assert await Reading(reader, Numbers()).read("k") == [UNAVAILABLE]
            reader.close()

    uvloop.run(asyncio.wait_for(main(), HANGS_SECONDS))


def test_this_process_sleeps_past_the_deadline__replies_that_arrived_meanwhile_are_read(
    server: EmbeddedValkey, client: redis.Redis
) -> None:
    client.set("k", b"v")

    async def story(reading: Reading) -> None:
        await reading.connected()
        for _ in range(5):
            waiting = asyncio.create_task(reading.read("k"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251  # the loop itself is held up, as by a large snapshot
            assert await waiting == [b"v"]

    numbers = run(server.url, story)
    assert numbers.redis_timeouts == 0


def test_this_process_is_busy_between_asking_and_sending__redis_has_its_whole_time_all_the_same() -> None:
    """A flood of requests must not turn into a flood of fallbacks."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(1000):
            await asyncio.sleep(0.02)
            writer.write(b"+PONG\r\n" if b"PING" in command else b"$1\r\nv\r\n")

    async def main() -> None:
        async with listening(handle) as port:
            numbers = Numbers()
            reader = NodeReader(Address.parse(f"redis://127.0.0.1:{port}"), deadline_seconds=0.1, numbers=numbers)
            reader.start(asyncio.get_running_loop())
            reading = Reading(reader, numbers)
            await reading.connected()
            for _ in range(5):
                waiting = asyncio.create_task(reading.read("k"))
                await asyncio.sleep(0)
                time.sleep(0.2)  # noqa: ASYNC251  # what other answers take, before the command is sent
                assert await waiting == [b"v"]
            reader.close()

    uvloop.run(asyncio.wait_for(main(), HANGS_SECONDS))
