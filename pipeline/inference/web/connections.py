"""Connections to the page: who does not send a whole request in time, or does not have the key, makes room.

Other accounts of the machine can connect, and all come from the same address, so only the key tells the owner. A
connection without it that waits is closed after `REQUEST_SECONDS`, and before that when its place is needed.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.inference.web.security import SecurityMiddleware

MAX_CONNECTIONS = 1500  # held at once; each is a file
MAX_WITHOUT_KEY = 200  # of them
REQUEST_SECONDS = 5.0  # from a connection, or the end of an answer, to the end of the next request's headers
GRACE_SECONDS = 2.0  # for the first bytes of a connection, which may show the key
_OTHER_FILES = 200  # open beside the connections


class TimedProtocol(H11Protocol):
    """uvicorn's, with a time limit for requests and a limit of connections that never sent the key."""

    keyed = False
    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room(0)
        else:
            self.loop.call_later(GRACE_SECONDS, self._make_room)

    def _make_room(self, allowed: int = MAX_WITHOUT_KEY) -> None:
        """Close the connection without the key that has waited longest, where there are more than `allowed`."""
        keyless = [each for each in self.connections if isinstance(each, TimedProtocol) and not each.keyed]
        if len(keyless) > allowed:
            oldest = min(keyless, key=lambda each: each.began)  # this one, where all others have the key
            oldest.transport.abort()
            self.connections.discard(oldest)  # now, not in the loop's next round: many may come in this one

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the headers are whole
            self._stop_waiting()
        app = self.config.app
        if self.scope is not None and isinstance(app, SecurityMiddleware) and not self.keyed:
            self.keyed = bool(app.path_behind_key(self.scope["path"]))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self.began = self.loop.time()
        self.deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


def allow_files() -> None:
    """Let this process hold as many files open as there may be connections, where the system allows it."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
