"""The same answer, given as the lane gives its own: in the thread in which granian hands a request over."""

from __future__ import annotations

import asyncio

from serving.lane import Asked, let_threads_finish
from serving.lane_server import answer_in_place


class InPlace:
    """Answers 200 with nothing."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have requests handed over."""
        let_threads_finish()
        answer_in_place(_answer)


def _answer(asked: Asked) -> None:
    asked.proto.response_empty(200, [])


application = InPlace()
