"""A WAV's length from its first bytes is libsndfile's, or is left to libsndfile."""

from __future__ import annotations

import io
import math
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.audio.plain_wav import samples16, wav_length

FRAMES, RATE = 1001, 22_050
PLAIN = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
]
EXTENSIBLE = [("WAVEX", subtype) for _, subtype in PLAIN]
OTHERS = [
    ("WAV", "ULAW"),
    ("WAV", "ALAW"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "GSM610"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
]
OTHERS += [("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS")]


def written(container: str, subtype: str, *, channels: int = 1, endian: str | None = None) -> bytes:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (FRAMES, channels))
    file = io.BytesIO()
    rate = 8000 if subtype == "GSM610" else RATE
    soundfile.write(file, noise, rate, format=container, subtype=subtype, endian=endian)
    return file.getvalue()


def lengths(path: Path) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """What is read here, and what libsndfile finds."""
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError:
        return wav_length(str(path)), None
    return wav_length(str(path)), (info.frames, info.samplerate)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("container", "subtype"), PLAIN + EXTENSIBLE)
def test_plain_samples_have_the_length_that_libsndfile_finds(
    tmp_path: Path, container: str, subtype: str, channels: int
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(written(container, subtype, channels=channels))
    assert lengths(path) == ((FRAMES, RATE), (FRAMES, RATE))


@pytest.mark.parametrize(("container", "subtype"), OTHERS)
def test_other_formats_are_left_to_libsndfile(tmp_path: Path, container: str, subtype: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(written(container, subtype))
    assert wav_length(str(path)) is None


def test_big_endian_is_left_to_libsndfile(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(written("WAV", "PCM_16", endian="BIG"))
    assert path.read_bytes()[:4] == b"RIFX"
    assert wav_length(str(path)) is None


def with_chunks(data: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """`data` with chunks around its audio, and a RIFF size that counts them."""
    start = data.index(b"data")
    whole = data[12:start] + before + data[start:] + after
    return b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"WAVE" + whole


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


@pytest.mark.parametrize("content", [b"INFOISFT" + struct.pack("<I", 4) + b"abc\0", b"odd"])
@pytest.mark.parametrize("name", [b"LIST", b"JUNK", b"fact"])
def test_chunks_of_any_size_before_the_audio_are_passed_over(tmp_path: Path, name: bytes, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(with_chunks(written("WAV", "PCM_16"), before=chunk(name, content)))
    found, expected = lengths(path)
    assert found == (FRAMES, RATE)
    assert expected in (found, None)


def patched(data: bytes, place: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


PCM = written("WAV", "PCM_16")
DATA = PCM.index(b"data")
NOT_PLAIN = {
    "empty": b"",
    "a header and nothing else": PCM[:44],
    "cut off": PCM[: len(PCM) // 2],
    "cut off in its header": PCM[:30],
    "bytes after the end": PCM + b"more",
    "a chunk after the audio": with_chunks(PCM, after=chunk(b"LIST", b"INFO")),
    "a chunk nobody knows": with_chunks(PCM, before=chunk(b"what", b"1234")),
    "two formats": with_chunks(PCM, before=PCM[12:36]),
    "a long chunk before the audio": with_chunks(PCM, before=chunk(b"JUNK", bytes(5000))),
    "streamed": patched(patched(PCM, 4, "<I", 0xFFFFFFFF), DATA + 4, "<I", 0xFFFFFFFF),
    "no size of the audio": patched(PCM, DATA + 4, "<I", 0),
    "another size of the file": patched(PCM, 4, "<I", 100),
    "a frame of another size": patched(PCM, 32, "<H", 3),
    "12 bits": patched(PCM, 34, "<H", 12),
    "no channel": patched(PCM, 22, "<H", 0),
    "no rate": patched(PCM, 24, "<I", 0),
    "another GUID": written("WAVEX", "PCM_16").replace(bytes.fromhex("00389b71"), b"abcd"),
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_whatever_is_not_plain_and_whole_is_left_to_libsndfile(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(NOT_PLAIN[case])
    assert wav_length(str(path)) is None


def test_what_cannot_be_opened_is_left_to_libsndfile(tmp_path: Path) -> None:
    assert wav_length(str(tmp_path)) is None
    assert wav_length(str(tmp_path / "nothing.wav")) is None
    assert wav_length("a\0b.wav") is None


@pytest.mark.parametrize("place", range(44))
def test_a_changed_byte_of_the_header_never_gives_another_length_than_libsndfiles(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.wav"
    for bit in range(8):
        path.write_bytes(patched(PCM, place, "B", PCM[place] ^ 1 << bit))
        found, expected = lengths(path)
        assert found in (expected, None)


@pytest.mark.parametrize("case", ["whole", "cut off", "long"])
def test_samples_are_those_of_the_decoding(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(PCM[: len(PCM) // 2] if case == "cut off" else PCM)
    decoding = Decoding(16_000, 0.01 if case == "long" else 10.0, "start")
    info = soundfile.info(str(path))
    most = 160 if case == "long" else 160_000
    assert decoding.samples(path) == min(math.ceil(Fraction(info.frames * 16_000, info.samplerate)), most) > 0


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_sixteen_bit_samples_are_libsndfiles_to_the_bit(tmp_path: Path, container: str, channels: int) -> None:
    data = written(container, "PCM_16", channels=channels)
    values, rate = samples16(data)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert rate == RATE
    assert np.array_equal(values, expected)
    (tmp_path / "a.wav").write_bytes(data)
    as_floats, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    decoded = Decoding(RATE, 10.0, "start").load(tmp_path / "a.wav").wave
    assert np.array_equal(decoded, as_floats.mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize(("container", "subtype"), [kind for kind in PLAIN + OTHERS if kind != ("WAV", "PCM_16")])
def test_samples_of_another_kind_are_left_to_libsndfile(container: str, subtype: str) -> None:
    assert samples16(written(container, subtype)) is None


@pytest.mark.parametrize("crop", ["start", "center"])
def test_a_crop_of_sixteen_bit_samples_is_that_of_the_same_samples_as_flac(tmp_path: Path, crop: str) -> None:
    noise = np.random.default_rng(1).integers(-20_000, 20_000, (30_001, 2), dtype=np.int16)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, noise, RATE, subtype="PCM_16")
    for rate in (RATE, 16_000):
        wav, flac = (Decoding(rate, 0.7, crop).load(tmp_path / name).wave for name in ("a.wav", "a.flac"))
        assert np.array_equal(wav, flac)


@pytest.mark.parametrize("place", range(44))
def test_a_changed_byte_of_the_header_never_gives_other_samples_than_libsndfiles(place: int) -> None:
    data = bytearray(written("WAV", "PCM_16"))
    for bit in range(8):
        data[place] ^= 1 << bit
        found = samples16(bytes(data))
        if found is not None:
            expected, rate = soundfile.read(io.BytesIO(bytes(data)), dtype="int16", always_2d=True)
            assert found[1] == rate
            assert np.array_equal(found[0], expected)
        data[place] ^= 1 << bit
