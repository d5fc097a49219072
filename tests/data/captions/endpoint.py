"""An OpenAI-compatible endpoint on loopback that fails as a script says, and counts what it was paid for."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import served


@dataclass
class Reply:
    """What one request gets. `text` of None is a body that is no chat completion."""

    status: int = 200
    text: str | None = ""
    headers: dict[str, str] = field(default_factory=dict)
    stall: float = 0.0
    hang_up: bool = False

    def body(self) -> bytes:
        if self.status != 200:
            return json.dumps({"error": {"message": self.text, "code": "scripted"}}).encode()
        if self.text is None:
            return b'{"choices": [{"mess'
        message = {"role": "assistant", "content": self.text}
        return json.dumps({"id": "x", "object": "chat.completion", "choices": [{"message": message}]}).encode()


def caption(name: str) -> str:
    """A good caption that is another for every name."""
    letters = "".join(chr(ord("a") + int(digit, 16)) for digit in name.split("-")[0][:12])
    return f"The person is speaking {letters}ly, {'again ' * int(name.split('-')[1])}at ease."


Script = Callable[[str, str, int], Reply]  # (name, prompt, how often this name was asked before) -> Reply


@dataclass
class Endpoint:
    """`paid` counts the good answers of each prompt, told apart by the name that the writer gives its requests."""

    url: str
    script: Script
    paid: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        return len(self.times)

    def reply(self, name: str, body: dict[str, Any], key: str) -> Reply:
        with self.lock:
            self.times.append(time.monotonic())
            self.bodies.append(body)
            self.keys.add(key)
            before = self.asked[name]
            self.asked[name] += 1
        return self.script(name, body["messages"][0]["content"], before)


@contextmanager
def serving(script: Script) -> Iterator[Endpoint]:
    """An endpoint that runs `script` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = self.headers["Idempotency-Key"]
            reply = endpoint.reply(name, body, self.headers.get("Authorization", ""))
            time.sleep(reply.stall)
            if reply.hang_up:
                self.close_connection = True
                return
            content = reply.body()
            try:
                self.send_response(reply.status)
                for header, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(header, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
            except OSError:
                self.close_connection = True
                return
            if reply.status == 200 and reply.text is not None and not reply.stall:
                with endpoint.lock:
                    endpoint.paid[name] += 1

        def log_message(self, *_: object) -> None: ...

    with served(Handler) as url:
        endpoint = Endpoint(f"{url}/v1", script)
        yield endpoint
