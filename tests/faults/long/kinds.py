"""The faults: each is done when its block is entered, and made good when it is left."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

import redis

from examples.generate import EXAMPLES, keys_of
from models_registry.catalogue.access import NarrowedTo
from models_registry.loading.requests import load_request
from models_registry.models import BASIS_POINTS, RUNNING_STATES, Load, LoadState, RecommendationModel, Version
from models_registry.rollouts.services import rollout_reweight
from tenants.callers import mint_token
from tenants.credentials import credential_issue, credential_revoke
from tests.doors.raw_http import RawConnection
from tests.faults.long.clients import ask
from tests.faults.long.installation import ASKED_OF_A_DOOR, PLAYERS, Installation
from tests.faults.long.judge import Expected, Judgement, Question, Verdict
from tests.lane_process import is_running

Done = Callable[[Installation, random.Random], AbstractContextManager[object]]
OFFERS = ("aurora", "offers")
UNITS = [unit for (unit,) in keys_of(EXAMPLES[0], PLAYERS)]


@dataclass(frozen=True)
class Kind:
    """A kind of fault, or of act.

    Attributes:
        name: what is done, in a few words.
        is_over: tells whether all is as before, besides that clients get right answers.
        is_over_later: the same, for what takes long and is not waited for before the next fault.
        most_seconds: how long it lasts at most before it is made good.
    """

    name: str
    done: Done
    is_over: Callable[[Installation], bool] = Installation.is_ready
    is_over_later: Callable[[Installation], bool] | None = None
    most_seconds: float = 3.0
    needs_postgres: bool = False


# --- The lane ---------------------------------------------------------------------------------------------------------


@contextmanager
def _lane_worker_killed(site: Installation, chance: random.Random) -> Iterator[None]:
    os.kill(chance.choice(site.lane_workers()), signal.SIGKILL)
    yield


@contextmanager
def _lane_worker_hangs(site: Installation, chance: random.Random) -> Iterator[None]:
    with _stopped(chance.choice(site.lane_workers())):
        yield


@contextmanager
def _lane_ended(site: Installation, how: signal.Signals) -> Iterator[None]:
    lane = site.part("lane").process
    assert lane is not None
    lane.send_signal(how)
    lane.wait(30)
    yield
    site.start_again("lane")


@contextmanager
def _lane_hung_up(site: Installation, _: random.Random) -> Iterator[None]:
    before, lane = set(site.lane_workers()), site.part("lane").process
    assert lane is not None
    lane.send_signal(signal.SIGHUP)
    yield
    site.wait(lambda: not before & set(site.lane_workers()), "the lane to replace its workers")


@contextmanager
def _disk_full(site: Installation, chance: random.Random) -> Iterator[None]:
    """Let the lane write to no file, as if its disk were full; a worker that is started meanwhile cannot either."""
    lane = site.part("lane").process
    assert lane is not None
    processes = [lane.pid, *site.lane_workers()]
    _, hard = resource.prlimit(lane.pid, resource.RLIMIT_FSIZE)
    for process_id in processes:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (0, hard))
    os.kill(chance.choice(processes[1:]), signal.SIGKILL)
    yield
    for process_id in {lane.pid, *site.lane_workers()}:
        with suppress(ProcessLookupError):
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, (hard, hard))


# --- Redis ------------------------------------------------------------------------------------------------------------


@contextmanager
def _redis_killed(site: Installation, _: random.Random) -> Iterator[None]:
    site.part("valkey").kill()
    yield
    site.start_again("valkey")


@contextmanager
def _redis_hangs(site: Installation, _: random.Random) -> Iterator[None]:
    valkey = site.part("valkey").process
    assert valkey is not None
    with _stopped(valkey.pid):
        yield


@contextmanager
def _redis_emptied(site: Installation, _: random.Random) -> Iterator[None]:
    with redis.Redis.from_url(site.site.redis_url) as client:
        client.flushall()
    yield


@contextmanager
def _redis_slow(site: Installation, chance: random.Random) -> Iterator[None]:
    site.valve.delay_seconds = chance.choice((0.02, 0.06, 0.3))
    yield
    site.valve.delay_seconds = 0.0


@contextmanager
def _redis_unreachable(site: Installation, _: random.Random) -> Iterator[None]:
    """Lose what is sent to Redis, without an end of any connection."""
    site.valve.close_after(0)
    yield
    site.valve.cut()


# --- The database -----------------------------------------------------------------------------------------------------


@contextmanager
def _database_hangs(site: Installation, _: random.Random) -> Iterator[None]:
    assert site.postgres is not None
    with site.postgres.hanging():
        yield


@contextmanager
def _database_killed(site: Installation, _: random.Random) -> Iterator[None]:
    assert site.postgres is not None
    site.postgres.kill()
    yield
    site.postgres.start_again()


# --- What works in the background, and the dashboard ------------------------------------------------------------------


@contextmanager
def _part_killed(site: Installation, name: str) -> Iterator[None]:
    site.part(name).kill()
    yield
    site.start_again(name)


@contextmanager
def _dashboard_worker_killed(site: Installation, chance: random.Random) -> Iterator[None]:
    os.kill(chance.choice(site.dashboard_workers()), signal.SIGKILL)
    yield


@contextmanager
def _killed_in_a_load(site: Installation, chance: random.Random) -> Iterator[None]:
    load = _load(site, rows_per_second_limit=PLAYERS // 4)
    site.wait(lambda: _state(load) not in (LoadState.QUEUED, LoadState.EXTRACTING), "a load to be under way")
    time.sleep(chance.uniform(0, 1))
    with _part_killed(site, "loader"):
        yield


@contextmanager
def _loaded(site: Installation, _: random.Random) -> Iterator[None]:
    load = _load(site)
    yield
    site.wait(lambda: _state(load) == LoadState.ACTIVE, "a load to be active")


def _load(site: Installation, rows_per_second_limit: int | None = None) -> Load:
    admin = site.admin()
    version = Version.objects.unscoped().get(model__tenant__slug="aurora", model__slug="offers", code=0)
    return load_request(version=version, actor=admin, rows_per_second_limit=rows_per_second_limit)


def _state(load: Load) -> str:
    load.refresh_from_db()
    return load.state


def _no_load_goes_on(site: Installation) -> bool:
    site.admin()  # by a connection that is looked at first
    return not Load.objects.unscoped().filter(state__in=RUNNING_STATES).exists()


# --- Acts -------------------------------------------------------------------------------------------------------------


@contextmanager
def _weights_changed(site: Installation, chance: random.Random) -> Iterator[None]:
    admin = site.admin()
    model = RecommendationModel.objects.unscoped().get(tenant__slug="aurora", slug="offers")
    begun_at, weight = time.monotonic(), chance.randrange(0, BASIS_POINTS + 1, 500)
    rollout_reweight(model=model, weights_bp={0: weight, 1: BASIS_POINTS - weight}, actor=admin, reason="by chance")
    site.note_weights(begun_at)
    yield


def _weights_arrived(site: Installation) -> bool:
    moved = site.weights.moved(UNITS)
    asked = moved[:: max(1, len(moved) // ASKED_OF_A_DOOR)]
    at = time.monotonic()
    for unit in asked:
        question = Question(*OFFERS, {"player_id": unit}, Expected.ROW)
        for judgement in _ask_doors(site, question, site.tokens[OFFERS]):
            if judgement.version != site.weights.newest(unit):
                return False
    site.weights.arrive(at)
    return True


@contextmanager
def _revoked(site: Installation, chance: random.Random) -> Iterator[None]:
    admin = site.admin()
    model = RecommendationModel.objects.unscoped().select_related("tenant").get(tenant__slug="aurora", slug="offers")
    issued = credential_issue(tenant=model.tenant, name="For a while", actor=admin, allowed_models=NarrowedTo([model]))
    token = mint_token(credential=issued.credential)[0]
    good = Question(*OFFERS, {"player_id": chance.choice(UNITS)}, Expected.ROW)
    bad = good._replace(expected=Expected.UNAUTHORIZED)

    def all_say(question: Question) -> bool:
        judged = [judgement for _ in range(ASKED_OF_A_DOOR) for judgement in _ask_doors(site, question, token)]
        return {judgement.verdict for judgement in judged} == {Verdict.RIGHT}

    site.wait(lambda: all_say(good), "a new credential to be known")
    credential_revoke(credential=issued.credential, actor=admin, reason="by chance")
    yield
    site.wait(lambda: all_say(bad), "a revocation to arrive")
    site.revoked.append(token)


def _ask_doors(site: Installation, question: Question, token: str) -> Iterator[Judgement]:
    for port in (site.site.lane_port, site.site.dashboard_port):
        with RawConnection(port) as connection:
            yield ask(connection, question, token)


@contextmanager
def _stopped(process_id: int) -> Iterator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        if is_running(process_id):
            os.kill(process_id, signal.SIGCONT)


def _both(first: Done, second: Done) -> Done:
    """Return two at once: the second is done and made good while the first lasts."""

    @contextmanager
    def done(site: Installation, chance: random.Random) -> Iterator[None]:
        with first(site, chance), second(site, chance):
            yield

    return done


def _lane_killed(site: Installation, _: random.Random) -> AbstractContextManager[None]:
    return _lane_ended(site, signal.SIGKILL)


def _is_ready_and_whole(site: Installation) -> bool:
    return site.is_ready() and site.is_whole()


KINDS = (
    Kind("lane: a worker is killed", _lane_worker_killed),
    Kind("lane: a worker hangs", _lane_worker_hangs, most_seconds=5),
    Kind("lane: killed, started again", _lane_killed, most_seconds=1),
    Kind("lane: SIGTERM, started again", lambda site, _: _lane_ended(site, signal.SIGTERM), most_seconds=1),
    Kind("lane: SIGHUP", _lane_hung_up),
    Kind("lane: disk full, a worker is killed", _disk_full, most_seconds=6),
    Kind("Redis: killed, started again", _redis_killed),
    Kind("Redis: hangs", _redis_hangs),
    Kind("Redis: emptied", _redis_emptied, _is_ready_and_whole),
    Kind("Redis: slow", _redis_slow),
    Kind("Redis: not to be reached", _redis_unreachable),
    Kind("database: hangs", _database_hangs, most_seconds=8, needs_postgres=True),
    Kind("database: killed, started again", _database_killed, needs_postgres=True),
    Kind("worker: killed, started again", lambda site, _: _part_killed(site, "worker")),
    Kind("beat: killed, started again", lambda site, _: _part_killed(site, "scheduler")),
    Kind("loader: killed in a load", _killed_in_a_load, is_over_later=_no_load_goes_on, most_seconds=1),
    Kind("dashboard: its worker is killed", _dashboard_worker_killed),
    Kind("a load", _loaded, most_seconds=1),
    Kind("weights are changed", _weights_changed, _weights_arrived, most_seconds=0),
    Kind("a credential is revoked", _revoked, most_seconds=0),
    Kind("Redis hangs, and a lane starts", _both(_redis_hangs, _lane_killed), most_seconds=1),
    Kind("Redis hangs, and weights are changed", _both(_redis_hangs, _weights_changed), _weights_arrived),
    Kind(
        "Redis is emptied, and a lane starts", _both(_redis_emptied, _lane_killed), _is_ready_and_whole, most_seconds=1
    ),
    Kind(
        "Redis is emptied, and the database hangs",
        _both(_database_hangs, _redis_emptied),
        _is_ready_and_whole,
        needs_postgres=True,
    ),
)
