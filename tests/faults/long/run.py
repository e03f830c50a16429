"""Does faults by chance to an installation under traffic, and says in a table what came of them."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from django.db import Error

from examples.generate import EXAMPLES, Example, keys_of
from recsite.demo.screen import Screen
from recsite.demo.site import prepared
from tests.faults.long.clients import Client, Event
from tests.faults.long.installation import PLAYERS, Installation
from tests.faults.long.judge import Expected, Question, Verdict
from tests.faults.long.kinds import KINDS, Kind
from tests.postgres import EmbeddedPostgres

# All is well again when nobody got anything else than right answers for so long.
CALM_SECONDS = 1.0
RECOVERY_SECONDS = 150.0
LATER_SECONDS = 300.0
SHOWN = 20
LANE, DRF_DOOR = DOORS = ("lane", "DRF door")


@dataclass
class Row:
    """What came of one kind of fault.

    Attributes:
        got: questions by what came of them.
        longest_gap_seconds: by door, the longest time in which a client got nothing to go on with.
        recovery_seconds: the longest time from its being made good to when all was well.
    """

    name: str
    times: int = 0
    got: Counter[Verdict] = field(default_factory=Counter)
    longest_gap_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DOORS, 0.0))
    recovery_seconds: float = 0.0


class Run:
    """One run: its clients, its table, and what was not as it should be."""

    def __init__(self, installation: Installation, seed: int) -> None:
        self.installation = installation
        self.chance = random.Random(seed)
        self.rows = {kind.name: Row(kind.name) for kind in KINDS}
        self.between = Row("between faults")
        self.complaints: list[str] = []
        site = installation.site
        doors = [(LANE, site.lane_port), (LANE, site.lane_port), (DRF_DOOR, site.dashboard_port)]
        draw = drawing(installation)
        self._clients = [Client(door, port, f"{seed}/{n}", draw) for n, (door, port) in enumerate(doors)]
        self._taken = [0] * len(doors)
        self._since = time.monotonic()
        # What takes long: of which kind, since when, and what tells that it is over.
        self._later: list[tuple[Kind, float, Callable[[Installation], bool]]] = []

    def go_on_for(self, minutes: float) -> None:
        """Do faults for so long, or until Ctrl-C, each kind as often as another; the last one is ended."""
        until = time.monotonic() + minutes * 60
        self._since = time.monotonic()
        for client in self._clients:
            client.start()
        self._wait_for_calm(time.monotonic(), "all to begin")
        kinds = [kind for kind in KINDS if self.installation.postgres or not kind.needs_postgres]
        while True:
            self.chance.shuffle(kinds)
            for kind in kinds:
                if time.monotonic() >= until or self.installation.parts.signals_received:
                    return
                self._do(kind)

    def end(self) -> None:
        """Wait for what takes long, and stop the clients."""
        self._wait_for_what_takes_long(LATER_SECONDS)
        self._collect(self.between)
        for client in self._clients:
            client.is_done.set()

    def _do(self, kind: Kind) -> None:
        row, installation = self.rows[kind.name], self.installation
        installation.mint()
        self._collect(self.between)
        row.times += 1
        lasts_seconds = self.chance.uniform(kind.most_seconds / 4, kind.most_seconds)
        installation.screen.say(f"{kind.name} ({lasts_seconds:.1f} s)")
        made_good_at = time.monotonic()
        try:
            with kind.done(installation, self.chance):
                time.sleep(lasts_seconds)
                made_good_at = time.monotonic()
            installation.wait(lambda: kind.is_over(installation), "all to be as before", RECOVERY_SECONDS)
        except (TimeoutError, OSError, Error) as error:
            self._complain(f"{kind.name}: {error!r}")
        over_at = time.monotonic()
        calm_at = self._wait_for_calm(made_good_at, kind.name)
        row.recovery_seconds = max(row.recovery_seconds, calm_at - made_good_at, over_at - made_good_at)
        self._collect(row)
        for part in installation.parts.parts:
            if part.has_ended():
                self._complain(f"{kind.name}: {part.name} ended by itself ({part.how_it_ended()}):\n{part.log_tail()}")
                part.start()
        if kind.is_over_later is not None:
            self._later.append((kind, made_good_at, kind.is_over_later))
        self._wait_for_what_takes_long(0)

    def _wait_for_calm(self, since: float, what: str) -> float:
        """Return when, after a moment, every client began to get nothing but right answers."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            now = time.monotonic()
            begun = [right_since(client.events, since) for client in self._clients]
            if all(at is not None and now - at >= CALM_SECONDS for at in begun):
                return max(at for at in begun if at is not None)
            if now > deadline:
                self._complain(f"{what}: clients did not get right answers again within {RECOVERY_SECONDS:.0f} s")
                return now
            time.sleep(0.05)

    def _wait_for_what_takes_long(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._later:
            now = time.monotonic()
            for waiting in list(self._later):
                kind, since, is_over = waiting
                if is_over(self.installation):
                    self._later.remove(waiting)
                    row = self.rows[kind.name]
                    row.recovery_seconds = max(row.recovery_seconds, now - since)
            if now >= deadline:
                break
            time.sleep(0.5)
        if seconds:
            self.complaints += [f"{kind.name}: not over after {LATER_SECONDS:.0f} s" for kind, *_ in self._later]

    def _collect(self, row: Row) -> None:
        """Count in a row what came of all questions since the last time."""
        now = time.monotonic()
        for number, client in enumerate(self._clients):
            new = client.events[self._taken[number] :]
            self._taken[number] += len(new)
            for event in new:
                row.got[self._judged(event, client.door)] += 1
            gap_seconds = client.longest_gap(self._since, now)
            row.longest_gap_seconds[client.door] = max(row.longest_gap_seconds[client.door], gap_seconds)
        self._since = now

    def _judged(self, event: Event, door: str) -> Verdict:
        question, judgement = event.question, event.judgement
        if judgement.verdict is Verdict.WRONG:
            self._complain(f"{door}, {question}: {judgement.reason}")
        elif judgement.version and (question.studio, question.model) == ("aurora", "offers"):
            unit = question.key["player_id"]
            if not self.installation.weights.allow(unit, judgement.version, event.asked_at, event.answered_at):
                self._complain(f"{door}, {question}: a row of {judgement.version}, which is not that player's")
                return Verdict.WRONG
        return judgement.verdict

    def _complain(self, words: str) -> None:
        self.complaints.append(words)
        self.installation.screen.say(f"  NOT RIGHT: {words}")


def right_since(events: list[Event], since: float) -> float | None:
    """Return from when on nothing but right answers came, after a moment; None if the last one is none."""
    first = None
    for event in reversed(events):
        if event.answered_at < since or event.judgement.verdict is not Verdict.RIGHT:
            break
        first = event.answered_at
    return first


def drawing(installation: Installation) -> Callable[[random.Random], tuple[Question, str]]:
    """Return what draws questions: about every model, players whom it knows and not, by good tokens and not."""
    known = [(example, list(keys_of(example, PLAYERS))) for example in EXAMPLES]

    def draw(chance: random.Random) -> tuple[Question, str]:
        example, keys = chance.choice(known)
        named = (example.studio, example.model)
        if chance.random() < 0.05 and example.key_fields == ("player_id",):
            return Question(*named, {"player_id": f"nobody{chance.randrange(1000)}"}, Expected.DEFAULT), _token(named)
        key = _named(example, chance.choice(keys))
        if installation.revoked and example is EXAMPLES[0] and chance.random() < 0.1:
            return Question(*named, key, Expected.UNAUTHORIZED), chance.choice(installation.revoked)
        return Question(*named, key, Expected.ROW), _token(named)

    def _token(named: tuple[str, str]) -> str:
        return installation.tokens[named]

    return draw


def _named(example: Example, key: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(example.key_fields, key, strict=True))


def table(rows: list[Row]) -> str:
    """Return what came of the faults as a table in Markdown."""
    heads = ["what was done", "times", "right", "fallback", "refused (503)", "no answer", "wrong"]
    heads += [*(f"longest gap, {door}" for door in DOORS), "over after"]
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    for row in rows:
        counts = (
            row.got[verdict]
            for verdict in (Verdict.RIGHT, Verdict.FALLBACK, Verdict.REFUSED, Verdict.NOTHING, Verdict.WRONG)
        )
        times = (f"{seconds * 1000:,.0f} ms" for seconds in (*row.longest_gap_seconds.values(), row.recovery_seconds))
        lines.append([row.name, f"{row.times}", *(f"{count:,}" for count in counts), *times])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "| "
        + " | ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def run(postgres: EmbeddedPostgres | None, seed: int, minutes: float) -> int:
    """Start an installation, do faults to it, print the table; return the exit code: 1 if anything was not right."""
    screen = Screen()
    logging.getLogger().setLevel(logging.ERROR)  # what this process itself has to say
    with ExitStack() as stack:
        installation = Installation(prepared(), postgres, screen, stack)
        installation.start()
        going = Run(installation, seed)
        going.go_on_for(minutes)
        going.end()
    rows = [going.between, *(row for row in going.rows.values() if row.times)]
    screen.say(f"\n{table(rows)}\n")
    screen.say(
        f"Seed {seed}; {'PostgreSQL' if postgres else 'SQLite'}; {sum(row.got.total() for row in rows):,} questions."
    )
    for complaint in going.complaints[:SHOWN]:
        screen.say(f"NOT RIGHT: {complaint}")
    screen.say(f"{len(going.complaints)} things were not right." if going.complaints else "Nothing was wrong.")
    return 1 if going.complaints else 0
