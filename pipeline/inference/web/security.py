"""Who is answered: browsers of this machine, for the page alone, and nobody who keeps others waiting.

Every address begins with a key that only the printed address has: on a shared machine, other accounts can reach the
port. Another site's page that is open in the same browser can send requests here, and can give 127.0.0.1 a name of its
own (DNS rebinding); headers that a browser sets and no page can change tell: Host, Origin and Sec-Fetch-Site.

By hand: Starlette's TrustedHostMiddleware ignores the port and accepts a second Host header.

Other accounts can also hold connections, and all come from the same address, so only the key tells the owner. Whoever
does not send a whole request within `REQUEST_SECONDS` is closed, and without the key before that where its place is
needed.
"""

from __future__ import annotations

import asyncio
import hmac

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1500  # held at once; each is a file
MAX_WITHOUT_KEY = 200  # of them
REQUEST_SECONDS = 5.0  # from a connection, or the end of an answer, to the end of the next request's headers
GRACE_SECONDS = 2.0  # for the first bytes of a connection, which may show the key

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class SecurityMiddleware:
    """ASGI middleware for a server on `port`: the addresses are those of `app` behind /`key`."""

    def __init__(self, app: ASGIApp, port: int, key: str) -> None:
        hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]
        if port == 80:  # browsers leave :80 out
            hosts += ["127.0.0.1", "localhost"]
        self.app, self.hosts, self.origins, self.root = app, hosts, [f"http://{host}" for host in hosts], f"/{key}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        path = self.path_behind_key(scope["path"])
        status, reason = self.refusal(scope["method"], path, Headers(scope=scope))
        if status:
            headers = {"allow": "GET, HEAD", "connection": "close"}
            await PlainTextResponse(reason + "\n", status, headers)(scope, receive, send_with_headers)
            return
        await self.app({**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}, receive, send_with_headers)

    def path_behind_key(self, path: str) -> str:
        """`path` without the key in front; empty if the key is wrong or missing. Compares in constant time."""
        start, rest = path[: len(self.root)], path[len(self.root) :]
        right = hmac.compare_digest(start.encode("utf-8", "surrogatepass"), self.root.encode())
        return rest if right and rest.startswith("/") else ""

    def refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str]:
        """HTTP status and reason, or (0, "") for a request that is answered."""
        if [host.lower() for host in headers.getlist("host")] not in [[host] for host in self.hosts]:
            return 403, f"another host; expected {self.hosts[0]}"
        if any(origin not in self.origins for origin in headers.getlist("origin")):
            return 403, "asked by another site"
        if path != "/" and any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site")):
            return 403, "asked by another site"
        if not path:
            return 404, "nothing is here; open the address that search-speech printed"
        if method not in ("GET", "HEAD"):
            return 405, "only GET and HEAD"
        if headers.getlist("content-length") not in ([], ["0"]) or "transfer-encoding" in headers:
            return 413, "a request with a body"
        return 0, ""


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
