"""Two doors, one engine: for every request the lane and the DRF endpoint give the same answer, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from django.conf import settings

from recsite.embedded import EmbeddedValkey
from serving.formats.keys import block_bits_for, block_name
from serving.formats.snapshot import revisions_name
from serving.http import BITS
from serving.redis.clients import connect
from tests.doors.corpus import MODELS, Case, corpus, get, post
from tests.doors.processes import Doors, start_doors
from tests.doors.raw_http import RawConnection, RawResponse, request
from tests.doors.scene import PLAYERS, Scene, player
from tests.lane_process import eventually
from tests.otlp_receiver import otlp_receiver
from tests.redis_parts import Guard, cluster_of_three, guarded_by_sentinel, guarded_cluster, tls_before, watched

# What a client acts on. The dashboard's process adds headers for browsers (a policy, sniffing); they say nothing here.
HEADERS_THAT_MATTER = (
    "content-type",
    "etag",
    "cache-control",
    "vary",
    "recommendation-source",
    "retry-after",
    "www-authenticate",
    "allow",
    "x-request-id",
)

# The rows of the serving contract's table: what an answer must look like for its row to count as seen.
ROWS: dict[str, Callable[[RawResponse], bool]] = {
    "found, as JSON": lambda r: (
        r.status == 200
        and r.header("content-type") == "application/json"
        and r.header("recommendation-source") is None
        and (r.header("cache-control") or "").startswith("private, max-age=")
        and r.header("etag") is not None
        and r.header("vary") == "Accept, Authorization"
    ),
    "found, as bits": lambda r: (
        r.status == 200 and r.header("content-type") == BITS and r.header("recommendation-source") is None
    ),
    "not modified": lambda r: r.status == 304 and r.header("etag") is not None and not r.body,
    "not in the table, a default": lambda r: (
        r.status == 200
        and r.header("recommendation-source") == "default"
        and (r.header("cache-control") or "").startswith("private")
    ),
    "not in the table, no default": lambda r: r.status == 204 and r.header("cache-control") == "no-store",
    "no token or a bad one": lambda r: r.status == 401 and r.header("www-authenticate") == "Bearer",
    "no such model": lambda r: r.status == 404 and b'"model_not_found"' in r.body,
    "bad key": lambda r: r.status == 400 and b'"bad_key"' in r.body,
    "bad parameters": lambda r: r.status == 400 and b'"unknown_parameter"' in r.body,
    "many keys": lambda r: r.status == 200 and b'"answers"' in r.body,
    "many keys as bits": lambda r: r.status == 406,
    "an error, with the request's id": lambda r: r.status >= 400 and r.header("x-request-id") == "A-1._z",
    "no error, and so without": lambda r: r.status == 200 and r.header("x-request-id") is None,
    "over the limit": lambda r: r.status == 429 and r.header("retry-after") is not None,
    "over capacity": lambda r: r.status == 503 and b'"over_capacity"' in r.body and r.header("retry-after") == "1",
}
FALLBACK: dict[str, Callable[[RawResponse], bool]] = {
    "the default as a fallback": lambda r: (
        r.status == 200 and r.header("recommendation-source") == "fallback" and r.header("cache-control") == "no-store"
    ),
    "no default to fall back to": lambda r: (
        r.status == 503 and b'"unavailable"' in r.body and r.header("retry-after") is not None
    ),
}


class Comparison:
    """Asks both doors the same and keeps what differed and which rows were seen."""

    def __init__(self, doors: Doors) -> None:
        self.doors = doors
        self.differences: list[str] = []
        self.seen: set[str] = set()
        self.asked = 0

    def ask(self, state: str, cases: list[Case], *, rows: dict[str, Callable[[RawResponse], bool]] = ROWS) -> None:
        """Ask every case at both doors, while the world is in a state that has a name."""
        with RawConnection(self.doors.lane_port) as lane, RawConnection(self.doors.drf_port) as drf:
            for case in cases:
                self.compare(state, case.name, lane.ask(case.raw), drf.ask(case.raw), rows)

    def compare(
        self,
        state: str,
        name: str,
        lane: RawResponse,
        drf: RawResponse,
        rows: dict[str, Callable[[RawResponse], bool]] = ROWS,
    ) -> None:
        """Compare two answers to one request."""
        self.asked += 1
        mine = (lane.status, [lane.header(h) for h in HEADERS_THAT_MATTER], lane.body)
        other = (drf.status, [drf.header(h) for h in HEADERS_THAT_MATTER], drf.body)
        if mine != other:
            self.differences.append(f"{state} · {name}\n    lane {lane}\n    DRF  {drf}")
        if lane.status >= 500 and lane.status != 503:
            self.differences.append(f"{state} · {name}: a {lane.status}")
        self.seen |= {row for row, shows in rows.items() if shows(lane)}

    def expect(self, state: str, *rows: str) -> None:
        """Demand that these rows were seen by now, in this state."""
        missing = set(rows) - self.seen
        assert not missing, f"{state}: these rows of the contract were never produced: {sorted(missing)}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(tmp_path / "valkey", options=("--save", "", "--appendonly", "no")).start()
    yield valkey
    valkey.stop()


@pytest.fixture
def scene(server: EmbeddedValkey) -> Iterator[Scene]:
    client = redis.Redis.from_url(server.url)
    scene = Scene(client)
    scene.write_all()
    yield scene
    client.close()


@pytest.fixture
def doors(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> Iterator[Doors]:
    with start_doors(server.url, tmp_path) as both:
        yield both


def fault_cases(scene: Scene) -> list[Case]:
    server, sub = scene.token(), scene.token(sub=player(3), models=["offers"])
    cases = [
        get("bad token", "", "nonsense"),
        get("bad key", "model=offers&player_id=", server),
        get("no such model", "model=nothing", server),
        get("player", "", sub),
        get("player, bits", "", sub, ("Accept", BITS)),
        get("If-None-Match *", "", sub, ("If-None-Match", "*")),
        post("batch", {"model": "offers", "keys": [{"player_id": player(n)} for n in range(30)]}, server),
        post("batch without a default", {"model": "bare", "keys": [{"player_id": player(1)}, {}]}, server),
    ]
    for model in MODELS:
        cases.append(get(model, f"model={model}&player_id={player(8)}", server))
        cases.append(get(f"{model}, bits", f"model={model}&player_id={player(8)}", server, ("Accept", BITS)))
    return cases


def test_doors__any_request_in_any_state__same_status_headers_and_body(
    doors: Doors, scene: Scene, server: EmbeddedValkey
) -> None:
    comparison = Comparison(doors)
    cases = corpus(scene)
    comparison.ask("healthy", cases)
    comparison.ask("healthy", conditional(doors, cases))
    comparison.ask("over the limit", [get("slow", f"model=offers&player_id={player(1)}", scene.token("cr_slow"))] * 6)
    comparison.ask("over the tenant's", [get("crowded", f"player_id={player(1)}", scene.token("cr_crowded"))] * 6)
    comparison.expect("healthy", *(row for row in ROWS if row != "over capacity"))
    assert comparison.differences == []

    faults = fault_cases(scene)
    for state, break_it, mend_it in (
        ("hangs", server.pause, server.resume),
        ("answers late", lambda: late(server), lambda: time.sleep(0.1)),
        ("is down", server.stop, server.start),
        ("came back empty", lambda: None, scene.write_all),
        ("is loading", lambda: loading(server, scene), lambda: mended(server, scene)),
    ):
        break_it()
        time.sleep(0.7 if state in ("came back empty", "is loading") else 0)
        comparison.seen -= FALLBACK.keys()
        for _ in range(2):
            comparison.ask(f"Redis {state}", faults, rows=FALLBACK)
        comparison.expect(f"Redis {state}", *FALLBACK)
        mend_it()
        wait_until_found(doors, scene, healthy=state != "is down")
    assert comparison.differences == []

    lose_active_tables(scene)
    comparison.ask("the active table is lost", [case for case in cases if "restored" in case.name])
    assert comparison.differences == []
    assert comparison.asked > 500


def test_doors__more_requests_than_capacity__the_rest_are_told_at_once(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_doors(server.url, tmp_path, capacity=2, deadline_ms=200) as doors:
        comparison = Comparison(doors)
        wait_until_found(doors, scene)
        raw = get("any", f"model=offers&player_id={player(1)}", scene.token()).raw
        server.pause()
        lane, drf = (crowd(port, raw) for port in (doors.lane_port, doors.drf_port))
        server.resume()
        assert len(lane) > 0
        assert len(drf) > 0
        comparison.compare("over capacity", "a crowd", lane[0], drf[0])
        comparison.expect("over capacity", "over capacity")
        assert comparison.differences == []


def test_doors__snapshot_that_the_map_promises_is_gone__503_alike_to_its_callers_alone(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    scene.publish()
    scene.client.hset(revisions_name(settings.REDIS_PREFIX), "t-nowhere", "1")
    with start_doors(server.url, tmp_path, wait_ready=False) as doors:
        comparison = Comparison(doors)
        asked = f"model=offers&player_id={player(1)}"
        comparison.ask(
            "missing", [get("known", asked, scene.token()), get("unknown", asked, scene.token("cr_nowhere"))]
        )
        assert comparison.differences == []
        for port in (doors.lane_port, doors.drf_port):
            with RawConnection(port) as door:
                assert door.ask(request("GET", "/readyz")).status == 503
                assert door.ask(get("any", asked, scene.token()).raw).status == 200
                refused = door.ask(get("any", asked, scene.token("cr_nowhere")).raw)
            assert (refused.status, b'"not_ready"' in refused.body) == (503, True)


def test_doors__snapshot_older_than_the_maximum__closed_alike(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    scene.publish(issued_at=scene.now - 73 * 3600)
    with start_doors(server.url, tmp_path, wait_ready=False) as doors:
        comparison = Comparison(doors)
        time.sleep(1.5)
        comparison.ask("stale", [get("any", f"model=offers&player_id={player(1)}", scene.token())])
        with RawConnection(doors.lane_port) as lane:
            answer = lane.ask(get("any", f"model=offers&player_id={player(1)}", scene.token()).raw)
        assert (answer.status, b'"not_ready"' in answer.body) == (503, True)
        assert comparison.differences == []


def test_doors__what_they_were_asked__is_counted_alike(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    variables = {"RECSITE_METRICS_TOKEN": "what Prometheus sends"}
    with (
        otlp_receiver() as receiver,
        start_doors(server.url, tmp_path, variables=variables | {"RECSITE_OTLP_ENDPOINT": receiver.url}) as doors,
    ):
        comparison = Comparison(doors)
        # They answer alike while they are traced; of the lane's requests the first is, and of these that is all.
        trace, caller = "a" * 32, "b" * 16
        parent = ("Traceparent", f"00-{trace}-{caller}-01")
        query, token = f"model=offers&player_id={player(1)}", scene.token()
        comparison.ask("healthy", [get("traced", query, token, parent), *corpus(scene)])
        assert comparison.differences == []
        eventually(lambda: {span.service for span in receiver.spans} == {"recsite-lane", "recsite-dashboard"})
        (of_lane,) = [span for span in receiver.spans if span.service == "recsite-lane"]
        assert (of_lane.trace_id, of_lane.parent_id, of_lane.name) == (trace, caller, "GET")
        assert of_lane.attributes == {
            "recsite.one_of": 1000,
            "http.response.status_code": 200,
            "recsite.tenant": "aurora",
            "recsite.model": "offers",
            "recsite.source": "table",
        }
        (of_drf,) = [span for span in receiver.spans if span.service != of_lane.service and span.parent_id == caller]
        assert of_drf.name == "GET /v1/recommendations"
        assert [each for each in (player(1), token, token.split(".")[2], "nobody") if each in receiver.text] == []
        time.sleep(1.5)  # the lane's workers write their numbers once a second
        lane, drf = (counted(port) for port in (doors.lane_metrics_port, doors.drf_port))
        assert lane == drf
        # How many of these are too many depends on when they come, and on what each door is given of the limit.
        comparison.ask(
            "over the limit", [get("slow", f"model=offers&player_id={player(1)}", scene.token("cr_slow"))] * 6
        )
        time.sleep(1.5)
        lane, drf = (counted(port) for port in (doors.lane_metrics_port, doors.drf_port))
    assert lane.keys() == drf.keys()
    for label in (
        '"ok"',
        '"default"',
        '"none"',
        '"4xx"',
        '"429"',
        '"credential"',
        '"signature"',
        '"missing"',
        '"expired"',
    ):
        assert any(label in series and count for series, count in lane.items()), label


def counted(port: int) -> dict[str, float]:
    """Return what a door counted of requests that named a tenant, and of tokens that it refused."""
    with RawConnection(port) as connection:
        bearer = ("Authorization", "Bearer what Prometheus sends")
        text = connection.ask(request("GET", "/metrics", [bearer, ("Connection", "close")])).body.decode()
    names = ("recsite_tenant_requests_total", "recsite_rate_limited_total", "recsite_token_refusals_total")
    lines = [line for line in text.splitlines() if line.startswith(names) and 'tenant=""' not in line]
    return {series: float(count) for series, _, count in (line.rpartition(" ") for line in lines)}


@pytest.fixture(params=["socket", "TLS", "cluster", "sentinel", "cluster, guarded", "sentinel, guarded"])
def redis_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield an address of another kind than one server at a port; a guarded one has TLS and passwords."""
    folder = tmp_path / "redis"
    with ExitStack() as stack:
        match request.param:
            case "socket" | "TLS":
                options = ("--save", "", "--appendonly", "no", "--unixsocket", str(folder / "socket"))
                valkey = EmbeddedValkey(folder, options=options)
                stack.callback(valkey.stop)
                valkey.start()
                if request.param == "socket":
                    yield f"unix://{folder / 'socket'}?db=3"
                    return
                guard = Guard.make(tmp_path)
                port = stack.enter_context(tls_before(valkey.port, guard.certificate, guard.key))
                yield f"rediss://localhost:{port}/3?ssl_ca_certs={guard.certificate}"
            case "cluster":
                yield stack.enter_context(cluster_of_three(folder)).url
            case "sentinel":
                yield stack.enter_context(watched(folder)).url
            case "cluster, guarded":
                yield stack.enter_context(guarded_cluster(folder, Guard.make(folder)))
            case _:
                yield stack.enter_context(guarded_by_sentinel(folder, Guard.make(folder)))


def test_doors__every_kind_of_address__same_status_headers_and_body(redis_url: str, tmp_path: Path) -> None:
    client = connect(redis_url, timeout_seconds=5, connect_timeout_seconds=2)
    scene = Scene(client)
    scene.write_all()
    elsewhere = {f"RECSITE_{part}_URL": "redis://127.0.0.1:1/0" for part in ("BROKER", "CACHE")}
    # Relays in Python stand before the guarded ones.
    with start_doors(redis_url, tmp_path, deadline_ms=200, variables=elsewhere) as doors:
        wait_until_found(doors, scene)
        comparison = Comparison(doors)
        cases = corpus(scene)
        comparison.ask("healthy", cases)
        # What is published from now on arrives as well, announced or looked for.
        scene.publish()
        comparison.ask("published anew", cases)
        comparison.expect("healthy", "found, as JSON", "found, as bits", "many keys", "not in the table, a default")
        assert comparison.differences == []
    client.close()


def conditional(doors: Doors, cases: list[Case]) -> list[Case]:
    """Return the cases that had an ETag again, now with it: alone, weak, and among others."""
    again: list[Case] = []
    with RawConnection(doors.lane_port) as lane:
        for case in cases:
            tag = lane.ask(case.raw).header("etag")
            if tag is None:
                continue
            for given in (tag, f"W/{tag}", f'"x", {tag}', tag.strip('"')):
                head, _, body = case.raw.partition(b"\r\n\r\n")
                again.append(
                    Case(
                        f"{case.name}, If-None-Match {given}",
                        head + f"\r\nIf-None-Match: {given}\r\n\r\n".encode() + body,
                    )
                )
    return again


def crowd(port: int, raw: bytes) -> list[RawResponse]:
    """Return the answers over capacity among twelve asked at once."""

    def one(_: int) -> RawResponse:
        with RawConnection(port) as connection:
            return connection.ask(raw)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(12)))
    assert {a.status for a in answers} <= {200, 503}
    return [a for a in answers if a.status == 503]


def late(server: EmbeddedValkey) -> None:
    client = redis.Redis.from_url(server.url)
    client.client_pause(4000, all=True)
    client.close()


def loading(server: EmbeddedValkey, scene: Scene) -> None:
    """Restart it with its data on disk, so slow to read that it answers LOADING meanwhile."""
    scene.client.save()
    server.stop()
    server.options = ("--key-load-delay", "400000", "--loading-process-events-interval-bytes", "1024")
    server.start(awaited=b"-LOADING")


def mended(server: EmbeddedValkey, scene: Scene) -> None:
    server.stop()
    server.options = ("--save", "", "--appendonly", "no")
    server.start()
    scene.client.flushall()
    scene.write_all()


def lose_active_tables(scene: Scene) -> None:
    for block in range(1 << block_bits_for(PLAYERS)):
        scene.client.delete(block_name("recsite", "tab-a", block))


def wait_until_found(doors: Doors, scene: Scene, *, healthy: bool = True) -> None:
    """Wait until both doors read tables again (they come back by themselves)."""
    raw = get("probe", f"model=offers&player_id={player(1)}", scene.token()).raw
    deadline = time.monotonic() + 15
    for port in (doors.lane_port, doors.drf_port):
        while healthy:
            with RawConnection(port) as connection:
                answer = connection.ask(raw)
            if answer.status == 200 and answer.header("recommendation-source") is None:
                break
            assert time.monotonic() < deadline, f"still {answer}"
            time.sleep(0.1)
