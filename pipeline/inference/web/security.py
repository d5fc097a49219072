"""Security middleware of the page: it answers only browsers of this machine, and only its own page.

Every address begins with a key that only the printed address has: on a shared machine, other accounts can reach the
port. Another site's page that is open in the same browser can send requests here, and can give 127.0.0.1 a name of its
own (DNS rebinding); headers that a browser sets and no page can change tell: Host, Origin and Sec-Fetch-Site.

By hand: Starlette's TrustedHostMiddleware ignores the port and accepts a second Host header.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

        if scope["type"] != "http":  # lifespan
            await self.app(scope, receive, send)
            return
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
