"""What is played: the decoded recording of a row that is searched, and nothing else on the disk."""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
import wave
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.inference.web.audio_clips import ClipError, Clips
from tests.inference.web.conftest import FAILED, SECRET, UNPLAYABLE, Site


def _read(body: bytes) -> tuple[np.ndarray, int]:
    """Samples and rate, by Python's own reader."""
    with wave.open(io.BytesIO(body)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


@pytest.mark.parametrize("row", [0, 7, 22])
def test_a_16_bit_file_is_played_sample_by_sample(row: int, site: Site, corpus: Path) -> None:
    answer = site.get(f"/audio/{row}")
    assert (answer.status, answer.headers["content-type"]) == (200, "audio/wav")
    samples, rate = _read(answer.body)
    expected, its_rate = soundfile.read(corpus.parent / f"audio/u{row:02}.wav", dtype="int16")
    assert rate == its_rate
    assert np.array_equal(samples, expected)


def test_stereo_is_played_as_the_mean_at_its_own_rate(odd: Site) -> None:
    samples, rate = _read(odd.get("/audio/12").body)
    stereo, _ = soundfile.read(odd.page.clips.root / "audio/stereo.flac", dtype="float64")
    assert rate == 44_100
    assert np.abs(samples / 32768 - stereo.mean(1)).max() <= 0.51 / 32768


@pytest.fixture
def swappable(site: Site, tmp_path: Path) -> tuple[Clips, Path]:
    """The clips, in a folder of their own; and the file of row 0."""
    shutil.copytree(site.page.clips.root, tmp_path / "root")
    return replace(site.page.clips, root=tmp_path / "root"), tmp_path / "root" / site.page.clips.manifest.audio[0]


def test_a_link_that_takes_a_files_place_after_the_check_shows_nothing_of_its_target(
    swappable: tuple[Clips, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, file = swappable
    soundfile.write(tmp_path / "private.wav", np.full(8000, 0.25), 8000)
    checked = Clips._path

    def swapped(self: Clips, audio: str) -> Path:
        path = checked(self, audio)
        path.unlink()
        path.symlink_to(target)
        return path

    monkeypatch.setattr(Clips, "_path", swapped)
    for target in (tmp_path / "private.wav", "/etc/passwd"):
        with pytest.raises(ClipError, match=r"u00: not the file that was encoded; run extract-features again$"):
            clips.wav(0)
        file.unlink()
        file.touch()  # the check is of a file again


def test_a_file_that_is_swapped_for_a_link_all_the_time_is_played_as_it_was_or_not_at_all(
    swappable: tuple[Clips, Path], tmp_path: Path
) -> None:
    clips, file = swappable
    whole, ended = clips.wav(0), threading.Event()
    soundfile.write(tmp_path / "private.wav", np.linspace(-1, 1, 8000), _read(whole)[1])
    good, link = file.with_name("good"), file.with_name("link")

    def swap() -> None:
        content = file.read_bytes()
        while not ended.is_set():
            good.write_bytes(content)
            link.unlink(missing_ok=True)
            link.symlink_to(tmp_path / "private.wav")
            link.replace(file)
            good.replace(file)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(200):
            with suppress(ClipError):
                assert clips.wav(0) == whole
    finally:
        ended.set()
        swapper.join()


def test_ten_minutes_are_played_at_most(odd: Site) -> None:
    samples, rate = _read(odd.get("/audio/13").body)
    assert (len(samples), rate) == (60_000, 100)
    whole, _ = soundfile.read(odd.page.clips.root / "audio/long.wav", dtype="int16")
    assert np.array_equal(samples, whole[:60_000])


def test_a_high_rate_is_played_for_as_long_as_fits(odd: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.web.audio_clips.MAX_FRAMES", 1000)
    samples, rate = _read(odd.page.clips.wav(12))
    assert (len(samples), rate) == (1000, 44_100)


def test_loud_floats_are_clipped_and_not_wrapped(odd: Site, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.array([0.5, 1.5, -1.5, 1.0, -1.0, 0.25]), 8000, subtype="FLOAT")
    manifest = odd.page.index.manifest.take(np.arange(1))
    manifest.audio[0] = "loud.wav"
    clips = replace(odd.page.clips, manifest=manifest, rows=np.array([0]), root=tmp_path)
    clips = _as_if_encoded(clips, tmp_path / "loud.wav")
    assert _read(clips.wav(0))[0].tolist() == [16384, 32767, -32768, 32767, -32768, 8192]


@pytest.mark.parametrize("row", [15, 16, 19])
def test_links_and_paths_that_stay_inside_are_played(row: int, odd: Site, site: Site) -> None:
    assert odd.get(f"/audio/{row}").body == site.get("/audio/0").body


@pytest.mark.parametrize("row", sorted(UNPLAYABLE))
def test_what_cannot_be_played_is_one_line_that_names_no_other_path(row: int, odd: Site) -> None:
    answer = odd.get(f"/audio/{row}")
    assert answer.status == 404
    line = answer.json["error"]
    assert line.startswith(f"{odd.page.index.manifest.id[row]}: {UNPLAYABLE[row]}")
    assert line.isprintable()
    assert str(odd.page.clips.root.parent) not in line
    assert SECRET not in answer.body


@pytest.mark.parametrize(
    "row",
    [str(FAILED), "24", "99999999999", 40 * "9", 5000 * "9", "-1", "+1", "01", "1.0", "0x1", "%D9%A3", "1%00", ""],
)
def test_a_row_that_is_not_searched_is_not_played(row: str, odd: Site) -> None:
    answer = odd.get(f"/audio/{row}")
    assert answer.status == 404
    assert answer.json["error"] in (f"row {row}: not among the utterances searched", "nothing is here")


def _as_if_encoded(clips: Clips, file: Path) -> Clips:
    """`clips`, had every row been encoded from `file`."""
    digest = np.frombuffer(hashlib.blake2b(file.read_bytes(), digest_size=16).digest(), np.uint8)
    return replace(clips, digests=np.broadcast_to(digest, clips.digests.shape))


@pytest.mark.parametrize("row", [1, 2, 18])
def test_stores_that_may_lead_outside_are_played_from_outside(row: int, odd: Site) -> None:
    """corpus.outside_root of the stores' config."""
    file = odd.page.clips.root.parent / "secret.wav"
    clips = replace(_as_if_encoded(odd.page.clips, file), outside_root=True)
    assert np.array_equal(_read(clips.wav(row))[0], soundfile.read(file, dtype="int16")[0])
    for device in (4, 10, 14):
        with pytest.raises(ClipError):
            clips.wav(device)


@pytest.mark.parametrize("row", [3, 11])
def test_a_corpus_whose_folders_are_links_is_played(row: int, odd: Site) -> None:
    """Extraction follows them: Audios/ often lies on another disk."""
    file = odd.page.clips.root.parent / "secret.wav"
    clips = _as_if_encoded(odd.page.clips, file)
    assert np.array_equal(_read(clips.wav(row))[0], soundfile.read(file, dtype="int16")[0])


@pytest.mark.parametrize("byte", [0, 15])
def test_a_file_that_is_not_the_one_that_was_encoded_is_not_played(byte: int, odd: Site) -> None:
    clips = odd.page.clips
    digests = clips.digests.copy()
    digests[16, byte] ^= 1
    assert clips.wav(16)
    with pytest.raises(ClipError, match="not the file that was encoded; run extract-features again"):
        replace(clips, digests=digests).wav(16)


def test_a_root_that_is_itself_a_link_is_the_root(odd: Site, site: Site, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(odd.page.clips.root)
    assert replace(odd.page.clips, root=tmp_path / "link").wav(16) == site.get("/audio/0").body


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-", slice(0, None)),
        ("bytes=0-0", slice(0, 1)),
        ("bytes=100-199", slice(100, 200)),
        ("bytes=44-99999999", slice(44, None)),
        ("bytes=-10", slice(-10, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
def test_a_range_is_that_part_of_the_whole(asked: str, part: slice, site: Site) -> None:
    whole = site.get("/audio/3")
    assert whole.headers["accept-ranges"] == "bytes"
    answer = site.get("/audio/3", {"Range": asked})
    assert answer.status == 206
    assert answer.body == whole.body[part]
    start = range(len(whole.body))[part][0]
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(whole.body)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_beyond_the_end_is_said_to_be_none(asked: str, site: Site) -> None:
    size = len(site.get("/audio/3").body)
    answer = site.get("/audio/3", {"Range": asked})
    assert (answer.status, answer.body, answer.headers["content-range"]) == (416, b"", f"bytes */{size}")


@pytest.mark.parametrize("asked", ["bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,4-5", "lines=0-1", "bytes=a-b", "x"])
def test_what_is_no_single_range_gets_the_whole(asked: str, site: Site) -> None:
    answer = site.get("/audio/3", {"Range": asked})
    assert (answer.status, answer.body) == (200, site.get("/audio/3").body)


def test_head_is_the_headers_alone(site: Site) -> None:
    whole, head = site.get("/audio/3"), site.get("/audio/3", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.body))
