"""Serve the page to browsers of this machine, until it is stopped.

    search-speech stores/msp runs/erc --serve

It listens on 127.0.0.1 and nowhere else, and answers those who have the address that is printed.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from pipeline.core.errors import UsageError
from pipeline.inference.nearest_neighbours import Filter
from pipeline.inference.search import AnyStores, Folder
from pipeline.inference.web.search_page import LONGEST, MOST, SearchPage
from pipeline.training.run_folder import Run

log = logging.getLogger(__name__)

try:
    import uvicorn

    from pipeline.inference.web.routes import application
except ImportError:
    raise UsageError(
        "--serve", "starlette and uvicorn are not installed", "the serve extra", "pip install 'emotionrankclap[serve]'"
    ) from None
_PATIENCE_SECONDS = 1  # for what is being sent when it is stopped
_AT_ONCE = 64  # connections
_REQUEST_BYTES = 2**15  # holds the longest sentence, each of its letters as twelve


def serve(
    run: Run | Folder,
    sentence: str = "",
    *,
    stores: AnyStores = None,
    split: Sequence[str] = (),
    speaker: Sequence[str] = (),
    emotion: Sequence[str] = (),
    top: int = 10,
    port: int = 0,
    device: str = "auto",
    ready: Callable[[str], object] = print,
) -> None:
    """Load the utterances of any of the values named, tell `ready` the page's URL once it listens, and serve it.

        serve("runs/erc", "The person is speaking with joy.", stores="stores/msp", port=8080)

    The URL asks `sentence` when it is opened, for `top` hits. Port 0 is any free one. Ends by SIGINT or SIGTERM, as the
    process's handlers say. Raises what `search` raises, and UsageError for a port that is taken.
    """
    _refuse_unaskable(sentence, top)
    with listening(port) as door:  # first: a port that is taken is known before anything is loaded
        among = Filter(tuple(split), tuple(speaker), tuple(emotion))
        page = SearchPage.open(stores, run, among=among, top=top, device=device)
        key = secrets.token_urlsafe(16)
        ready(address(door, key) + (f"?{urlencode({'q': sentence})}" if sentence else ""))
        log.info(f"{len(page.index.found.rows):,} utterances are searched; Ctrl-C ends it")
        server_of(page, door, key).run(sockets=[door])


def listening(port: int) -> socket.socket:
    """A socket that listens on `port` of 127.0.0.1. Raises UsageError."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a minute passes until it can be started again
        door.bind(("127.0.0.1", port))
        door.listen(_AT_ONCE)
    except (OSError, OverflowError) as error:
        door.close()
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        found = f"cannot be listened on ({reason})"
        raise UsageError(f"port {port}", found, "a free port of this machine", "Name another, or 0 for any.") from None
    return door


def address(door: socket.socket, key: str) -> str:
    """The page's URL, with the key that opens it."""
    return f"http://127.0.0.1:{door.getsockname()[1]}/{key}/"


def server_of(page: SearchPage, door: socket.socket, key: str) -> uvicorn.Server:
    """What answers at `door` to whoever has the `key`."""
    config = uvicorn.Config(
        application(page, door.getsockname()[1], key),
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_AT_ONCE,
        h11_max_incomplete_event_size=_REQUEST_BYTES,
        timeout_graceful_shutdown=_PATIENCE_SECONDS,
    )
    return uvicorn.Server(config)


def _refuse_unaskable(sentence: str, top: int) -> None:
    try:
        sentence.encode()
    except UnicodeEncodeError:
        raise UsageError("the sentence", "not UTF-8", "words in UTF-8", "Correct it.") from None
    if len(sentence) > LONGEST:
        raise UsageError("the sentence", f"{len(sentence):,} characters", f"at most {LONGEST:,}", "Say it in fewer.")
    if not 1 <= top <= MOST:
        raise UsageError(f"top {top}", "no number of hits for a page", f"1 to {MOST:,}", "Ask for fewer.")
