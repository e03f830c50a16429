"""The lane's own server with nothing to do: `python -m benchmarks.peers.empty.lane PORT`."""

import asyncio
import socket
import sys

import uvloop

from serving.http import Request, Response
from serving.lane.http11 import Connection
from serving.lane.server import HttpServer

BACKLOG, MOST_CONNECTIONS = 4096, 65_536
_NOTHING = Response(200, "", b"")


def _answer(connection: Connection, _path: str, _request: Request) -> None:
    connection.send(_NOTHING)


async def _serve(port: int) -> None:
    server = HttpServer(_answer, lambda _: None, MOST_CONNECTIONS)
    await server.start(socket.create_server(("127.0.0.1", port)), None, BACKLOG)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
