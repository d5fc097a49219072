"""The few addresses of the page, each behind /KEY.

/                       the page, and beside it its style and its scripts
/about                  what is searched, the values of the filters, the cloud
/ask?q=...              the hits
/sentence?valence=...   the sentence of a point
/audio/ROW              the recording of a hit
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.errors import EmotionRankError
from pipeline.page.clips import NoClip
from pipeline.page.guard import App, Guard
from pipeline.page.questions import question_of, sentence_at
from pipeline.page.search_page import SearchPage

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
