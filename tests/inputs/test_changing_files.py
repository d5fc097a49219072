"""What is read of a file: only where it is one, only what it was when it was opened, and never all of a large one."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.corpora import read_corpus
from pipeline.extraction.audio import decoding as audio
from pipeline.extraction.audio.decoding import UnusableAudio, stamp_of
from pipeline.extraction.batching import AudioFile, read_speech
from pipeline.extraction.status import digest_of_path, sources_of
from tests.inputs.spoiled_audio import DECODING, clip, manifest_of, written

WHOLE = written("WAV", "PCM_16")


def test_a_clip_whose_file_has_another_size_or_time_than_planned_is_refused(tmp_path: Path) -> None:
    path, reader = tmp_path / "a.wav", partial(read_speech, DECODING)
    path.write_bytes(WHOLE)
    os.utime(path, ns=(1, 10**18))
    size, mtime = len(WHOLE), 10**18
    for same in [(size, mtime), (size, None), (None, None)]:
        read = reader(AudioFile(path, 8000, *same))
        assert np.array_equal(read.value, clip())
        assert (read.digest, read.reason) == (audio.digest_of(WHOLE), None)
    for other in [(size, mtime + 1), (size + 1, mtime), (size + 1, None)]:
        read = reader(AudioFile(path, 8000, *other))
        assert read.reason == "changed after it was planned: run it again"
        assert not any(read.digest)
        assert np.array_equal(read.value, np.zeros(8000))  # the batch keeps its shape


@pytest.mark.parametrize("data", [WHOLE, written("FLAC", "PCM_16"), b"no audio"], ids=["wav", "flac", "none"])
@pytest.mark.parametrize("how", ["grows", "is written anew", "is cut"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch, data: bytes, how: str) -> None:
    path, real = tmp_path / "a.wav", audio.missing_audio
    path.write_bytes(data)
    os.utime(path, ns=(1, 10**18))

    def changing(*given):
        with open(path, "r+b") as file:
            file.truncate(len(data) - 2) if how == "is cut" else file.seek(0, 2 if how == "grows" else 0)
            file.write(b"\0")
        return real(*given)

    monkeypatch.setattr(audio, "missing_audio", changing)
    with pytest.raises(UnusableAudio, match="changed while it was read: run it again") as refused:
        DECODING.load(path)
    assert not any(refused.value.digest)


def test_a_file_that_grows_for_ever_is_read_to_where_it_ended_when_it_was_opened(tmp_path: Path, monkeypatch) -> None:
    path, reads, read = tmp_path / "a.wav", [], os.read
    path.write_bytes(WHOLE)

    def growing(handle: int, count: int) -> bytes:
        with open(path, "ab") as file:
            file.write(bytes(count))
        reads.append(count)
        assert len(reads) < 20, "no end"
        return read(handle, count)

    monkeypatch.setattr(os, "read", growing)
    with pytest.raises(UnusableAudio, match="changed while it was read"):
        DECODING.load(path)
    assert len(reads) == 1


@pytest.mark.parametrize(
    "data", [WHOLE, written("FLAC", "PCM_16"), WHOLE[:999], b"no audio", written("OGG", "VORBIS")[:999]]
)
def test_a_large_file_read_in_pieces_is_the_clip_or_the_reason_of_one_read_at_once(
    tmp_path: Path, monkeypatch, data: bytes
) -> None:
    def found() -> object:
        try:
            clip = DECODING.load(tmp_path / "a.wav")
            return clip.wave.tolist(), clip.digest
        except UnusableAudio as error:
            return error.reason, error.digest

    (tmp_path / "a.wav").write_bytes(data)
    expected = found()
    monkeypatch.setattr(audio, "HASH_BYTES", 1000)
    assert found() == expected
    assert expected[1] == audio.digest_of(data) == digest_of_path(tmp_path / "a.wav")


def _special(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize("kind", ["pipe", "socket", "/dev/zero", "/dev/null", "/dev/tty", "/proc/self", "nowhere"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.wav"
    _special(kind, path)
    found: list[object] = []

    def look() -> None:
        found.extend([DECODING.samples(path), digest_of_path(path)])
        try:
            DECODING.load(path)
        except UnusableAudio as error:
            found.append(error.reason)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(10)
    assert found[:2] == [0, None]
    assert str(found[2]).startswith("cannot be read (")


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav", "n" * 256])
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    manifest = read_corpus(CorpusConfig(reader="manifest", manifest=_corpus_of_one(tmp_path)))
    manifest.audio[0] = name
    rows = sources_of(manifest, DECODING, tmp_path / "none.h5")
    assert rows.stamps.tolist() == [[-1, 0]]
    assert rows.lengths.tolist() == [0]
    assert digest_of_path(manifest.path(0)) is None
    with pytest.raises(UnusableAudio, match="cannot be read"):
        DECODING.load(manifest.path(0))


def _corpus_of_one(folder: Path) -> Path:
    (folder / "a.wav").write_bytes(WHOLE)
    return manifest_of(folder, ["a.wav"])


@pytest.mark.parametrize("nanoseconds", [-(10**18), 0, 2**62])
def test_any_time_of_a_file_is_a_stamp(tmp_path: Path, nanoseconds: int) -> None:
    manifest = read_corpus(CorpusConfig(reader="manifest", manifest=_corpus_of_one(tmp_path)))
    os.utime(tmp_path / "a.wav", ns=(0, nanoseconds))
    rows = sources_of(manifest, DECODING, tmp_path / "none.h5")
    assert rows.stamps.tolist() == [[len(WHOLE), os.stat(tmp_path / "a.wav").st_mtime_ns]]


def test_a_time_beyond_64_bits_is_the_last_that_fits() -> None:
    for sign in (-1, 1):
        found = os.stat_result((0, 0, 0, 0, 0, 0, 7, 0, sign * 10**10, 0), {"st_mtime_ns": sign * 10**19})
        assert np.array([stamp_of(found)], np.int64).tolist() == [[7, (1 << 63) - 1 if sign > 0 else -(1 << 63)]]


@pytest.mark.parametrize("name", ["two\nlines.wav", "a\ttab.wav", "a\0nul.wav", "\ud800.wav"])
def test_a_name_that_breaks_a_line_or_is_no_text_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    if name == "two\nlines.wav":
        (tmp_path / name).write_bytes(WHOLE)
    manifest = manifest_of(tmp_path, [name])
    with pytest.raises(ManyProblems, match=r"manifest\.jsonl:1: audio .*control character"):
        read_corpus(CorpusConfig(reader="manifest", manifest=manifest))


MEASURE = """
import resource, sys
from pathlib import Path
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.status import digest_of_path

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes

small, large = map(Path, sys.argv[1:])
for crop in ("start", "center"):
    Decoding(16_000, 10.0, crop).load(small)
before = peak()
for crop in ("start", "center"):
    decoding = Decoding(16_000, 10.0, crop)
    assert len(decoding.load(large).wave) == decoding.samples(large) == 160_000
digest_of_path(large)
print(peak() - before)
"""


def _sparse_wav(path: Path, rate: int, channels: int, width: int) -> None:
    """Two hours, of which only the parts that are kept take room on the disk."""
    frame, frames = channels * width, 2 * 3600 * rate
    size = frames * frame
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, 8 * width)
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form
    noise = np.random.default_rng(0).bytes(12 * rate * frame)
    with open(path, "wb") as file:
        file.write(head + b"data" + struct.pack("<I", size) + noise)
        file.seek(44 + (frames // 2 - 6 * rate) * frame)
        file.write(noise)
        file.truncate(44 + size)


@pytest.mark.parametrize(
    ("rate", "channels", "width"),
    [(16_000, 1, 2), pytest.param(96_000, 2, 3, marks=pytest.mark.exhaustive)],
    ids=["230 MB", "4 GB"],
)
def test_a_file_of_two_hours_takes_the_memory_of_what_is_kept(
    tmp_path: Path, rate: int, channels: int, width: int
) -> None:
    (tmp_path / "small.wav").write_bytes(WHOLE)
    _sparse_wav(tmp_path / "large.wav", rate, channels, width)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "small.wav"), str(tmp_path / "large.wav")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "large.wav").unlink()
    assert int(ended.stdout) < (30 << 10) * rate * channels // 16_000
