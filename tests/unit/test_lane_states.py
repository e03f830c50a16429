"""A connection changes its states as the tables in `serving.lane.states` say: all that they say, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http import PATH, Request, Response
from serving.lane.http11 import KEEP_ALIVE_SECONDS, Connection
from serving.lane.server import HttpServer
from serving.lane.states import ANSWERING, ASKING, Answering, Asking

Move = tuple[Asking, Asking] | tuple[Answering, Answering]
ANSWER = Response(200, "", b"answer")
LINES = b"Host: x\r\n"
GET = b"GET " + PATH.encode() + b" HTTP/1.1\r\n" + LINES
WHOLE = GET + b"\r\n"
LAST = GET + b"Connection: close\r\n\r\n"
UPGRADE = GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
POST = b"POST / HTTP/1.1\r\n" + LINES + b"Content-Length: 5\r\n\r\n"
POST_UPGRADE = POST.replace(LINES, LINES + b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
EXPECT = POST.replace(LINES, LINES + b"Expect: 100-continue\r\n")
TOO_LARGE = POST.replace(b": 5", b": 9999999")
CHUNKED = b"POST / HTTP/1.1\r\n" + LINES + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nExpect: x\r\n\r\n"
CONNECT = b"CONNECT x:1 HTTP/1.1\r\n" + LINES + b"\r\n"
OLD = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
NONSENSE = b"GET\r\n\r\n"


class Transport(asyncio.Transport):
    """One that is not connected to anything."""

    def __init__(self, *, can_end: bool) -> None:
        super().__init__()
        self.can_end = can_end
        self.is_closed = False
        self.connection: Connection | None = None

    def write(self, data: object) -> None:
        assert not self.is_closed

    def can_write_eof(self) -> bool:
        return self.can_end

    def write_eof(self) -> None:
        assert not self.is_closed

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        assert not self.is_closed

    resume_reading = pause_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Watched(Connection):
    """A connection that notes how its states change."""

    def __init__(self, server: HttpServer) -> None:
        self.moves: list[Move] = []
        super().__init__(server)

    @property
    def _asking(self) -> Asking:
        state: Asking = self.__dict__["asking"]
        return state

    @_asking.setter
    def _asking(self, state: Asking) -> None:
        before = self.__dict__.get("asking", state)
        self.__dict__["asking"] = state
        if before is not state:
            self.moves.append((before, state))

    @property
    def _answering(self) -> Answering:
        state: Answering = self.__dict__["answering"]
        return state

    @_answering.setter
    def _answering(self, state: Answering) -> None:
        before = self.__dict__.get("answering", state)
        self.__dict__["answering"] = state
        if before is not state:
            self.moves.append((before, state))


class Scene:
    """A connection, what its client and its server do, and whether all of that is as the tables say."""

    def __init__(self, *, most_connections: int = 1, can_end: bool = True, answers_at_once: bool = False) -> None:
        self.answers_at_once = answers_at_once
        self.open = 0
        self.server = HttpServer(self._handle, lambda _: None, most_connections)
        self.transport = Transport(can_end=can_end)
        self.connection = Watched(self.server)
        self.connection.connection_made(self.transport)
        self.is_lost = False
        self.check()

    def _handle(self, connection: Connection, _path: str, _request: Request) -> None:
        assert not self.open, "one is answered after the other"
        assert self.connection._answering is Answering.BUSY
        self.open += 1
        if self.answers_at_once:
            self.answer()

    def answer(self) -> None:
        if self.open:
            self.open -= 1
            self.connection.send(ANSWER)

    async def turn(self) -> None:
        await asyncio.sleep(0)

    def get(self, data: bytes) -> None:
        if not self.transport.is_closed:
            self.connection.data_received(data)

    def end(self) -> None:
        if not self.transport.is_closed:
            self.connection.eof_received()

    def lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.transport.close()
            self.connection.connection_lost(None)

    def be_late(self) -> None:
        if self.connection._late is not None:
            self.connection._late.cancel()
            self.connection._too_late()

    def be_idle(self) -> None:
        if not self.is_lost:
            self.connection.asked_at -= KEEP_ALIVE_SECONDS
            self.connection._check_idle()

    def end_server(self) -> None:
        self.server.is_ending = True

    def close_if_idle(self) -> None:
        self.connection.close_if_idle()

    def leave_unread(self) -> None:
        if not self.is_lost:
            self.connection.pause_writing()

    def read_on(self) -> None:
        if not self.is_lost:
            self.connection.resume_writing()

    def close_again(self) -> None:
        """What comes some time after a refusal."""
        if self.connection._answering is Answering.CLOSED:
            self.connection.close()

    def check(self) -> None:
        """Hold what happened, and where it has led, against the tables and their rules."""
        asking, answering = self.connection._asking, self.connection._answering
        for move in self.connection.moves:
            assert move in MOVES
        assert asking is not Asking.SKIPPED
        if answering in (Answering.REFUSED, Answering.CLOSED):
            assert asking is Asking.ENDED
        if answering is Answering.FREE:
            assert asking is not Asking.ENDED
            assert not self.open
        if self.connection._following:
            assert answering in (Answering.BUSY, Answering.CLOSED)
        is_late_possible = asking in (Asking.HEAD, Asking.BODY)
        assert is_late_possible or self.connection._late is None
        assert asking is Asking.BODY or not self.connection._body
        assert self.server.bodies_bytes == len(self.connection._body)


MOVES: set[Move] = {(state, to) for state, follow in ASKING.items() for to in follow}
MOVES |= {(state, to) for state, follow in ANSWERING.items() for to in follow}
Act = Callable[[Scene], object]


def gets(*pieces: bytes) -> list[Act]:
    return [lambda scene, piece=piece: scene.get(piece) for piece in pieces]  # type: ignore[misc]  # mypy loses the default


ACTS: list[Act] = [
    Scene.answer,
    Scene.turn,
    Scene.end,
    Scene.lose,
    Scene.be_late,
    Scene.be_idle,
    Scene.end_server,
    Scene.close_if_idle,
    Scene.leave_unread,
    Scene.read_on,
    Scene.close_again,
]
BYTES = [
    WHOLE,
    LAST,
    UPGRADE,
    POST,
    POST_UPGRADE,
    EXPECT,
    TOO_LARGE,
    CHUNKED,
    CONNECT,
    OLD,
    NONSENSE,
    b"abcde",
    b"\r\n",
]


def play(acts: list[Act], scene: Callable[[], Scene] = Scene) -> Scene:
    async def played() -> Scene:
        playing = scene()
        for act in acts:
            done = act(playing)
            if isinstance(done, Awaitable):
                await done
            playing.check()
        await asyncio.sleep(0)
        playing.check()
        moves = [*playing.connection.moves]
        playing.lose()
        playing.check()
        playing.connection.moves[:] = moves
        return playing

    return asyncio.run(played())


STORIES: list[tuple[list[Act], list[Move]]] = [
    (gets(GET), [(Asking.IDLE, Asking.HEAD)]),
    (gets(GET, b"\r\n"), [(Asking.HEAD, Asking.BODY), (Asking.BODY, Asking.IDLE), (Answering.FREE, Answering.BUSY)]),
    ([*gets(WHOLE), Scene.answer], [(Answering.BUSY, Answering.FREE)]),
    (gets(UPGRADE), [(Asking.BODY, Asking.SKIPPED), (Asking.SKIPPED, Asking.HEAD), (Asking.HEAD, Asking.BODY)]),
    ([*gets(LAST), Scene.answer], [(Asking.IDLE, Asking.ENDED), (Answering.BUSY, Answering.CLOSED)]),
    ([*gets(OLD + WHOLE + POST), Scene.answer], [(Asking.IDLE, Asking.ENDED), (Answering.BUSY, Answering.CLOSED)]),
    ([Scene.end], [(Asking.IDLE, Asking.ENDED), (Answering.FREE, Answering.CLOSED)]),
    ([*gets(GET), Scene.end], [(Asking.HEAD, Asking.ENDED), (Answering.FREE, Answering.CLOSED)]),
    ([*gets(POST), Scene.end], [(Asking.BODY, Asking.ENDED), (Answering.FREE, Answering.REFUSED)]),
    (
        [*gets(NONSENSE), Scene.turn, Scene.turn],
        [(Answering.FREE, Answering.REFUSED), (Answering.REFUSED, Answering.CLOSED)],
    ),
    ([*gets(WHOLE), Scene.end_server, Scene.answer], [(Asking.IDLE, Asking.ENDED), (Answering.BUSY, Answering.CLOSED)]),
    ([Scene.be_idle, Scene.turn, Scene.turn], [(Asking.IDLE, Asking.ENDED), (Answering.FREE, Answering.CLOSED)]),
]


def test_tables__name_every_state_and_an_end() -> None:
    assert set(ASKING) == set(Asking)
    assert set(ANSWERING) == set(Answering)
    assert [state for state, follow in ASKING.items() if not follow] == [Asking.ENDED]
    assert [state for state, follow in ANSWERING.items() if not follow] == [Answering.CLOSED]


@pytest.mark.parametrize(("acts", "moves"), STORIES)
def test_story__brings_about_the_changes_it_is_told_for(acts: list[Act], moves: list[Move]) -> None:
    happened = play(acts).connection.moves
    assert [move for move in moves if move not in happened] == []


def test_stories__bring_about_every_change_of_the_tables() -> None:
    assert {move for acts, _ in STORIES for move in play(acts).connection.moves} == MOVES


def test_connection__one_too_many__answered_and_closed() -> None:
    scene = play([Scene.turn, Scene.turn], lambda: Scene(most_connections=0))
    assert scene.connection.moves == [
        (Asking.IDLE, Asking.ENDED),
        (Answering.FREE, Answering.BUSY),
        (Answering.BUSY, Answering.CLOSED),
    ]
    assert scene.transport.is_closed


def test_close__a_request_comes_in_the_turn_of_the_last_look__answered_before() -> None:
    scene = play([Scene.close_if_idle, *gets(WHOLE), Scene.turn, Scene.turn])
    assert not scene.connection._transport
    assert scene.open == 1
    scene = play([Scene.close_if_idle, *gets(WHOLE), Scene.turn, Scene.turn, Scene.answer, Scene.turn, Scene.turn])
    assert (Answering.BUSY, Answering.CLOSED) in scene.connection.moves
    assert scene.open == 0


WHOLE_AND_PARTS = st.sampled_from(BYTES) | st.builds(
    lambda data, length: data[:length], st.sampled_from(BYTES), st.integers(1, 100)
)


@given(
    acts=st.lists(
        st.sampled_from(ACTS)
        | st.lists(WHOLE_AND_PARTS, min_size=1, max_size=4).map(lambda parts: gets(b"".join(parts))[0]),
        max_size=25,
    ),
    can_end=st.booleans(),
    answers_at_once=st.booleans(),
)
def test_connection__whatever_happens__changes_as_the_tables_say(
    acts: list[Act], can_end: bool, answers_at_once: bool
) -> None:
    play(acts, lambda: Scene(can_end=can_end, answers_at_once=answers_at_once))
