"""Audio that libsndfile does not read, by PyAV; and which of several channels is heard."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.core.config import CorpusConfig, ExtractConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from pipeline.data.corpora.make_manifest import make_manifest
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio
from pipeline.extraction.extract import extract
from pipeline.inference.web.audio_clips import _rate
from tests.faults.small import quick_encoders
from tests.speech import QUICK, RATE, tone

DECODING = Decoding(RATE, 10.0, "start")
FORMATS = {"a.m4a": ("mp4", "aac"), "a.aac": ("adts", "aac"), "a.webm": ("webm", "libopus")}


def write(path: Path, wave: np.ndarray, rate: int = 48_000, *, kind: str = "mp4", codec: str = "aac") -> None:
    """(frames, channels) in a container of FFmpeg."""
    av = pytest.importorskip("av")
    layout = "mono" if wave.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.webm"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_ffmpeg_decodes_is_close_to_what_was_written(name: str, channels: int, tmp_path: Path) -> None:
    wave = tone(1.5, rate=48_000)
    kind, codec = FORMATS[name]
    write(tmp_path / name, np.repeat(wave[:, None], channels, 1), kind=kind, codec=codec)
    found, expected = DECODING.load(tmp_path / name).wave, tone(1.5)
    assert abs(len(found) - len(expected)) <= 2400
    assert abs(DECODING.samples(tmp_path / name) - len(found)) <= 2400
    spectra = [np.abs(np.fft.rfft(each[:20_000])) for each in (expected, found)]
    assert np.corrcoef(*spectra)[0, 1] > 0.95
    assert np.abs(found).max() == pytest.approx(np.abs(expected).max(), rel=0.2)
    assert _rate(tmp_path / name) == 48_000


def test_the_crop_is_that_of_a_wav(tmp_path: Path) -> None:
    """The pitch rises in three steps, a second each."""
    wave = np.concatenate([tone(1.0, pitch=pitch, rate=48_000) for pitch in (110, 220, 440)])
    write(tmp_path / "a.m4a", wave[:, None])
    for crop, pitch in (("start", 110), ("center", 220)):
        found = Decoding(RATE, 0.8, crop).load(tmp_path / "a.m4a").wave
        assert len(found) == round(0.8 * RATE)
        assert abs(np.abs(np.fft.rfft(found)).argmax() / 0.8 - pitch) < 5


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    write(tmp_path / "a.m4a", tone(2.0, rate=48_000)[:, None])
    raw = (tmp_path / "a.m4a").read_bytes()
    for name, content in {
        "cut.m4a": raw[: len(raw) // 2],
        "head.m4a": raw[:12],
        "x.webm": b"\x1a\x45\xdf\xa3" * 99,
    }.items():
        (tmp_path / name).write_bytes(content)
        assert DECODING.samples(tmp_path / name) == 0
        with pytest.raises(UnusableAudio, match="cannot be decoded"):
            DECODING.load(tmp_path / name)


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, head in {
        "a.m4a": b"\0\0\0\x20ftypM4A ",
        "a.aac": b"\xff\xf1\x50\x80",
        "a.webm": b"\x1a\x45\xdf\xa3",
    }.items():
        (tmp_path / name).write_bytes(head + bytes(500))
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(UnusableAudio, match=r"needs PyAV: pip install 'emotionrankclap\[av\]'"):
            DECODING.load(tmp_path / name)


def test_a_folder_of_m4a_becomes_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_encoders(monkeypatch)
    (tmp_path / "c").mkdir()
    for number in range(6):
        write(tmp_path / f"c/{number}.m4a", tone(0.5, pitch=100 + 20 * number, rate=48_000)[:, None])
    (tmp_path / "l.csv").write_text(
        "file,emotion,valence,arousal,speaker\n"
        + "".join(f"{number}.m4a,happy,{1 + number},{6.5 - number},s{number}\n" for number in range(6))
    )
    make_manifest(tmp_path / "c", labels=tmp_path / "l.csv")
    found = extract(tmp_path / "c/manifest.csv", out=tmp_path / "stores", overrides=QUICK)
    assert found["audio"]["done"] == 6


# channels


def stereo(path: Path, *channels: np.ndarray) -> Path:
    soundfile.write(path, np.stack(channels, 1), RATE, subtype="FLOAT")
    return path


@pytest.mark.parametrize("gain", [-1.0, -0.999])
def test_channels_that_cancel_are_said_to_and_one_of_them_can_be_heard(gain: float, tmp_path: Path) -> None:
    wave = tone(0.5)
    path = stereo(tmp_path / "a.wav", wave, np.float32(gain) * wave)
    with pytest.raises(UnusableAudio, match=r"channels cancel: .*; -o corpus\.channel=left"):
        DECODING.load(path)
    for channel, expected in {"left": wave, 1: wave, "right": gain * wave, 2: gain * wave}.items():
        assert np.allclose(Decoding(RATE, 10.0, "start", channel).load(path).wave, expected)


def test_channels_cancel_in_16_bits_and_in_four_channels_too(tmp_path: Path) -> None:
    wave = tone(0.5)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], 1), RATE, subtype="PCM_16")
    for path in (tmp_path / "a.wav", stereo(tmp_path / "b.wav", wave, -wave, wave, -wave)):
        with pytest.raises(UnusableAudio, match="channels cancel"):
            DECODING.load(path)


def test_channels_that_differ_or_are_silent_do_not_cancel(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    noise = [draw.normal(0, 0.1, RATE).astype(np.float32) for _ in range(16)]
    assert np.allclose(DECODING.load(stereo(tmp_path / "a.wav", *noise)).wave, np.mean(noise, 0), atol=1e-6)
    assert np.allclose(DECODING.load(stereo(tmp_path / "b.wav", noise[0], 0 * noise[0])).wave, noise[0] / 2, atol=1e-6)
    with pytest.raises(UnusableAudio, match="silent"):
        DECODING.load(stereo(tmp_path / "c.wav", 0 * noise[0], 0 * noise[0]))


def test_a_channel_that_is_not_there_fails_the_file(tmp_path: Path) -> None:
    path = stereo(tmp_path / "a.wav", tone(0.5))
    assert np.array_equal(Decoding(RATE, 10.0, "start", "left").load(path).wave, DECODING.load(path).wave)
    for channel in ("right", 2, 9):
        with pytest.raises(UnusableAudio, match=rf"1 channels: corpus\.channel={channel} is not among them"):
            Decoding(RATE, 10.0, "start", channel).load(path)


def test_the_channel_is_a_setting_and_in_the_fingerprint_where_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DECODING.fingerprint() == {"sample_rate": RATE, "max_seconds": 10.0, "crop": "start"}
    assert Decoding(RATE, 10.0, "start", "left").fingerprint()["channel"] == "left"
    for channel in ("mean", "left", "right", 3):
        assert CorpusConfig(channel=channel).channel == channel
    for wrong in ("middle", "0", "-1"):
        with pytest.raises(UsageError, match="channel"):
            load_config(ExtractConfig, "ravdess", [f"corpus.channel={wrong}"], kind="corpora")
    quick_encoders(monkeypatch)
    rows = ["id,audio,split,valence,arousal"]
    for number, split in enumerate(["train", "train", "dev", "test"]):
        wave = tone(0.5, pitch=100 + 30 * number)
        stereo(tmp_path / f"{number}.wav", wave, -wave)
        rows.append(f"u{number},{number}.wav,{split},{1 + number},{6.5 - number}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    found = extract(tmp_path / "m.csv", out=tmp_path / "mean", overrides=QUICK)
    assert [failure["reason"][:15] for failure in found["failures"]] == 4 * ["channels cancel"]
    found = extract(tmp_path / "m.csv", out=tmp_path / "left", overrides=[*QUICK, "corpus.channel=left"])
    assert (found["audio"]["done"], found["failures"]) == (4, [])
