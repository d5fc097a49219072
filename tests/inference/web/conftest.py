"""The page served on loopback: one over ordinary stores, one over a manifest that nobody should have written."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from cache.manifest import Manifest
from pipeline.inference.filters import UtteranceFilter
from pipeline.inference.search import NearestNeighbours
from pipeline.inference.web.audio_clips import Clips
from pipeline.inference.web.search_page import SearchPage
from pipeline.inference.web.server import listen, make_server
from pipeline.training.run_folder import Run
from tests.evaluation.report.conftest import HOSTILE
from tests.speech import RATE, tone

SECRET = b"the secret that lies beside the corpus"
FAILED = 22  # the row of `odd` that is not in the index
KEY = "a_key-of-the-tests"
SURROGATE = "no \udcff UTF-8"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """A page that is being served."""

    page: SearchPage
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.key}/"

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """What a client that has the key and sends `path` as it stands gets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, f"/{self.key}{path}", headers=headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def ask(self, sentence: str, top: object = 5, **fields: list[str]) -> Answer:
        return self.get("/ask?" + urlencode({"q": sentence, "top": top, **fields}, doseq=True))


@contextmanager
def served(page: SearchPage) -> Iterator[Site]:
    with listen(0) as sock:
        server = make_server(page, sock, KEY)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        port = sock.getsockname()[1]
        thread.start()
        try:
            yield Site(page, port, KEY)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def site(stores: Path, trained: Run) -> Iterator[Site]:
    with served(SearchPage.open(stores, trained)) as site:
        yield site


@pytest.fixture(scope="session")
def odd_page(site: Site, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchPage:
    """The page of `site` over a manifest of strange names and paths, with secrets beside the audio root."""
    outside = tmp_path_factory.mktemp("odd")
    root = outside / "root"
    shutil.copytree(corpus.parent, root)
    manifest = _odd_manifest(site.page.index.manifest, root)
    found = site.page.index.neighbours
    rows = found.rows != FAILED
    index = replace(
        site.page.index,
        manifest=manifest,
        columns=UtteranceFilter(manifest),
        neighbours=NearestNeighbours(found.rows[rows], found.vectors[rows]),
        root=root,
    )
    clips = Clips(manifest, index.neighbours.rows, _encoded(manifest, root), root)
    return SearchPage(index, clips, site.page.facts, np.zeros(len(manifest)))


@pytest.fixture(scope="session")
def odd(odd_page: SearchPage) -> Iterator[Site]:
    with served(odd_page) as site:
        yield site


ODD_AUDIO = {
    1: "../secret.wav",
    2: "{outside}/secret.wav",
    3: "audio/link.wav",
    4: "audio/pipe",
    5: "audio",
    6: "audio/missing.wav",
    7: "audio/text.wav",
    8: "audio/cut.wav",
    9: "audio/nul\0.wav",
    10: "",
    11: "out/secret.wav",
    12: "audio/stereo.flac",
    13: "audio/long.wav",
    14: "/dev/zero",
    15: "audio/inside.wav",
    16: "audio/../audio/./u00.wav",
    17: "audio/round.wav",
    18: "audio/../../secret.wav",
    19: "{root}/audio/u00.wav",
}
UNPLAYABLE = {
    **dict.fromkeys((1, 2, 10, 14, 18), "its path leads out of the audio root"),
    **dict.fromkeys((3, 11), "not the file that was encoded"),
    4: "cannot be read (a pipe, not a file)",
    5: "cannot be read (a folder, not a file)",
    6: "cannot be read (No such file or directory)",
    7: "cannot be decoded",
    8: "truncated",
    9: "cannot be read (",
    17: "cannot be read (Too many levels of symbolic links)",
}


SECRET_LINKS = 3, 11


def _encoded(manifest: Manifest, root: Path) -> NDArray[np.uint8]:
    """The digests of the files as they were encoded: before links to the secret took the place of two."""
    digests = np.zeros((len(manifest), 16), np.uint8)
    for row, audio in enumerate(manifest.audio):
        file = root / ("audio/u00.wav" if row in SECRET_LINKS else audio)
        if "\0" not in audio and file.is_file():
            digests[row] = np.frombuffer(hashlib.blake2b(file.read_bytes(), digest_size=16).digest(), np.uint8)
    return digests


def _odd_manifest(manifest: Manifest, root: Path) -> Manifest:
    outside, audio = root.parent, root / "audio"
    soundfile.write(outside / "secret.wav", tone(0.5, pitch=700), RATE)
    (outside / "secret.txt").write_bytes(SECRET)
    os.symlink(outside / "secret.wav", audio / "link.wav")
    os.symlink(outside, root / "out")
    os.symlink("u00.wav", audio / "inside.wav")
    os.symlink("round.wav", audio / "round.wav")
    os.mkfifo(audio / "pipe")
    (audio / "text.wav").write_bytes(SECRET * 100)
    (audio / "cut.wav").write_bytes((audio / "u08.wav").read_bytes()[:4000])
    soundfile.write(audio / "stereo.flac", np.stack([tone(0.5, rate=44_100), tone(0.5, rate=44_100) / 3], 1), 44_100)
    soundfile.write(audio / "long.wav", tone(700, pitch=3, rate=100), 100)
    odd = manifest.take(np.arange(len(manifest)))
    for row, path in ODD_AUDIO.items():
        odd.audio[row] = path.format(outside=outside, root=root)
    odd.id[0], odd.emotion[0], odd.speaker[0] = HOSTILE, HOSTILE, HOSTILE
    odd.id[20], odd.speaker[20] = SURROGATE, SURROGATE
    odd.valence[:10], odd.arousal[:10] = 3.0, 5.0
    odd.valence[21] = odd.arousal[2] = np.nan
    return odd
