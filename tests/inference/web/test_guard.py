"""Security: one address, its own origin, few methods, headers on every answer, and no file of the disk."""

from __future__ import annotations

import random
import socket
from urllib.parse import quote

import pytest
import soundfile
from starlette.applications import Starlette
from starlette.datastructures import Headers

from pipeline.inference.web.security import HEADERS, SecurityMiddleware
from tests.inference.web.conftest import KEY, SECRET, Site

PATHS = ("/", "/about", "/ask?q=calm&top=1", "/sentence?valence=1&arousal=1", "/audio/0", "/page.js", "/nothing")


def _raw(port: int, request: bytes) -> bytes:
    """Every byte that comes back for `request`."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_forbids_what_the_page_does_not_need(path: str, site: Site) -> None:
    answers = [site.get(path), site.get(path, {"Host": "evil.invalid"}), site.get(path, method="POST")]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
    assert answers[0].headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert "http" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.invalid", "evil.invalid:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "localhost:{port}.x", ""]
)
def test_another_host_is_refused(host: str, path: str, site: Site) -> None:
    """What a name that a stranger's name server points at 127.0.0.1 looks like."""
    answer = site.get(path, {"Host": host.format(port=site.port)})
    assert answer.status == 403
    assert b"another host" in answer.body


def test_this_host_is_answered_by_both_its_names(site: Site) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert site.get("/about", {"Host": f"{host}:{site.port}"}).status == 200


def test_no_host_or_two_are_refused(site: Site) -> None:
    own = f"Host: 127.0.0.1:{site.port}\r\n".encode()
    get = f"GET /{site.key}/about HTTP/1.0\r\n".encode()
    assert b" 200 OK" in _raw(site.port, get + own + b"\r\n")
    for hosts in (b"", own + own, own + b"Host: evil.invalid\r\n"):
        assert b" 200 OK" not in _raw(site.port, get + hosts + b"\r\n")


def test_the_usual_port_need_not_be_named() -> None:
    """Browsers leave :80 out."""
    headers = Headers({"host": "localhost"})
    app = Starlette()
    assert SecurityMiddleware(app, 80, KEY).refusal("GET", "/", headers) == (0, "")
    assert SecurityMiddleware(app, 8080, KEY).refusal("GET", "/", headers)[0] == 403


@pytest.mark.parametrize("path", PATHS)
def test_another_origin_is_refused(path: str, site: Site) -> None:
    for origin in ("http://evil.invalid", "null", f"https://127.0.0.1:{site.port}", "http://127.0.0.1:1", ""):
        assert site.get(path, {"Origin": origin}).status == 403
    for name in ("127.0.0.1", "localhost"):
        assert site.get(path, {"Origin": f"http://{name}:{site.port}"}).status != 403


@pytest.mark.parametrize("path", PATHS)
def test_another_site_may_open_the_page_and_use_nothing_of_it(path: str, site: Site) -> None:
    for kind in ("cross-site", "same-site"):
        assert (site.get(path, {"Sec-Fetch-Site": kind}).status == 403) == (path != "/")
    for kind in ("same-origin", "none"):
        assert site.get(path, {"Sec-Fetch-Site": kind}).status != 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "get"])
def test_nothing_but_get_and_head_is_answered(method: str, site: Site) -> None:
    answer = site.get("/about", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_a_body_is_refused_unread(site: Site) -> None:
    own = f"Host: 127.0.0.1:{site.port}\r\n".encode()
    for how in (b"Content-Length: 99999999999", b"Transfer-Encoding: chunked"):
        get = f"GET /{site.key}/about HTTP/1.1\r\n".encode()
        said = _raw(site.port, get + own + how + b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")


def test_a_request_without_end_is_cut_off(site: Site) -> None:
    for endless in (b"GET /" + 2**20 * b"a", b"GET / HTTP/1.1\r\nX: " + 2**20 * b"a"):
        try:
            assert _raw(site.port, endless).startswith(b"HTTP/1.1 400 ")
        except (ConnectionResetError, BrokenPipeError):  # cut off before all was sent
            pass
    assert site.get("/about").status == 200


@pytest.mark.parametrize("path", PATHS)
def test_who_does_not_know_the_key_gets_nothing(path: str, site: Site) -> None:
    """Any account of the machine can reach the port."""
    wrong = ["", f"/{KEY[:-1]}", f"/{KEY}x", f"/{KEY.upper()}", f"//{KEY}", "/x", f"/x/../{KEY[:-1]}"]
    for root in wrong:
        said = _raw(site.port, f"GET {root}{path} HTTP/1.0\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 404 "), root
        assert said.endswith(b"nothing is here; open the address that search-speech printed\n")
    assert site.get("").status == 404  # the key alone, without its slash: relative addresses would miss it


def test_there_is_no_description_of_the_routes(site: Site) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/favicon.ico", "/static", "/about/", "/ask/"):
        assert site.get(path).status == 404


def _hostile_paths(odd: Site, count: int) -> list[str]:
    """Ways to the secret that is two folders above an audio file, and nonsense."""
    draw = random.Random(0)
    outside = odd.page.clips.root.parent
    steps = ["..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "..%00", "%c0%ae%c0%ae", "....", "..;", "", "."]
    slashes = ["/", "%2f", "\\", "%5c", "//", "%252f", "/./"]
    ends = ["secret.txt", "secret.wav", "etc/passwd", "root/manifest.csv", quote(str(outside / "secret.txt"))]
    starts = ["", "/audio", "/audio/0", "/audio/3", "/page.js", "/ask", "/about", "/static", "/.", str(outside)]
    tails = ["", "?", "#", "%00.wav", "?q=a&top=1", "?path=../secret.txt", ";x=1", "/", "%0d%0aX: y", ".wav"]
    found = []
    for _ in range(count):
        way = "".join(draw.choice(slashes) + draw.choice(steps) for _ in range(draw.randrange(8)))
        found.append("/" + (draw.choice(starts) + way + draw.choice(slashes) + draw.choice(ends)).lstrip("/"))
        found[-1] += quote(draw.choice(tails), safe="%?=&#;/.")
    return found


def test_a_secret_beside_the_corpus_never_comes_out(odd: Site) -> None:
    secret = (odd.page.clips.root.parent / "secret.wav").read_bytes()
    samples, _ = soundfile.read(odd.page.clips.root.parent / "secret.wav", dtype="int16")
    assert secret[-200:] == samples[-100:].tobytes()  # what would come out of a player
    rows = [f"/audio/{row}" for row in range(-3, 40)]
    asked = [f"/audio?row={row}" for row in ("../secret.txt", "1")] + [f"/audio/1/{row}" for row in range(3)]
    statuses = set()
    for path in [*_hostile_paths(odd, 400), *rows, *asked]:
        answer = odd.get(path)
        statuses.add(answer.status)
        assert SECRET not in answer.body, path
        assert samples[1000:1100].tobytes() not in answer.body, path
        assert answer.status < 500, path
    assert statuses >= {200, 404}
