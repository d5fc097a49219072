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
from pipeline.inference.filters import Filter
from pipeline.inference.search import AnyStores, Folder
from pipeline.inference.web.search_page import MAX_HITS, SearchPage, require_short
from pipeline.training.run_folder import Run

log = logging.getLogger(__name__)

try:
    import uvicorn

    from pipeline.inference.web.routes import application
    from pipeline.inference.web.security import MAX_CONNECTIONS, TimedProtocol
except ImportError:
    raise UsageError(
        "--serve",
        "starlette and uvicorn are not installed",
        "the extra serve",
        "Run pip install 'emotionrankclap[serve]'.",
    ) from None
SHUTDOWN_SECONDS = 1  # for what is being sent when it is stopped
BACKLOG = 1024  # connections that wait to be accepted
OTHER_FILES = 200  # open beside the connections
MAX_REQUEST_BYTES = 2**15  # holds the longest sentence, each of its letters as twelve


def serve(
    run: Run | Folder, sentence: str = "", *, stores: AnyStores = None, split: Sequence[str] = (),
    speaker: Sequence[str] = (), emotion: Sequence[str] = (), top: int = 10, port: int = 0, device: str = "auto",
    ready: Callable[[str], object] = print,
) -> None:  # fmt: skip
    """Load the utterances of any of the values named, call `ready` with the page's URL once it listens, and serve it.

        serve("runs/erc", "The person is speaking with joy.", stores="stores/msp", port=8080)

    The URL searches for `sentence` when it is opened, with `top` hits. Port 0 is any free one. Ends by SIGINT or
    SIGTERM, as the process's handlers say. Raises what `search` raises, and UsageError for a port that is taken.
    """
    _check_query(sentence, top)
    with listen(port) as sock:  # first: a port that is taken is known before anything is loaded
        among = Filter(tuple(split), tuple(speaker), tuple(emotion))
        page = SearchPage.open(stores, run, among=among, top=top, device=device)
        key = secrets.token_urlsafe(16)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/{key}/"
        ready(f"{url}?{urlencode({'q': sentence})}" if sentence else url)
        log.info(f"{len(page.index.neighbours.rows):,} utterances are searched; Ctrl-C ends it")
        make_server(page, sock, key).run(sockets=[sock])


def listen(port: int) -> socket.socket:
    """A socket that listens on `port` of 127.0.0.1. Raises UsageError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a minute passes until it can be started again
        sock.bind(("127.0.0.1", port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        found = f"cannot be listened on ({reason})"
        raise UsageError(f"port {port}", found, "a free port of this machine", "Pass another, or 0 for any.") from None
    return sock


def make_server(page: SearchPage, sock: socket.socket, key: str) -> uvicorn.Server:
    """The server of `page` on `sock`, for addresses with `key`."""
    allow_files()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that went away
    config = uvicorn.Config(
        application(page, sock.getsockname()[1], key),
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # what strangers send is not the owner's terminal's
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_REQUEST_BYTES,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


def allow_files() -> None:
    """Let this process hold as many files open as there may be connections, where the system allows it."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _check_query(sentence: str, top: int) -> None:
    try:
        sentence.encode()
    except UnicodeEncodeError:
        raise UsageError("the sentence", "not UTF-8", "words in UTF-8", "Correct it.") from None
    require_short(sentence)
    if not 1 <= top <= MAX_HITS:
        raise UsageError(f"top {top}", "not a number of hits for the page", f"1 to {MAX_HITS:,}", "Ask for fewer.")
