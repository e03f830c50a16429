"""The command line of `python -m benchmarks`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.contenders import CONTENDERS, REDIS_BENCHMARK
from recsite.environment import BASE_DIR

PARTS = ("table", "ed25519", "workers", "overload", "start")
LOADING_PARTS = ("peers", "large", "serving")
# Needs an environment of its own, which `make bench-feast` makes.
FEAST_PART = "feast"
NAMES = (*(contender.name for contender in CONTENDERS), REDIS_BENCHMARK)
Number = TypeVar("Number", int, float)


def _number(least: Number, most: Number) -> Callable[[str], Number]:
    """Return argparse's type for numbers between two, of their type."""
    kind = type(least)

    def number(typed: str) -> Number:
        try:
            value = kind(typed)
        except ValueError:
            raise argparse.ArgumentTypeError(f"“{typed}” is not a{' whole' if kind is int else ''} number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {least:,} to {most:,}, not {typed}")
        return value

    return number


_ROWS = _number(1_000, 5_000_000)
_LARGE_ROWS = _number(1_000, 50_000_000)
_ROUNDS = _number(1, 20)
_SECONDS = _number(0.2, 30.0)
_STUDIOS = _number(1, 5_000)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ends the process with a sentence where it will not do."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = _add(commands, "serving", "serving against its peers, one core each, in turns: ten minutes", PARTS)
    serving.add_argument("--players", type=_ROWS, default=1_000_000, help="rows of each of two tables")
    serving.add_argument("--seconds", type=_SECONDS, default=4.0, help="of one measurement, two a case and turn")
    serving.add_argument("--contenders", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    loading = _add(commands, "loading", "loading against one key per row: eight minutes", (*LOADING_PARTS, FEAST_PART))
    loading.add_argument("--rows", type=_ROWS, default=2_000_000, help="that peers load too")
    loading.add_argument("--large-rows", type=_LARGE_ROWS, default=20_000_000, help="that only the loader loads")
    loading.add_argument(
        "--seconds", type=_SECONDS, default=6.0, help="for which a lane is asked while nothing is loaded"
    )
    publishing = commands.add_parser("publishing", help="keeping snapshots current: a minute")
    publishing.add_argument("--studios", type=_STUDIOS, default=500, help="of ten models each")
    previews = commands.add_parser("previews", help="previews of weights after a long history: half a minute")
    for command in (publishing, previews):
        command.set_defaults(parts=(), quick=False, folder=None)
    options = parser.parse_args(arguments)
    is_loading = options.command == "loading"
    if options.parts is None:
        options.parts = (("peers", "serving") if options.quick else LOADING_PARTS) if is_loading else PARTS
    if options.quick:
        options.rounds = 1
    if options.quick and not is_loading:
        options.players, options.seconds = 100_000, 1.0
    if options.folder is None:
        options.folder = BASE_DIR / "var" / f"bench-{options.command}"
    options.folder = options.folder.resolve()
    return options


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str, parts: Sequence[str]
) -> argparse.ArgumentParser:
    """Add a benchmark with what all of them take."""
    parser = commands.add_parser(name, help=words, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works, not to quote")
    parser.add_argument("--rounds", type=_ROUNDS, default=3, help="turns of each contender")
    parser.add_argument("--parts", nargs="+", choices=parts, metavar="PART", help=f"which figures: {', '.join(parts)}")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("--folder", type=Path, help="for data, logs, results; by default below var/")
    return parser
