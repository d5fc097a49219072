"""The door of the page: requests of this machine's browsers for this page alone, and headers that keep them to it.

Every address begins with a key that only the printed one has: on a machine of many, others can reach the port too. A
web page of a stranger that is open in the same browser can send requests here, and can give 127.0.0.1 a name of its
own (DNS rebinding). Both are told by what a browser says of a request and no page can change: Host, Origin and
Sec-Fetch-Site.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.core.errors import EmotionRankError
from pipeline.inference.web.audio_clips import NoClip
from pipeline.inference.web.search_page import SearchPage, question_of, sentence_at

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
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
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """An ASGI application around another, for a server on `port`; addresses are those of `app` behind /`key`."""

    def __init__(self, app: App, port: int, key: str) -> None:
        names = [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]
        if port == 80:
            names += ["127.0.0.1", "localhost"]
        self._app, self._hosts, self._origins = app, names, [f"http://{name}" for name in names]
        self._root = f"/{key}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if scope["type"] != "http":  # the server's own start and end
            await self._app(scope, receive, send)
            return
        path = self._path(scope["path"])
        status, why = self._refusal(scope["method"], path, scope["headers"])
        if not status:
            await self._app({**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}, receive, guarded)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"allow", b"GET, HEAD"), (b"connection", b"close")]
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": why.encode() + b"\n"})

    def _path(self, path: str) -> str:
        """`path` behind the key; empty where there is another or none."""
        given = path[: len(self._root)].encode("utf-8", "surrogatepass")
        known = hmac.compare_digest(given, self._root.encode())
        return path[len(self._root) :] if known and path[len(self._root) :].startswith("/") else ""

    def _refusal(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str]:
        """The status and the reason, or (0, "")."""
        said: dict[str, list[str]] = {}
        for name, value in headers:
            said.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if [host.lower() for host in said.get("host", [])] not in [[name] for name in self._hosts]:
            return 403, f"another host; expected {self._hosts[0]}"
        if any(origin not in self._origins for origin in said.get("origin", [])):
            return 403, "asked by another site"
        if path != "/" and any(site not in ("same-origin", "none") for site in said.get("sec-fetch-site", [])):
            return 403, "asked by another site"
        if not path:
            return 404, "nothing is here; open the address that search-speech printed"
        if method not in ("GET", "HEAD"):
            return 405, "only GET and HEAD"
        if said.get("content-length", ["0"]) != ["0"] or "transfer-encoding" in said:
            return 413, "a request with a body"
        return 0, ""


THREADS = 4  # questions and recordings at once
_FILES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "hits.js": "text/javascript",
    "plane.js": "text/javascript",
}


def application(page: SearchPage, port: int, key: str) -> App:
    """The page as an ASGI application behind its guard, for a server on `port`; its addresses begin with /`key`."""

    def about(_: Request) -> Response:
        return _json(page.about)

    def ask(request: Request) -> Response:
        return _json(page.answer(question_of(request.scope["query_string"])))

    def sentence(request: Request) -> Response:
        return _json(sentence_at(request.scope["query_string"]))

    def audio(request: Request) -> Response:
        row = request.path_params["row"]
        if not re.fullmatch(r"0|[1-9][0-9]{0,11}", row):
            raise HTTPException(404)
        return _part(page.clips.wav(int(row)), request.headers.get("range", ""))

    answers = {"/about": about, "/ask": ask, "/sentence": sentence, "/audio/{row}": audio}
    routes = [Route(path, answer) for path, answer in answers.items()]
    app = Starlette(
        routes=[*map(_file, _FILES), *routes],
        exception_handlers={EmotionRankError: _refused, NoClip: _absent, HTTPException: _unknown},
        lifespan=_few_threads,
    )
    app.router.redirect_slashes = False
    return Guard(app, port, key)


@asynccontextmanager
async def _few_threads(_: Starlette) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    yield


def _file(name: str) -> Route:
    """A file of this package, read once."""
    contents = (files("pipeline.page") / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(contents, media_type=_FILES[name])

    return Route("/" if name == "page.html" else f"/{name}", answer)


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")


def _part(wav: bytes, asked: str) -> Response:
    """The bytes that a Range header asks for, or all: players seek by it (RFC 9110, one range of bytes)."""
    headers, size = {"accept-ranges": "bytes"}, len(wav)
    found = re.fullmatch(r"bytes=([0-9]{0,15})-([0-9]{0,15})", asked)
    if not found or not any(found.groups()):
        return Response(wav, media_type="audio/wav", headers=headers)
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < start:
        return Response(wav, media_type="audio/wav", headers=headers)  # no range at all
    if start >= size:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(wav[start:end], 206, media_type="audio/wav", headers=headers)


async def _refused(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


async def _absent(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 404)


async def _unknown(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _json({"error": "nothing is here"}, status)
