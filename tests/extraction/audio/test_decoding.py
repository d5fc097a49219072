"""Decoding gives the same clip whatever the container, or says why there is none."""

from __future__ import annotations

import struct
import wave as wav
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.extraction.audio.decoding import Decoding, UnusableAudio
from tests.inputs.spoiled_audio import check, chunk, patched, riff, written
from tests.speech import RATE, tone

DECODING = Decoding(sample_rate=RATE, max_seconds=10.0, crop="start")


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.flac", "PCM_16")]
)
def test_lossless_files_decode_to_what_was_written(tmp_path: Path, name: str, subtype: str) -> None:
    wave = tone(1.0)
    soundfile.write(tmp_path / name, wave, RATE, subtype=subtype)
    clip = DECODING.load(tmp_path / name)
    assert clip.wave.dtype == np.float32
    assert np.abs(clip.wave - wave).max() < 1e-4
    assert DECODING.samples(tmp_path / name) == len(clip.wave) == RATE


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
def test_lossy_files_decode_close_to_what_was_written(tmp_path: Path, name: str) -> None:
    wave = tone(1.0)
    soundfile.write(tmp_path / name, wave, RATE)
    found = DECODING.load(tmp_path / name).wave
    assert abs(len(found) - len(wave)) <= 2400
    spectra = [np.abs(np.fft.rfft(w[:15000])) for w in (wave, found)]
    assert np.corrcoef(*spectra)[0, 1] > 0.95


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.aiff"])
def test_clips_are_the_same_where_there_is_no_pread(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / name, tone(0.5), RATE)
    expected = DECODING.load(tmp_path / name)
    monkeypatch.delattr("os.pread")
    found = DECODING.load(tmp_path / name)
    assert np.array_equal(found.wave, expected.wave)
    assert found.digest == expected.digest
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3000])
    with pytest.raises(UnusableAudio, match=r"truncated|cannot be decoded"):
        DECODING.load(tmp_path / name)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate=rate), rate)
    found = DECODING.load(tmp_path / "a.wav").wave
    assert abs(len(found) - RATE) <= 1
    peak = np.abs(np.fft.rfft(found)).argmax() * RATE / len(found)
    assert abs(peak - 150) < 2  # the pitch survives


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.5), tone(0.5, pitch=220)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    assert np.allclose(DECODING.load(tmp_path / "a.wav").wave, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(("crop", "start"), [("start", 0), ("center", RATE)])
def test_the_crop_is_deterministic(tmp_path: Path, crop: str, start: int) -> None:
    wave = tone(3.0)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    decoding = Decoding(RATE, 1.0, crop)
    assert np.array_equal(decoding.load(tmp_path / "a.wav").wave, wave[start : start + RATE])
    assert decoding.samples(tmp_path / "a.wav") == RATE


def test_a_crop_of_resampled_audio_is_a_part_of_the_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(3.0, rate=44100), 44100, subtype="FLOAT")
    whole = DECODING.load(tmp_path / "a.wav").wave
    part = Decoding(RATE, 1.0, "start").load(tmp_path / "a.wav").wave
    assert np.allclose(part, whole[:RATE], atol=1e-6)


def test_a_name_with_spaces_and_emoji_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a name 😀 ü.wav"
    soundfile.write(path, tone(0.2), RATE)
    assert len(DECODING.load(path).wave) == DECODING.samples(path) == 3200


def _header_only(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), RATE)


def _half(path: Path) -> None:
    soundfile.write(path, tone(1.0), RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _half_flac(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).standard_normal(RATE) * 0.1, RATE, format="FLAC")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _silence(path: Path) -> None:
    soundfile.write(path, np.zeros(RATE), RATE)


def _infinite(path: Path) -> None:
    soundfile.write(path, np.array([0.1, np.inf, 0.2]), RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"no audio at all" * 99), "cannot be decoded"),
        (lambda path: path.write_bytes(b"RIFF\x00\x00\x00\x00WAVE"), "cannot be decoded"),
        (_header_only, "0 frames"),
        (_half, "truncated: "),
        (_half_flac, "(truncated|cannot be decoded)"),
        (_silence, "silent"),
        (_infinite, "1 samples are not finite"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_an_unusable_file_says_why(tmp_path: Path, spoil, reason: str) -> None:
    path = tmp_path / "a.wav"
    spoil(path)
    with pytest.raises(UnusableAudio, match=reason):
        DECODING.load(path)
    assert DECODING.samples(path) >= 0


def test_a_wav_written_to_a_pipe_has_no_promised_size(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), RATE)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(DECODING.load(path).wave) == RATE // 2


@pytest.mark.parametrize("loud", [1e-30, 1e-22, 1e22, 1e30])
def test_a_clip_so_quiet_or_so_loud_that_its_energy_is_no_number_still_decodes(tmp_path: Path, loud: float) -> None:
    wave = (loud * tone(0.1)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    assert np.array_equal(DECODING.load(tmp_path / "a.wav").wave, wave)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sixteen_bit_samples_are_those_of_the_file_to_the_bit(tmp_path: Path, channels: int) -> None:
    noise = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (1001, channels), dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="PCM_16")
    with wav.open(str(tmp_path / "a.wav")) as file:
        samples = np.frombuffer(file.readframes(1001), "<i2").reshape(-1, channels)
    expected = (samples.astype(np.float32) / 32768).mean(axis=1, dtype=np.float32)
    assert np.array_equal(DECODING.load(tmp_path / "a.wav").wave, expected)


@pytest.mark.parametrize("crop", ["start", "center"])
def test_a_crop_of_a_wav_is_that_of_the_same_samples_as_flac(tmp_path: Path, crop: str) -> None:
    noise = np.random.default_rng(1).integers(-20_000, 20_000, (30_001, 2), dtype=np.int16)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, noise, 22_050, subtype="PCM_16")
    for rate in (22_050, RATE):
        decoded, flac = (Decoding(rate, 0.7, crop).load(tmp_path / name).wave for name in ("a.wav", "a.flac"))
        assert np.array_equal(decoded, flac)


@pytest.mark.parametrize("place", range(44))
def test_a_changed_byte_of_a_wav_header_gives_a_clip_of_the_planned_length_or_a_reason(
    tmp_path: Path, place: int
) -> None:
    whole = written("WAV", "PCM_16")
    for bit in range(8):
        (tmp_path / "a.wav").write_bytes(patched(whole, place, "B", whole[place] ^ 1 << bit))
        check(tmp_path / "a.wav")


WHOLE = written("WAV", "PCM_16")
FORMAT, DATA = WHOLE[12:36], WHOLE[36:]
UNUSUAL = {
    "cut off in its header": (WHOLE[:30], "refused"),
    "bytes after the end": (WHOLE + b"more", "decoded"),
    "a chunk after the audio": (riff(FORMAT, DATA, chunk(b"LIST", b"INFO")), "decoded"),
    "a chunk of odd size before the audio": (riff(FORMAT, chunk(b"JUNK", b"odd"), DATA), "decoded"),
    "a long chunk before the audio": (riff(FORMAT, chunk(b"JUNK", bytes(5000)), DATA), "decoded"),
    "streamed": (patched(patched(WHOLE, 4, "<I", 0xFFFFFFFF), 40, "<I", 0xFFFFFFFF), "decoded"),
    "another size of the file": (patched(WHOLE, 4, "<I", 100), "decoded"),
    "a 64-bit size, cut": (written("RF64", "PCM_16")[:-100], "refused"),
    "a size beyond the file": (patched(WHOLE, 40, "<I", struct.unpack_from("<I", WHOLE, 40)[0] + 2), "refused"),
    "no channel": (patched(WHOLE, 22, "<H", 0), "refused"),
    "no rate": (patched(WHOLE, 24, "<I", 0), "refused"),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_wav_is_decoded_whole_or_refused(tmp_path: Path, case: str) -> None:
    data, expected = UNUSUAL[case]
    (tmp_path / "a.wav").write_bytes(data)
    assert check(tmp_path / "a.wav") == expected
