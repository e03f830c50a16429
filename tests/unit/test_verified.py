"""Verified tokens: what is kept of them, in bytes, and whose go where they are too many."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from serving import verified
from serving.verified import ENTRY_BYTES, VerifiedTokens

SIZE = ENTRY_BYTES + 100


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> VerifiedTokens[str, str]:
    monkeypatch.setattr(verified, "MAX_BYTES", 100 * SIZE)
    return VerifiedTokens()


def keep(tokens: VerifiedTokens[str, str], holder: str, numbers: range) -> Iterator[str]:
    for number in numbers:
        name = f"{holder}{number}".ljust(100)
        tokens.keep(name, f"caller {number}", holder)
        yield name


def test_tokens__are_kept_up_to_so_many_bytes_the_newest_of_them(kept: VerifiedTokens[str, str]) -> None:
    names = list(keep(kept, "a", range(1000)))
    assert 97 * SIZE <= kept.size_bytes <= 100 * SIZE
    assert kept.size_bytes == SIZE * len(kept.callers)
    assert [*kept.callers] == names[-len(kept.callers) :]


def test_tokens__of_one_credential_without_end__crowd_out_its_own_alone(kept: VerifiedTokens[str, str]) -> None:
    few = list(keep(kept, "few", range(30)))
    list(keep(kept, "many", range(1000)))
    assert kept.callers.keys() >= set(few)


def test_token__kept_twice__counts_once_and_is_the_newer(kept: VerifiedTokens[str, str]) -> None:
    kept.keep("x" * 100, "old", "a")
    kept.keep("x" * 100, "new", "a")
    assert (kept.callers, kept.size_bytes) == ({"x" * 100: "new"}, SIZE)


def test_token__forgotten__is_gone_once(kept: VerifiedTokens[str, str]) -> None:
    first, second = keep(kept, "a", range(2))
    for _ in range(2):
        kept.forget(first, "a")
    kept.forget(second, "another")
    assert ([*kept.callers], kept.size_bytes) == ([second], SIZE)


def test_credential__forgotten__takes_its_tokens_along(kept: VerifiedTokens[str, str]) -> None:
    mine, _ = list(keep(kept, "a", range(3))), list(keep(kept, "b", range(2)))
    for _ in range(2):
        kept.forget_all("b")
    assert ([*kept.callers], kept.size_bytes) == (mine, 3 * SIZE)


def test_entry_bytes__are_about_what_a_token_takes() -> None:
    assert sys.getsizeof("x" * 100) < ENTRY_BYTES
