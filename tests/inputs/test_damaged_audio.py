"""A damaged file gives a sound clip of its planned length or one line why not: never another error, never a wait."""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extraction.audio import decoding as audio
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio
from tests.inputs.spoiled_audio import (
    BROKEN,
    CANNOT_TELL,
    CONTAINERS,
    DECODING,
    DECODINGS,
    SOUND,
    WHATS,
    check,
    chunk,
    clip,
    damaged,
    float_wav,
    written,
)
from tests.speech import RATE

PART = st.floats(0, 1, exclude_max=True)
EDITS = st.lists(st.tuples(st.sampled_from(WHATS), PART, PART, st.integers(0, 2**32 - 1)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "file"


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(CONTAINERS), edits=EDITS, decoding=st.sampled_from(DECODINGS))
def test_a_damaged_file_decodes_to_its_planned_length_or_says_why_not(path, kind, edits, decoding) -> None:
    path.write_bytes(damaged(written(*kind), edits))
    check(path, decoding)


def _many(bounds: tuple[int, int]) -> tuple[int, int]:
    program = [sys.executable, "-m", "tests.inputs.spoiled_audio", *map(str, bounds)]
    ended = subprocess.run(program, capture_output=True, text=True, errors="replace", check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    decoded, refused = map(int, ended.stdout.split())
    return decoded, refused


@pytest.mark.exhaustive
def test_none_of_forty_thousand_damaged_files_hangs_or_crashes_the_decoder() -> None:
    with ThreadPoolExecutor(2) as pool:
        counts = np.array(list(pool.map(_many, [(start, start + 10_000) for start in range(0, 40_000, 10_000)])))
    decoded, refused = counts.sum(axis=0)
    assert decoded + refused == 40_000
    assert min(decoded, refused) > 4_000  # both ends are reached


@pytest.mark.parametrize("part", [0.03, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", CONTAINERS, ids="-".join)
def test_a_file_cut_off_is_refused_in_every_container(path: Path, kind: tuple[str, str], part: float) -> None:
    whole = written(*kind)
    path.write_bytes(whole)
    assert check(path) == "decoded"
    path.write_bytes(whole[: min(len(whole) - 2, int(part * len(whole)))])  # the last byte may be padding
    with pytest.raises(UnusableAudio, match=r"truncated: .+|cannot be decoded"):
        DECODING.load(path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", CONTAINERS, ids="-".join)
def test_a_file_cut_off_anywhere_is_refused(path: Path, kind: tuple[str, str]) -> None:
    whole = written(*kind)
    for stop in range(0, len(whole) - 1, 1 + len(whole) // 1500):
        path.write_bytes(whole[:stop])
        with pytest.raises(UnusableAudio):
            DECODING.load(path)


def _before_audio(kind: str) -> bytes:
    """The clip with chunks before it, of odd sizes or none."""
    if kind == "WAV":
        return written("WAV", "PCM_16")[:36] + chunk(b"JUNK", b"odd") + written("WAV", "PCM_16")[36:]
    whole = written("W64", "PCM_16")
    place = whole.index(b"data")
    junk, empty = (b"junk" + whole[place + 4 : place + 16] + struct.pack("<Q", size) for size in (25, 24))
    return whole[:place] + empty + junk + bytes(8) + whole[place:]


@pytest.mark.parametrize("kind", ["WAV", "W64"])
def test_a_cut_is_told_behind_chunks_of_any_size(path: Path, kind: str) -> None:
    path.write_bytes(_before_audio(kind))
    assert check(path) == "decoded"
    path.write_bytes(_before_audio(kind)[:-100])
    with pytest.raises(UnusableAudio, match="truncated: 15900 of 16000 bytes of audio"):
        DECODING.load(path)


def test_an_ogg_cut_between_two_pages_is_refused(path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * RATE)
    soundfile.write(path, noise, RATE, format="OGG", subtype="VORBIS")
    whole = path.read_bytes()
    for page in (place for place in range(len(whole)) if whole.startswith(b"OggS", place)):
        path.write_bytes(whole[:page])
        reason = "truncated: the OGG stream has no last page" if page else "an empty file"
        with pytest.raises(UnusableAudio, match=reason):
            DECODING.load(path)


@pytest.mark.parametrize("kind", ["AIFF-PCM_16", "FLAC-PCM_16", "OGG-VORBIS", "MP3-MPEG_LAYER_III"])
def test_a_clip_read_in_pieces_is_the_clip_read_at_once(path: Path, monkeypatch, kind: str) -> None:
    path.write_bytes(written(*kind.split("-"), channels=2))
    expected = DECODING.load(path).wave
    monkeypatch.setattr(audio, "READ_VALUES", 1000)
    assert np.allclose(DECODING.load(path).wave, expected, rtol=0, atol=1e-6)  # after a seek MP3 rounds otherwise


def test_a_clip_that_ends_as_it_begins_is_not_silent(path: Path) -> None:
    path.write_bytes(float_wav(np.r_[clip(), clip()[0]]))
    assert check(path) == "decoded"


@pytest.mark.parametrize("kind", CANNOT_TELL, ids="-".join)
def test_of_the_containers_that_cannot_tell_a_cut_the_rest_decodes(path: Path, kind: tuple[str, str]) -> None:
    whole = written(*kind)
    path.write_bytes(whole[: len(whole) // 2])
    assert check(path) == "decoded"  # docs/corpora.md says so; should a format learn to tell, it may be refused


def test_letters_of_a_page_inside_the_last_page_of_an_ogg_are_no_page(path: Path) -> None:
    whole = written("OGG", "VORBIS")
    place = whole.rindex(b"OggS") + 60
    path.write_bytes(whole[:place] + b"OggS\x01" + whole[place + 5 :])
    assert check(path) in ("decoded", "refused")
    with pytest.raises(UnusableAudio) as refused:
        DECODING.load(path)
    assert "OGG stream" not in refused.value.reason  # the checksum of its page, not a page that is missing


@pytest.mark.parametrize("case", SOUND)
def test_what_lies_around_the_audio_of_a_wav_does_not_matter(path: Path, case: str) -> None:
    path.write_bytes(SOUND[case])
    assert check(path) == "decoded"
    assert np.array_equal(DECODING.load(path).wave, clip())


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_wav_is_refused(path: Path, case: str) -> None:
    path.write_bytes(BROKEN[case])
    assert check(path) == "refused"


@pytest.mark.parametrize("rate", [16_001, 11_127, 47_951, 1_048_573])
def test_rates_without_a_common_divisor_take_no_more_memory_than_others(path: Path, rate: int) -> None:
    import resource

    path.write_bytes(float_wav(np.resize(clip(), rate // 2), rate=rate))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert check(path) == "decoded"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kilobytes; it was 4 GB


@pytest.mark.parametrize(("rate", "new_rate"), [(441, 160), (997, 1009), (1009, 997), (50, 999), (999, 50)])
def test_samples_made_one_by_one_are_those_by_phase(rate: int, new_rate: int) -> None:
    import torch

    from pipeline.extraction.audio.resampling import by_phase, resample_by_sample

    wave = np.random.default_rng(0).standard_normal(3001).astype(np.float32)
    exact = torch.tensor(wave, dtype=torch.float64)  # in float32 the filters are 1e-4 off
    expected = by_phase(exact, rate, new_rate).numpy()  # torchaudio's bits: test_resampling.py
    found = resample_by_sample(wave, rate, new_rate)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("rate", [7_999, 11_025, 16_001, 22_050, 44_100, 96_000])
@pytest.mark.parametrize("crop", ["start", "center"])
def test_the_planned_length_is_the_clips_to_the_sample_at_every_rate(path: Path, rate: int, crop: str) -> None:
    for frames in (1, 2, 1001, rate // 3):
        path.write_bytes(float_wav(np.resize(clip()[100:], frames), rate=rate))
        for seconds in (10.0, 0.1):
            decoding = Decoding(RATE, seconds, crop)
            assert len(decoding.load(path).wave) == decoding.samples(path)
