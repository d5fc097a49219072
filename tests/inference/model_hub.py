"""As much of the Hugging Face hub as a push and a fetch ask for, on loopback; every request is written down."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import served

COMMIT = "a" * 40


@dataclass
class Hub:
    """`files` is what the one repository holds; `status` other than 200 refuses everything, repeating the token."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    public: bool = False
    status: int = 200
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path
    tokens: set[str] = field(default_factory=set)
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if "/resolve/" in path:
            return self._file(path.split("/resolve/", 1)[1].split("/", 1)[1])
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/erc", "id": "me/erc", "name": "me/erc"}, {}
        if path.startswith("/api/models/me/erc/preupload/"):
            wanted = json.loads(body)["files"]
            found = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in wanted]
            return 200, {"files": found}, {}
        if path.startswith("/api/models/me/erc/commit/"):
            self._commit([json.loads(line) for line in body.splitlines()])
            return 200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/me/erc/commit/{COMMIT}"}, {}
        if path.startswith("/api/models/me/erc/tree/"):
            rows = [{"type": "file", "path": n, "size": len(d), "oid": _oid(d)} for n, d in self.files.items()]
            return 200, rows, {}
        if path.startswith("/api/models/me/erc"):
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": "me/erc", "sha": COMMIT, "private": not self.public, "siblings": siblings}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        return 404, {"error": "no such thing"}, {"X-Error-Code": "RepoNotFound"}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        self.commits.append(lines[0]["value"])
        for line in lines[1:]:
            assert line["key"] in ("file", "deletedFile")
            if line["key"] == "deletedFile":
                del self.files[line["value"]["path"]]
            else:
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])

    def _file(self, name: str) -> tuple[int, Any, dict[str, str]]:
        if name not in self.files:
            return 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"}
        data = self.files[name]
        return 200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT}


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "")
            hub.asked.append((self.command, path))
            hub.tokens.add(token)
            status, said, headers = hub.answer(self.command, path, body) if hub.status == 200 else (hub.status, {}, {})
            if hub.status != 200:
                said = {"error": f"what is {token}?\nand on a second line"}
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(data)),
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _answer

        def log_message(self, *_: object) -> None: ...

    with served(Handler) as hub.url:
        yield hub
