"""The routes of the page: its files, what it searches, answers to queries, and recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from anyio import Semaphore, fail_after
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from pipeline.core.errors import EmotionRankError
from pipeline.inference.web.audio_clips import ClipError
from pipeline.inference.web.search_page import SearchPage, parse_query, sentence_at
from pipeline.inference.web.security import SecurityMiddleware

MAX_THREADS = 4  # queries and recordings at once; the page's own files wait for none of them
QUEUE_SECONDS = 60.0  # that a query waits for its turn
SCRIPTS = ("page.js", "hits.js", "plane.js")
FILES = {"page.html": "text/html", "page.css": "text/css"} | dict.fromkeys(SCRIPTS, "text/javascript")


def application(page: SearchPage, port: int, key: str) -> SecurityMiddleware:
    """The page as an ASGI application for a server on `port`; its addresses begin with /`key`."""
    slots = Semaphore(MAX_THREADS)

    def about(_: Request) -> Response:
        return _json(page.about)

    def ask(request: Request) -> Response:
        return _json(page.answer(parse_query(request.scope["query_string"])))

    def sentence(request: Request) -> Response:
        return _json(sentence_at(request.scope["query_string"]))

    def audio(request: Request) -> Response:
        row = request.path_params["row"]
        if not re.fullmatch(r"0|[1-9][0-9]{0,11}", row):
            raise HTTPException(404)
        return _byte_range(page.clips.wav(int(row)), request.headers.get("range", ""))

    def in_turn(endpoint: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            """Its answer in one of the threads, first come, first served; 503 when none was free for long."""
            try:
                with fail_after(QUEUE_SECONDS):
                    await slots.acquire()
            except TimeoutError:
                return _json({"error": "too many questions at once; ask again in a moment"}, 503)
            try:
                gone = await request.is_disconnected()
                return Response(status_code=503) if gone else await run_in_threadpool(endpoint, request)
            finally:
                slots.release()

        return answer

    endpoints = {"/about": about, "/ask": ask, "/sentence": sentence, "/audio/{row}": audio}
    app = Starlette(
        routes=[*map(_file, FILES), *(Route(path, in_turn(endpoint)) for path, endpoint in endpoints.items())],
        exception_handlers={EmotionRankError: _bad_request, ClipError: _not_found, HTTPException: _not_found},
    )
    app.router.redirect_slashes = False
    return SecurityMiddleware(app, port, key)  # around all of it, so that every error has the headers too


def _file(name: str) -> Route:
    async def send_file(_: Request) -> Response:
        return FileResponse(Path(__file__).with_name(name), media_type=FILES[name])

    return Route("/" if name == "page.html" else f"/{name}", send_file)


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")


def _byte_range(wav: bytes, header: str) -> Response:
    """The bytes that a Range header names, or all: players seek by it (RFC 9110, one range of bytes).

    By hand: Starlette answers ranges of files only, and a decoded recording is not a file.
    """
    headers, size = {"accept-ranges": "bytes"}, len(wav)
    match = re.fullmatch(r"bytes=([0-9]{0,15})-([0-9]{0,15})", header)
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return Response(wav, media_type="audio/wav", headers=headers)  # not a range
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return Response(wav[start:end], 206, media_type="audio/wav", headers=headers)


async def _bad_request(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


async def _not_found(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _json({"error": "nothing is here"}, error.status_code)
    return _json({"error": str(error)}, 404)
