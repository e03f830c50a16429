"""The command line of `python -m benchmarks`."""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import CONTENDERS, REDIS_BENCHMARK
from recsite.environment import BASE_DIR

PARTS = ("table", "million", "ed25519", "workers", "overload", "start")
LOADING_PARTS = ("peers", "large", "serving")
# Needs an environment of its own, which `make bench-feast` makes.
FEAST_PART = "feast"
NAMES = (*(contender.name for contender in CONTENDERS), REDIS_BENCHMARK)
QUICK = {"players": 100_000, "rounds": 1, "seconds": 1.0}
FULL = {"players": 1_000_000, "rounds": 3, "seconds": 4.0}


@dataclass(frozen=True)
class Options:
    """What a run of `serving` is to do.

    Attributes:
        players: rows of each of the two tables.
        rounds: how often every contender takes its turn.
        seconds: of one measurement; a turn takes two for each case.
        contenders: names of those that take part.
        parts: which figures: the table of contenders, and what else is measured of the lane.
        write_docs: whether to put the figures into docs/performance.md.
        folder: where everything lies.
    """

    players: int
    rounds: int
    seconds: float
    contenders: tuple[str, ...]
    parts: tuple[str, ...]
    write_docs: bool
    folder: Path


@dataclass(frozen=True)
class LoadingOptions:
    """What a run of `loading` is to do.

    Attributes:
        rows: of the tables that peers load too.
        large_rows: of those that only the loader loads.
        rounds: how often everyone takes a turn with the smaller tables.
        seconds: for which a lane is asked while nothing is loaded.
        parts: which figures.
        write_docs: whether to put the figures into docs/performance.md.
        folder: where everything lies.
    """

    rows: int
    large_rows: int
    rounds: int
    seconds: float
    parts: tuple[str, ...]
    write_docs: bool
    folder: Path


def read_options(arguments: Sequence[str]) -> Options | LoadingOptions:
    """Read the command line; ends the process with a sentence where it will not do."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serving",
        help="serving against its peers",
        description="Start Valkey, load players with the real loader, and ask each contender, on one core, in turns. "
        "About ten minutes with what is set by default.",
    )
    serving.add_argument("--quick", action="store_true", help="one short round: to see that it works, not to quote")
    serving.add_argument(
        "--players", type=_whole(1_000, 5_000_000), help=f"rows of each of two tables (default: {FULL['players']:,})"
    )
    serving.add_argument("--rounds", type=_whole(1, 20), help=f"turns of each contender (default: {FULL['rounds']})")
    serving.add_argument(
        "--seconds", type=_seconds, help=f"of each measurement, 0.2 … 30 (default: {FULL['seconds']:g})"
    )
    serving.add_argument("--contenders", type=_some_of(NAMES), default=NAMES, help=f"of: {','.join(NAMES)}")
    serving.add_argument("--parts", type=_some_of(PARTS), default=PARTS, help=f"of: {','.join(PARTS)}")
    serving.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    serving.add_argument(
        "--folder",
        type=Path,
        default=BASE_DIR / "var" / "bench-serving",
        help="for data, logs, results (default: var/bench-serving)",
    )
    _add_loading(commands)
    given = parser.parse_args(arguments)
    if given.command == "loading":
        return _loading(given)
    preset = QUICK if given.quick else FULL
    return Options(
        players=given.players or int(preset["players"]),
        rounds=given.rounds or int(preset["rounds"]),
        seconds=given.seconds or preset["seconds"],
        contenders=given.contenders,
        parts=given.parts,
        write_docs=given.write_docs,
        folder=given.folder.resolve(),
    )


def _add_loading(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    loading = commands.add_parser(
        "loading",
        help="loading against one key per row",
        description="Start Valkey, make tables, load them with the real loader and as one key per row in turns, and "
        "serve meanwhile. About eight minutes with what is set by default. Parts that are left out keep the figures of "
        "the run before.",
    )
    loading.add_argument("--quick", action="store_true", help="one round, and without the large tables")
    loading.add_argument(
        "--rows", type=_whole(1_000, 5_000_000), default=2_000_000, help="that peers load too (default: 2,000,000)"
    )
    loading.add_argument(
        "--large-rows",
        type=_whole(1_000, 50_000_000),
        default=20_000_000,
        help="that only the loader loads (default: 20,000,000)",
    )
    loading.add_argument("--rounds", type=_whole(1, 20), help="turns of each contender (default: 3)")
    loading.add_argument("--seconds", type=_seconds, default=6.0, help="a lane is asked while idle (default: 6)")
    loading.add_argument(
        "--parts",
        type=_some_of((*LOADING_PARTS, FEAST_PART)),
        help=f"of: {','.join(LOADING_PARTS)}; or {FEAST_PART} (make bench-feast)",
    )
    loading.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    loading.add_argument(
        "--folder",
        type=Path,
        default=BASE_DIR / "var" / "bench-loading",
        help="for data, logs, results (default: var/bench-loading)",
    )


def _loading(given: argparse.Namespace) -> LoadingOptions:
    return LoadingOptions(
        rows=given.rows,
        large_rows=given.large_rows,
        rounds=given.rounds or (1 if given.quick else 3),
        seconds=given.seconds,
        parts=given.parts or (("peers", "serving") if given.quick else LOADING_PARTS),
        write_docs=given.write_docs,
        folder=given.folder.resolve(),
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is no whole number from {least:,} to {most:,}")
        return int(text)

    return whole


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 30:
        raise ArgumentTypeError(f"{text!r} is no number of seconds from 0.2 to 30")
    return seconds


def _some_of(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def some(text: str) -> tuple[str, ...]:
        wanted = tuple(name.strip() for name in text.split(",") if name.strip())
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted:
            raise ArgumentTypeError(f"{text!r} is not made of: {', '.join(names)}")
        return wanted

    return some
