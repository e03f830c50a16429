"""What else is measured of the lane: Ed25519 tokens, a second worker, overload, start and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from statistics import median

import jwt
import msgspec
import redis
from django.conf import settings

from benchmarks.load import HEAD_END, Exchange, ask_open
from benchmarks.machine import Usage, memory_bytes, pin, pinned
from benchmarks.measuring import CONNECTIONS, Bench, Checked, Measurement, medians
from benchmarks.questions import Questions, Tokens
from benchmarks.servers import Server, running_lane
from benchmarks.world import STUDIO, STUDIO_ISSUER, World
from models_registry.publishing import build_tenant
from serving.formats import snapshot
from serving.formats.encoding import base64url_decode
from tenants.models import Tenant

ROUNDS = 3
OVERLOAD = 3
# Ten times as many phones as the lane answers in ten milliseconds.
OVERLOAD_CONNECTIONS = 4_000
# An answer that comes later than this is of no use to a player.
USEFUL_SECONDS = 1.0
SECOND_WORKER_SECONDS = 3.0
STUDIOS, MODELS_EACH = 100, 10
STARTS = 3
USES_OF_A_TOKEN = 10
VERIFYING_SECONDS = 1.0
READY = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1" + HEAD_END


@dataclass(frozen=True)
class Extras:
    """Measures the lane, one thing after the other.

    Args:
        bench: where and how long.
        world: what is loaded.
        questions: what to ask.
    """

    bench: Bench
    world: World
    questions: Questions

    def ed25519(self, server: Server, checked: Checked) -> dict[str, float]:
        """Ask with tokens that the studio signed: each used once, then others each used ten times."""
        verified_alone, signature_alone = self._verification_rates()
        # Enough for twice that rate and more; where they run out, the run ends early.
        count = min(len(self.world.players) // 2, int(verified_alone * 3 * (self.bench.seconds + 1)))
        once = self.questions.signed_by_studio(range(count))
        outcome, first = self.bench.peak(server, iter(once))
        checked.add(outcome)
        often = self.questions.signed_by_studio(range(count, count + count // 4))
        outcome, several = self.bench.peak(server, _several_times(often))
        checked.add(outcome)
        return {
            "rate": first.rate,
            "rate_used_ten_times": several.rate,
            "pyjwt_rate": verified_alone,
            "signature_rate": signature_alone,
            "ratio": first.rate / verified_alone,
            "ratio_used_ten_times": several.rate / verified_alone,
        }

    def workers(self, server: Server, checked: Checked) -> dict[str, float]:
        """Ask one worker on one core and two on two, in turns; Valkey and the generator have the same cores as they.

        So what those take of the cores, and of what is in their caches, is in both figures alike.
        """
        one_core, two_cores = (self.bench.cores.server,), self.bench.cores.all[:2]
        ratios, ones, twos = [], [], []
        try:
            with running_lane(self.bench.site, two_cores, self.questions.one(), workers=2) as both:
                # The first one answers as soon as it is there.
                time.sleep(SECOND_WORKER_SECONDS)
                # The newest processes: those above are the command's own.
                for worker, core in zip(both.processes[-2:], two_cores, strict=True):
                    pin(worker, (core,))
                for _ in range(ROUNDS):
                    ones.append(self._beside_all_else(server, one_core, checked))
                    twos.append(self._beside_all_else(both, two_cores, checked))
                    ratios.append(twos[-1].rate / ones[-1].rate)
        finally:
            self._move_valkey(self.bench.cores.rest)
        one, two = medians(ones), medians(twos)
        return {
            "rate_one": one.rate,
            "rate_two": two.rate,
            "cpu_us_one": one.cpu_us,
            "cpu_us_two": two.cpu_us,
            "lane_cores_one": one.server_share,
            "lane_cores_two": two.server_share,
            "ratio": median(ratios),
        }

    def _beside_all_else(self, server: Server, cores: tuple[int, ...], checked: Checked) -> Measurement:
        """Find the peak of a lane that shares its cores with Valkey and the generator."""
        self._move_valkey(cores)
        outcome, found = self.bench.peak(
            server,
            self.questions.exchanges(server.port, Tokens.SHARED),
            connections=CONNECTIONS * len(cores),
            asking_from=cores,
        )
        checked.add(outcome)
        return found

    def _move_valkey(self, cores: tuple[int, ...]) -> None:
        for process in self.bench.site.valkey_processes:
            pin(process, cores)

    def overload(self, server: Server, checked: Checked) -> dict[str, float]:
        """Find the peak, then ask three times as much, three times over; give the time between best and worst."""
        rounds = [self._overload(server, checked) for _ in range(ROUNDS)]
        return sorted(rounds, key=lambda found: found["ratio"])[ROUNDS // 2]

    def _overload(self, server: Server, checked: Checked) -> dict[str, float]:
        """Find the peak on many connections, then ask three times as much on as many, not waiting for slow answers."""
        few, peak = (self._peak(server, checked, connections) for connections in (CONNECTIONS, OVERLOAD_CONNECTIONS))
        offered = OVERLOAD * peak.rate
        processes, valkey = server.processes, self.bench.site.valkey_processes
        before = Usage.now(processes, valkey)
        with pinned(self.bench.cores.rest):
            outcome = ask_open(
                server.port,
                self.questions.exchanges(server.port, Tokens.SHARED),
                rate=offered,
                connections=OVERLOAD_CONNECTIONS,
                seconds=self.bench.seconds,
                may_wait=False,
            )
        used = Usage.now(processes, valkey).since(before)
        useful = sum(1 for latency in outcome.latencies_ns if latency <= USEFUL_SECONDS * 1e9)
        refused = sum(outcome.statuses.values())
        # That some are refused is what this is about; that none is wrong or lost is counted.
        outcome.statuses.clear()
        outcome.examples = [example for example in outcome.examples if example.startswith("200 ")]
        checked.add(outcome)
        return {
            "peak": peak.rate,
            "peak_of_few": few.rate,
            "few": CONNECTIONS,
            "offered": offered,
            "connections": OVERLOAD_CONNECTIONS,
            "goodput": useful / outcome.seconds,
            "refused": refused / outcome.seconds,
            "unsent": outcome.unsent / outcome.seconds,
            "p99_ms": outcome.percentile_ms(0.99) or 0.0,
            "lane_share": used.server / used.at,
            "other_share": (used.asking + used.valkey) / used.at,
            "ratio": useful / outcome.seconds / peak.rate,
        }

    def _peak(self, server: Server, checked: Checked, connections: int) -> Measurement:
        exchanges = self.questions.exchanges(server.port, Tokens.SHARED)
        outcome, found = self.bench.peak(server, exchanges, connections=connections)
        checked.add(outcome)
        return found

    def start(self) -> dict[str, float]:
        """Start a lane that knows a hundred studios with ten models each; look at its memory once it is ready."""
        url = self.bench.site.valkey.url.removesuffix("/0") + "/1"
        _publish_many(url)
        seconds, memory = [], []
        for _ in range(STARTS):
            with running_lane(self.bench.site, (self.bench.cores.server,), READY, url=url) as server:
                seconds.append(server.seconds_to_ready)
                memory.append(memory_bytes(server.processes) / 1e6)
        return {"seconds": median(seconds), "memory_mb": median(memory), "studios": STUDIOS, "models": MODELS_EACH}

    def _verification_rates(self) -> tuple[float, float]:
        """Return how many Ed25519 tokens a second one core verifies: PyJWT with the claims; the bare signature."""
        signing = self.world.studio_signing
        public_key = signing.private_key.public_key()
        tokens = [signing.token(player) for player in self.world.players[:1000]]
        parts = [token.rpartition(b".") for token in tokens]
        signed = [(base64url_decode(signature), text) for text, _, signature in parts]

        def with_pyjwt(number: int) -> None:
            jwt.decode(
                tokens[number],
                public_key,
                algorithms=["EdDSA"],
                audience=settings.TOKEN_AUDIENCE,
                issuer=STUDIO_ISSUER,
            )

        with pinned((self.bench.cores.server,)):
            return _rate(with_pyjwt, len(tokens)), _rate(lambda number: public_key.verify(*signed[number]), len(tokens))


def _rate(verify: Callable[[int], None], count: int) -> float:
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < VERIFYING_SECONDS:
        verify(done % count)
        done += 1
    return done / (time.perf_counter() - began)


def _several_times(exchanges: list[Exchange]) -> Iterator[Exchange]:
    """Yield groups of a thousand requests, each group ten times over."""
    groups = (exchanges[first : first + 1000] for first in range(0, len(exchanges), 1000))
    return chain.from_iterable(chain.from_iterable(repeat(group, USES_OF_A_TOKEN)) for group in groups)


def _publish_many(url: str) -> None:
    """Publish studios made after the one there is, straight to Redis: how a lane takes them in is what is measured."""
    like = build_tenant(Tenant.objects.get(slug=STUDIO))
    key_id, private_key = snapshot.parse_private_key(settings.SNAPSHOT_PRIVATE_KEY or "")
    now = int(time.time())
    prefix = settings.REDIS_PREFIX
    with redis.Redis.from_url(url) as client:
        for number in range(STUDIOS):
            models = tuple(
                msgspec.structs.replace(like.models[index % len(like.models)], slug=f"model-{index}")
                for index in range(MODELS_EACH)
            )
            credentials = tuple(
                msgspec.structs.replace(credential, id=f"{credential.id}{number}", models=None)
                for credential in like.credentials
            )
            tenant = msgspec.structs.replace(
                like, id=f"studio{number}", slug=f"studio-{number}", models=models, credentials=credentials
            )
            document = snapshot.Snapshot(snapshot.FORMAT, now * 1000, now, tenant)
            client.set(snapshot.snapshot_name(prefix, tenant.id), snapshot.sign_snapshot(document, key_id, private_key))
            client.hset(snapshot.revisions_name(prefix), tenant.id, str(document.revision))
