"""`make bench-serving`: the lane, the DRF door and their peers on one core each in turn, every answer checked."""

from __future__ import annotations

import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from itertools import islice

from benchmarks.contenders import CONTENDERS, REDIS_BENCHMARK, Contender, NotReady, redis_benchmark_missing
from benchmarks.extras import Extras
from benchmarks.load import Exchange, ask_closed
from benchmarks.machine import Cores, describe, pinned
from benchmarks.measuring import Bench, Measurement, TooFewPlayers, medians, redis_benchmark
from benchmarks.questions import Questions, Tokens
from benchmarks.reporting import number
from benchmarks.servers import Server, running
from benchmarks.serving_report import Findings, report
from benchmarks.site import BenchSite
from benchmarks.targets import Case
from benchmarks.world import MODEL, World, WorldProblem, make_world
from recsite.embedded import free_port

BLOCK_CACHE_MB = 256
CHECKED_BEFORE = 1_000
CHECKING_CONNECTIONS = 8
CHECKING_SECONDS = 60.0


class WrongAnswers(RuntimeError):
    """A contender does another job than the others; the message shows a wrong answer."""


def run(options: Namespace, site: BenchSite, cores: Cores) -> int:
    """Run the benchmark; give the exit code: 1 where something did not work, whatever the figures are."""
    try:
        _Run(options, site, cores).go()
    except (NotReady, WorldProblem, WrongAnswers, TooFewPlayers) as error:
        print(f"\n{error}\n(Logs: {site.logs})", flush=True)
        return 1
    return 0


class _Run:
    def __init__(self, options: Namespace, site: BenchSite, cores: Cores) -> None:
        self.options = options
        self.site = site
        self.bench = Bench(site, cores, options.seconds)
        self.findings = Findings()

    def go(self) -> None:
        """Prepare, measure, report."""
        _say(f"On this machine: {', '.join(f'{name} {value}' for name, value in describe().items())}.")
        _say(f"Cores: {self.bench.cores.in_words()}.")
        taking_part = [contender for contender in CONTENDERS if self._takes_part(contender)]
        began = time.monotonic()
        _say(f"Loading {self.options.players:,} players, twice (two versions) …")
        world = make_world(self.site, self.options.players)
        for line in world.loads:
            _say(f"  {line}")
        questions = Questions(world)
        for contender in taking_part:
            contender.build(self.site)
        _say(f"Everything is loaded after {time.monotonic() - began:.0f} s.")
        if "table" in self.options.parts:
            with ExitStack() as stack:
                self._measure_contenders(stack, taking_part, world, questions)
        self._measure_extras(world, questions)
        self.findings.loads = world.loads
        report(self.findings, self.options, self.site, cores_in_words=self.bench.cores.in_words())

    def _takes_part(self, contender: Contender) -> bool:
        if contender.name not in self.options.contenders:
            return False
        missing = contender.missing()
        if missing is not None:
            self.findings.left_out[contender.name] = missing
            _say(f"Left out: {contender.title}, {missing}.")
        return missing is None

    # --- The table ----------------------------------------------------------------------------------------------------

    def _measure_contenders(
        self, stack: ExitStack, taking_part: Iterable[Contender], world: World, questions: Questions
    ) -> None:
        """Start everyone, check everyone's answers, then measure in turns."""
        turns: list[tuple[Case, Callable[[], Measurement]]] = []
        for contender in taking_part:
            for has_cache in (False, True) if contender.has_block_cache else (False,):
                server = self._start(stack, contender, has_cache, questions)
                checked = self.findings.checked[contender.name]
                if not contender.reads:
                    turns.append(
                        (
                            (contender.name, Tokens.SHARED, has_cache),
                            partial(self.bench.both, server, questions.for_nothing, checked),
                        )
                    )
                    continue
                if has_cache:
                    self._check(contender, server, "each block", questions.for_each_block())
                for tokens in Tokens:
                    ask = partial(questions.exchanges, server.port, tokens)
                    self._check(contender, server, tokens, islice(ask(), CHECKED_BEFORE))
                    turns.append(((contender.name, tokens, has_cache), partial(self.bench.both, server, ask, checked)))
        if REDIS_BENCHMARK in self.options.contenders:
            missing = redis_benchmark_missing()
            if missing is None:
                key = f"{MODEL}:2026-11-a:{world.players[0]}"
                turns.append(((REDIS_BENCHMARK, Tokens.SHARED, False), partial(redis_benchmark, self.bench, key)))
            else:
                self.findings.left_out[REDIS_BENCHMARK] = missing
                _say(f"Left out: redis-benchmark, {missing}.")
        minutes = len(turns) * self.options.rounds * 2 * (self.bench.seconds + self.bench.warm_up_seconds) / 60
        _say(f"{self.options.rounds} rounds of {len(turns)} cases: about {minutes:.0f} minutes.")
        self._take_turns(turns)

    def _take_turns(self, turns: list[tuple[Case, Callable[[], Measurement]]]) -> None:
        rounds: dict[Case, list[Measurement]] = defaultdict(list)
        for turn in range(self.options.rounds):
            for case, measure in turns:
                found = measure()
                rounds[case].append(found)
                name, tokens, has_cache = case
                _say(
                    f"  round {turn + 1}: {name}, {tokens}{', block cache' if has_cache else ''}: {found.rate:,.0f}/s, "
                    f"p99 {number(found.p99_ms, '.2f')} ms at half of that"
                )
        self.findings.rounds = dict(rounds)
        self.findings.rows = {case: medians(found) for case, found in rounds.items()}

    def _start(self, stack: ExitStack, contender: Contender, has_cache: bool, questions: Questions) -> Server:  # noqa: FBT001 - a case
        port = free_port()
        launch = contender.launch(self.site, port, BLOCK_CACHE_MB if has_cache else 0)
        log = self.site.logs / f"{contender.name}{'-cache' if has_cache else ''}.log"
        cores = (self.bench.cores.server,)
        return stack.enter_context(running(launch, port, log, cores, questions.one()))

    def _check(self, contender: Contender, server: Server, what: str, exchanges: Iterable[Exchange]) -> None:
        """Compare a contender's answers before it is measured.

        Raises:
            WrongAnswers: one of them is wrong.
        """
        with pinned(self.bench.cores.rest):
            outcome = ask_closed(server.port, exchanges, connections=CHECKING_CONNECTIONS, seconds=CHECKING_SECONDS)
        self.findings.checked[contender.name].add(outcome)
        if outcome.errors or not outcome.checked:
            raise WrongAnswers(f"{contender.title} answers wrongly ({what}): {'; '.join(outcome.examples)}")
        _say(f"  {contender.title}: {outcome.checked:,} answers are the generator's ({what}).")

    # --- The lane alone -----------------------------------------------------------------------------------------------

    def _measure_extras(self, world: World, questions: Questions) -> None:
        extras, lane, checked = Extras(self.bench, world, questions), CONTENDERS[0], self.findings.checked["lane"]
        wanted = {
            "ed25519": extras.ed25519,
            "workers": extras.workers,
            "overload": extras.overload,
        }
        for name, measure in wanted.items():
            if name in self.options.parts:
                _say(f"The lane alone: {name} …")
                with ExitStack() as stack:
                    self.findings.extras[name] = measure(
                        self._start(stack, lane, has_cache=False, questions=questions), checked
                    )
        if "start" in self.options.parts:
            _say("The lane alone: start …")
            self.findings.extras["start"] = extras.start()


def _say(text: str) -> None:
    print(text, flush=True)
