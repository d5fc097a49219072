"""The page under load: strangers on the same machine cannot keep its owner out, and nothing is printed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pipeline.inference.web.search_page import SearchPage, SearchQuery
from pipeline.inference.web.security import MAX_WITHOUT_KEY, REQUEST_SECONDS
from pipeline.inference.web.server import allow_files
from pipeline.training.run_folder import Run
from tests.inference.web.conftest import KEY, Site

ROOT = Path(__file__).resolve().parents[3]
HALF = b"GET /none/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


@contextmanager
def connected(port: int, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """`count` connections of a stranger, each of which has sent `sent`."""
    with ExitStack() as held:
        clients = []
        for _ in range(count):
            clients.append(held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)))
            clients[-1].sendall(sent)
        yield clients


def test_a_system_without_a_limit_of_files_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    allow_files()


@pytest.mark.parametrize("sent", [b"", HALF, b"GET /"])
def test_five_hundred_connections_that_wait_do_not_keep_the_owner_out(
    site: Site, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with connected(site.port, 500, sent):
        for _ in range(5):
            began = time.monotonic()
            assert site.ask("calm").status == 200
            assert time.monotonic() - began < 10  # it took half a minute, and was a 503
    assert capfd.readouterr().err == ""


def test_connections_without_the_key_are_few_and_those_with_it_stay(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inference.web.security.GRACE_SECONDS", 0.2)
    request = f"GET /{KEY}/about HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as owner:
        owner.sendall(request)
        assert owner.recv(12) == b"HTTP/1.1 200"
        with connected(site.port, MAX_WITHOUT_KEY + 50, HALF) as clients:
            assert site.get("/about").status == 200  # all before it were accepted
            time.sleep(0.4)
            closed = [_is_closed(client) for client in clients]
            assert sum(closed) >= 50
            assert closed == sorted(closed, reverse=True)  # the oldest made room
            owner.sendall(request)
            assert owner.recv(1) != b""


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(0.001)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_a_request_that_is_never_finished_is_closed_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often another byte of it comes."""
    monkeypatch.setattr("pipeline.inference.web.security.REQUEST_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as client:
        client.sendall(HALF)
        sent = iter(range(200))
        while not _is_closed(client) and next(sent) < 199:
            with suppress(ConnectionError):
                client.sendall(b"a")
            time.sleep(0.05)
        assert _is_closed(client)
    assert REQUEST_SECONDS <= 10


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_questions_at_once_are_all_answered(site: Site, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    """945 of 1,000 got 503."""
    request = f"GET /{KEY}/ask?q=calm&top=1 HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nConnection: close\r\n\r\n"
    with connected(site.port, count, request.encode()) as clients:
        answers = Counter(client.recv(12) for client in clients)
    assert answers == {b"HTTP/1.1 200": count}
    assert capfd.readouterr().err == ""


def test_who_waits_too_long_for_a_turn_is_told_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.web.routes.QUEUE_SECONDS", 0.1)
    answer = SearchPage.answer

    def slowly(page: SearchPage, query: SearchQuery) -> dict[str, Any]:
        time.sleep(0.2)
        return answer(page, query)

    monkeypatch.setattr(SearchPage, "answer", slowly)
    request = f"GET /{KEY}/ask?q=calm&top=1 HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nConnection: close\r\n\r\n"
    with connected(site.port, 100, request.encode()) as clients:
        answers = {client.recv(12) for client in clients}
        assert site.get("/page.css").status == 200  # the page's own files wait for no question
    assert answers == {b"HTTP/1.1 200", b"HTTP/1.1 503"}


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"a" * 99_999]
)
def test_what_strangers_send_is_not_printed(site: Site, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with connected(site.port, 3, sent) as clients:
        for client in clients:
            client.recv(100)
    assert site.get("/about").status == 200
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_the_owner_of_a_page_that_is_attacked_is_answered_within_a_second(stores: Path, trained: Run) -> None:
    program = "from pipeline.commands.search_speech import main; main()"
    words = [str(stores), str(trained.folder), "--serve", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        urlopen(f"{url}ask?q=calm&top=5").read()
        port, seconds = int(url.split("/")[2].split(":")[1]), []
        for sent in (b"", HALF):
            with connected(port, 500, sent):
                for _ in range(20):
                    began = time.monotonic()
                    assert urlopen(f"{url}ask?q=calm&top=5").status == 200
                    seconds.append(time.monotonic() - began)
        process.terminate()
        _, said = process.communicate(timeout=30)
    print(f"{max(seconds):.3f} s")
    assert max(seconds) < 1
    assert "503" not in said
    assert "WARNING" not in said
    assert len(said.splitlines()) < 12, said
