"""What a process keeps of tables, which never change, and how it reads the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from serving.engine import Block
from serving.metrics import Numbers
from serving.redis.reader import BlockReader, Put

# What an entry takes besides its name and block: two objects and a link in the dictionary.
_ENTRY_BYTES = 220

# What is kept and given in place of what was read; by the index of its name.
Opened = Callable[[int, Block], Block]


class BlockCache:
    """Whole blocks by Redis key, the least recently used dropped first; what is not here is read. For one thread.

    A table never changes and its id is never used again, so that an entry can grow old but not wrong.

    The capacity is the most memory to take, objects included; 0 keeps nothing.

    Attributes:
        size_bytes: the memory it takes.
    """

    def __init__(self, reader: BlockReader, capacity_bytes: int, numbers: Numbers) -> None:
        self.size_bytes = 0
        self._reader = reader
        self._capacity_bytes = capacity_bytes
        self._numbers = numbers
        self._blocks: OrderedDict[str, bytes] = OrderedDict()

    def get(self, name: str) -> bytes | None:
        """Return a block if it is here; that is a hit."""
        block = self._blocks.get(name)
        if block is not None:
            self._blocks.move_to_end(name)
            self._numbers.block_cache_hits += 1
        return block

    def read(self, names: Sequence[str], put: Put, opened: Opened) -> None:
        """Read blocks as `BlockReader` says: those that are here at once, the others as `fetch` does."""
        missing: list[int] = []
        for index, name in enumerate(names):
            block = self.get(name)
            if block is None:
                missing.append(index)
            else:
                put(index, block)
        if missing:
            self.fetch(
                [names[index] for index in missing],
                lambda number, block: put(missing[number], block),
                lambda number, block: opened(missing[number], block),
            )

    def fetch(self, names: Sequence[str], put: Put, opened: Opened) -> None:
        """Read what `get` did not have, as `BlockReader` does, have it opened once, and keep it."""

        def arrived(index: int, block: Block) -> None:
            block = opened(index, block)
            if block.__class__ is bytes:
                self._keep(names[index], block)
            put(index, block)

        self._reader.read(names, arrived)

    def drop(self, name: str) -> None:
        """Forget a block, one that turned out to be damaged."""
        block = self._blocks.pop(name, None)
        if block is not None:
            self._forget(name, block)

    def _keep(self, name: str, block: bytes) -> None:
        size = len(name) + len(block) + _ENTRY_BYTES
        if size > self._capacity_bytes or name in self._blocks:
            return
        self._blocks[name] = block
        self.size_bytes += size
        while self.size_bytes > self._capacity_bytes:
            self._forget(*self._blocks.popitem(last=False))

    def _forget(self, name: str, block: bytes) -> None:
        self.size_bytes -= len(name) + len(block) + _ENTRY_BYTES
