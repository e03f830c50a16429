"""An RSGI application that answers 200 with nothing, at once."""

from typing import Any


async def application(scope: Any, transport: Any) -> None:
    """Answer."""
    transport.response_empty(200, [])
