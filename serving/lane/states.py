"""The states of a connection: what the client is at (`Asking`), and what this side is at (`Answering`).

Everything that decides what a connection does next is here or in the requests that wait for their turn; buffers,
timers and counters decide nothing. A connection changes from one state to another only as the tables say, and a test
walks through all of them.

Three rules hold the two together whenever the event loop is not inside the connection:

- A client that has ended is answered what it has asked, no more: `ENDED` and `BUSY` is the last of a connection, and
  the last answer takes it to `CLOSED`. `FREE` never goes with `ENDED`.
- `REFUSED` and `CLOSED` go with `ENDED` alone: nothing that arrives is looked at any more.
- `SKIPPED` lasts only until the parser has been told to read the request again.
"""

from __future__ import annotations

from enum import Enum


class Asking(Enum):
    """What the client is at.

    Attributes:
        IDLE: no part of a request is here.
        HEAD: the target of one is, or a part of it.
        BODY: its head is here as a whole; its end is not, or was not looked at yet.
        SKIPPED: it asks for another protocol as well, which the parser has turned to: it is read again without that.
        ENDED: it may say no more, or has said that it will not.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    SKIPPED = "skipped"
    ENDED = "ended"


class Answering(Enum):
    """What this side is at.

    Attributes:
        FREE: nothing is to be answered.
        BUSY: a request is being answered, or will be in the next turn of the loop.
        REFUSED: the client was told that it is refused; what it still sends is read for a while, and not looked at.
        CLOSED: the last answer is written; the connection is closed, or about to be.
    """

    FREE = "free"
    BUSY = "busy"
    REFUSED = "refused"
    CLOSED = "closed"


# From a state to each that may follow, and by what.
ASKING: dict[Asking, dict[Asking, str]] = {
    Asking.IDLE: {
        Asking.HEAD: "the target of a request begins",
        Asking.ENDED: "the request before was the last; the client ends, is refused, idle or lost; the lane ends",
    },
    Asking.HEAD: {
        Asking.BODY: "the head is whole",
        Asking.ENDED: "the client ends, is refused or is lost; the lane ends",
    },
    Asking.BODY: {
        Asking.IDLE: "the request is whole",
        Asking.SKIPPED: "the request is whole and asks for another protocol",
        Asking.ENDED: "the client ends, is refused or is lost; the lane ends",
    },
    Asking.SKIPPED: {Asking.HEAD: "the request is read again"},
    Asking.ENDED: {},
}
ANSWERING: dict[Answering, dict[Answering, str]] = {
    Answering.FREE: {
        Answering.BUSY: "a request is whole",
        Answering.REFUSED: "the client is refused",
        Answering.CLOSED: "the client ends, is idle too long or is lost; the lane ends",
    },
    Answering.BUSY: {
        Answering.FREE: "the answer is written, and no other request is here",
        Answering.CLOSED: "the last answer is written; the client is lost",
    },
    Answering.REFUSED: {Answering.CLOSED: "the client has had its time; it ends or is lost"},
    Answering.CLOSED: {},
}

# Names by themselves: a request looks at several, and an attribute of an enum costs more than a name of a module.
IDLE, HEAD, BODY, SKIPPED, ENDED = Asking
FREE, BUSY, REFUSED, CLOSED = Answering
