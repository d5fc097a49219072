"""search-speech --serve: what it prints, where it listens, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import pipeline.inference.web
from pipeline.commands.search_speech import main
from pipeline.core.errors import UsageError
from pipeline.inference.web.server import listen, serve
from pipeline.training.run_folder import Run
from tests.inference.web.conftest import Site
from tests.stage_two import run_command

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "pipeline/inference/web"


def test_it_listens_on_this_machine_alone() -> None:
    with listen(0) as sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        for other in ("127.0.0.2", "::1"):
            with pytest.raises(OSError, match=r"refused|assign|unreachable|not supported"):
                socket.create_connection((other, port), timeout=2)


def test_a_port_can_be_taken_again_at_once() -> None:
    with listen(0) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            sock.accept()[0].close()  # who closes first keeps the port for a minute
            assert client.recv(1) == b""
    listen(port).close()


def test_a_port_that_is_taken_is_one_line(stores: Path, trained: Run) -> None:
    with listen(0) as sock:
        taken = sock.getsockname()[1]
        result = run_command(main, stores, trained.folder, "--serve", "--port", taken)
        assert result.exit_code == 2
        assert f"error: port {taken}: cannot be listened on (Address already in use)" in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--serve", "calm", "loud"], "--serve: given with 2 sentences"),
        (["--serve", "-"], "--serve: given with - for stdin"),
        (["--serve", "--audio", "a.wav"], "--serve: given with --audio"),
        (["--serve", "a" * 2001], "the sentence: 2,001 characters"),
        (["--serve", "a\udcff"], "the sentence: not UTF-8"),
        (["--serve", "--top", "1001"], "top 1001: not a number of hits for the page"),
        (
            ["--serve", "--split", "tset"],
            "split 'tset': not in the stores; expected one of dev, test, train. Did you mean 'test'?",
        ),
        (["calm", "--port", "8000"], "--port: given without --serve"),
        (["--serve", "--port", "99999"], "99999"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_2(words: list[str], said: str, stores: Path, trained: Run) -> None:
    result = run_command(main, stores, trained.folder, *words) if "99999" not in words else None
    if result is None:
        from click.testing import CliRunner

        result = CliRunner().invoke(main, [str(stores), str(trained.folder), *words])
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert result.stdout == ""


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_a_missing_extra_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.inference, "web", pipeline.inference.web)  # the import below binds another
    for name in [
        name for name in sys.modules if name.split(".")[0] == missing or name.startswith("pipeline.inference.web")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = run_command(main, "stores", "run", "--serve")
    assert result.exit_code == 2
    assert "pip install 'emotionrankclap[serve]'" in result.stderr


def test_in_python_the_url_asks_the_sentence(stores: Path, trained: Run) -> None:
    class Ready(Exception): ...

    def ready(url: str) -> None:
        raise Ready(url)

    with pytest.raises(Ready, match=r"^http://127\.0\.0\.1:\d+/[\w-]{22}/\?q=caf%C3%A9\+%26\+%3Cb%3E$"):
        serve(trained, "café & <b>", stores=stores, ready=ready)
    with pytest.raises(Ready, match=r"^http://127\.0\.0\.1:\d+/[\w-]{22}/$"):
        serve(trained, stores=stores, ready=ready)
    with pytest.raises(UsageError, match="top 0"):
        serve(trained, top=0, ready=ready)


def test_the_page_asks_for_nothing_elsewhere(site: Site) -> None:
    for path in FILES.glob("*.[hcj]*s*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"//[\w.-]+\.\w|https?:|@import|url\(|innerHTML|outerHTML|document\.write|eval\(", text), (
            path
        )
        assert not re.search(r"\son\w+=|style=|insertAdjacent", text), path  # the policy would stop them
        assert len(text.splitlines()) <= 350
    page = site.get("/").body.decode()
    assert (FILES / "page.html").read_text(encoding="utf-8") == page
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page)) | {"hits.js", "plane.js"}
    for name in named - {"data:,"}:
        assert site.get(f"/{name}").body == (FILES / name).read_bytes()


def test_every_control_has_a_name(site: Site) -> None:
    page = site.get("/").body.decode()
    outside_labels = re.sub(r"<label.*?</label>", "", page, flags=re.DOTALL)
    assert "<input" in page
    assert "<input" not in outside_labels
    assert all(re.search(r">\s*\w", button) for button in re.findall(r"<button.*?</button>", page, re.DOTALL))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(number: int, code: int, stores: Path, trained: Run) -> None:
    program = "from pipeline.commands.search_speech import main; main()"
    words = [str(stores), str(trained.folder), "--serve", "--json", "calm"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    assert url.endswith("/?q=calm")
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
    host, port = url.split("/")[2].split(":")
    key = url.split("/")[3]
    with socket.create_connection((host, int(port))) as reader:  # a player that is paused
        reader.sendall(f"GET /{key}/audio/0 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        reader.recv(1)
        process.send_signal(number)
        said, complaints = process.communicate(timeout=30)
    assert process.returncode == code
    assert said == ""
    assert complaints.splitlines()[-1] == "stopped"
    assert "Traceback" not in complaints
