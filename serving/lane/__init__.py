"""The lane: HTTP/1.1 on sockets of its own, its workers, and the application that answers."""
