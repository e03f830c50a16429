"""The cache of blocks, and how what it has not is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from serving.engine import UNAVAILABLE, Block
from serving.metrics import Numbers
from serving.redis.cache import BlockCache
from serving.redis.reader import Put, read_all


class Redis:
    """A reader that remembers what it was asked."""

    def __init__(self, blocks: dict[str, Block] | None = None) -> None:
        self.blocks = blocks or {}
        self.asked: list[str] = []

    def read(self, names: Sequence[str], put: Put) -> None:
        self.asked.extend(names)
        for index, name in enumerate(names):
            put(index, self.blocks.get(name))


class Cache(BlockCache):
    """One that is given what it keeps."""

    def __init__(self, capacity_bytes: int) -> None:
        self.redis = Redis()
        super().__init__(self.redis, capacity_bytes, Numbers())

    def put(self, name: str, block: bytes) -> None:
        self.redis.blocks[name] = block
        self.fetch([name], lambda _index, _block: None, as_it_is)


def as_it_is(_: int, block: Block) -> Block:
    return block


def read(cache: BlockCache, *names: str) -> list[Block]:
    given: list[list[Block]] = []
    read_all(partial(cache.read, opened=as_it_is), names, given.append)
    (blocks,) = given
    return blocks


def test_cache__over_its_capacity__forgets_the_least_recently_used() -> None:
    cache = Cache(3 * (2 + 100 + 220))
    for name in ("k0", "k1", "k2"):
        cache.put(name, bytes(100))
    assert cache.get("k0") is not None
    cache.put("k3", bytes(100))
    assert [name for name in ("k0", "k1", "k2", "k3") if cache.get(name) is not None] == ["k0", "k2", "k3"]


def test_cache__a_block_larger_than_all_of_it__is_not_kept() -> None:
    cache = Cache(1000)
    cache.put("small", b"x")
    cache.put("large", bytes(2000))
    assert (cache.get("small"), cache.get("large")) == (b"x", None)


def test_cache__an_empty_block_is_a_block() -> None:
    cache = Cache(1000)
    cache.put("empty", b"")
    assert cache.get("empty") == b""


@given(
    capacity=st.integers(0, 3000),
    steps=st.lists(st.tuples(st.sampled_from("pdg"), st.sampled_from("abcdef"), st.integers(0, 900))),
)
def test_cache__whatever_is_done_to_it__within_its_capacity_and_right_about_its_size(
    capacity: int, steps: list[tuple[str, str, int]]
) -> None:
    cache = Cache(capacity)
    for step, name, size in steps:
        if step == "p":
            cache.put(name, bytes(size))
        elif step == "d":
            cache.drop(name)
            assert cache.get(name) is None
        else:
            cache.get(name)
        kept = {name: block for name in "abcdef" if (block := cache.get(name)) is not None}
        assert cache.size_bytes == sum(len(name) + len(block) + 220 for name, block in kept.items()) <= capacity


def test_reader__asks_redis_only_for_what_is_not_here_and_keeps_the_order() -> None:
    redis, numbers = Redis({name: name.encode() for name in "abcd"}), Numbers()
    reader = BlockCache(redis, 10_000, numbers)

    assert read(reader, "b", "d") == [b"b", b"d"]
    redis.asked.clear()
    assert read(reader, "a", "b", "c", "d", "a") == [b"a", b"b", b"c", b"d", b"a"]
    assert redis.asked == ["a", "c", "a"]
    redis.asked.clear()
    assert read(reader, "a") == [b"a"]
    assert redis.asked == []
    assert numbers.block_cache_hits == 3


def test_reader__what_was_missing_or_not_read__is_asked_for_again() -> None:
    redis = Redis({"away": UNAVAILABLE})
    reader = BlockCache(redis, 10_000, Numbers())

    assert read(reader, "away", "lost") == [UNAVAILABLE, None]
    redis.blocks.update(away=b"1", lost=b"2")
    assert read(reader, "away", "lost") == [b"1", b"2"]


def test_get_and_fetch__look_once_and_count_once() -> None:
    redis, numbers = Redis({"a": b"1"}), Numbers()
    cache = BlockCache(redis, 10_000, numbers)
    fetched: list[tuple[int, Block]] = []
    assert cache.get("a") is None
    cache.fetch(["a"], lambda index, block: fetched.append((index, block)), as_it_is)
    assert fetched == [(0, b"1")]
    assert numbers.block_cache_hits == 0
    assert cache.get("a") == b"1"
    assert (numbers.block_cache_hits, redis.asked) == (1, ["a"])


def test_reader__what_is_opened__is_kept_and_not_opened_again() -> None:
    redis = Redis({"a": b"1 sealed", "b": b"forged", "c": b"2 sealed"})
    cache = BlockCache(redis, 10_000, Numbers())
    asked, opened = ("a", "b", "c"), []

    def take_off(index: int, block: Block) -> Block:
        opened.append(asked[index])
        assert isinstance(block, bytes)
        return block.removesuffix(b" sealed") if block.endswith(b" sealed") else None

    given: list[list[Block]] = []
    for _ in range(2):
        read_all(partial(cache.read, opened=take_off), asked, given.append)
    assert given == [[b"1", None, b"2"]] * 2
    assert opened == ["a", "b", "c", "b"]
