"""Audio files of every kind, sound and spoiled, made from one clip; and the run of a damaged file by the thousand.

python -m tests.inputs.spoiled_audio 0 20000     # so many damaged files, each within 20 s
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from pipeline.extraction.audio.decoding import Decoding, UnusableAudio
from tests.speech import RATE, tone

DECODING = Decoding(RATE, 10.0, "start")
DECODINGS = (DECODING, Decoding(RATE, 0.2, "center"), Decoding(24_000, 0.2, "start"))
REASON_BYTES = 160  # of a row
SECONDS_A_FILE = 20.0
CONTAINERS = [
    *(("WAV", s) for s in ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("WAVEX", s) for s in ("PCM_16", "PCM_24", "FLOAT")),
    *((c, "PCM_16") for c in ("RIFX", "RF64", "W64", "AIFF", "FLAC", "AU", "DNS", "CAF", "NIST")),
    ("AIFF", "FLOAT"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
CANNOT_TELL = [("VOC", "PCM_16"), ("SVX", "PCM_16"), ("PVF", "PCM_16"), ("IRCAM", "PCM_16")]
Edit = tuple[str, float, float, int]  # what, where, how far, a number; places as parts of the file


@cache
def clip() -> np.ndarray:
    """Half a second that 16 bits hold exactly, with some noise, so that no coder makes it small."""
    wave = tone(0.5) + np.random.default_rng(0).normal(0, 0.01, RATE // 2)
    return np.round(wave * 32768).astype(np.float32) / 32768


@cache
def written(container: str, subtype: str, channels: int = 1) -> bytes:
    """The clip in that container, the same in every channel."""
    file = io.BytesIO()
    container, endian = {"RIFX": ("WAV", "BIG"), "DNS": ("AU", "LITTLE")}.get(container, (container, None))
    waves = np.repeat(clip()[:, None], channels, 1)
    soundfile.write(file, waves, RATE, format=container, subtype=subtype, endian=endian)
    return file.getvalue()


def float_wav(wave: np.ndarray, subtype: str = "FLOAT", rate: int = RATE) -> bytes:
    """Samples as they are, in a WAV of floats."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a RIFF, padded to an even size."""
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    """A WAV of `chunks`."""
    whole = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"WAVE" + whole


def parts() -> tuple[bytes, bytes]:
    """The chunks `fmt ` and `data` of the clip."""
    whole = written("WAV", "PCM_16")
    return whole[12:36], whole[36:]


def patched(data: bytes, place: int, form: str, value: int) -> bytes:
    """`data` with one number changed."""
    changed = bytearray(data)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


_FORMAT, _DATA = parts()
_LIST = chunk(b"LIST", b"INFOISFT" + (4).to_bytes(4, "little") + b"abc\0")
_WHOLE = written("WAV", "PCM_16")
SOUND = {  # all hold the clip
    "a LIST after the audio": riff(_FORMAT, _DATA, _LIST),
    "an id3 after the audio": riff(_FORMAT, _DATA, chunk(b"id3 ", b"ID3\x03" + bytes(7))),
    "an odd chunk before and after": riff(_FORMAT, chunk(b"JUNK", b"odd"), _DATA, chunk(b"JUNK", b"odd")),
    "a chunk nobody knows": riff(_FORMAT, chunk(b"what", b"1234"), _DATA),
    "garbage after the audio": _WHOLE + bytes(range(1, 100)),
    "a RIFF size of zero": patched(_WHOLE, 4, "<I", 0),
    "a RIFF size too small": patched(_WHOLE, 4, "<I", 100),
    "a RIFF size too large": patched(_WHOLE, 4, "<I", 1 << 30),
    "streamed by most": patched(patched(_WHOLE, 4, "<I", 0xFFFFFFFF), 40, "<I", 0xFFFFFFFF),
    "streamed by SoX": patched(patched(_WHOLE, 4, "<I", 0x7FFFF024), 40, "<I", 0x7FFFF000),
    "streamed by arecord": patched(patched(_WHOLE, 4, "<I", 0x80000024), 40, "<I", 0x80000000),
    "an AU streamed": patched(written("AU", "PCM_16"), 8, ">I", 0xFFFFFFFF),
}
BROKEN = {
    "the audio before its format": riff(_DATA, _FORMAT),
    "no format": riff(_DATA),
    "no audio": riff(_FORMAT, _LIST),
    "two formats and half the audio": riff(_FORMAT, _FORMAT, _DATA)[:-4000],
    "a chunk that leads nowhere": riff(_FORMAT, b"LIST\xff\xff\xff\x7f", _DATA),
    "a header of another format": b"RIFF" + _WHOLE[4:8] + b"AVI " + _WHOLE[12:],
    "2 GHz": patched(float_wav(clip()), 24, "<I", 2_000_000_000),
    "65,535 channels": patched(_WHOLE, 22, "<H", 0xFFFF),
    "doubles beyond floats": float_wav(np.full(8000, 1e300) * clip(), "DOUBLE"),
    "floats that overflow where they are resampled": float_wav(3.3e38 * np.sign(clip()), rate=44_100),
    "constant": float_wav(np.full(4000, 0.25)),
    "constant at another rate": float_wav(np.full(4000, -0.25), rate=8_000),
    "silence, but for what the crop leaves out": float_wav(np.r_[np.zeros(160_001), tone(0.01)]),
}


def manifest_of(folder: Path, names: list[str]) -> Path:
    """A manifest in `folder` of files in it, whose names may be any bytes."""
    rows = (
        {"id": f"u{i}", "audio": name, "split": "train", "valence": 2, "arousal": 5} for i, name in enumerate(names)
    )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def damaged(data: bytes, edits: list[Edit]) -> bytes:
    """`data` after every edit, the next on what the last left."""
    for what, where, far, number in edits:
        start, span = int(where * len(data)), 1 + int(far * min(600, len(data)))
        if what == "flip":
            changed = bytearray(data)
            for place in range(start, min(len(data), start + 1 + span % 3)):
                changed[place] ^= 1 << number % 8
            data = bytes(changed)
        elif what == "header":  # most numbers that matter lie in the first bytes
            place = int(where * min(128, max(0, len(data) - 4)))
            value = (0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, number)[number % 6]
            data = data[:place] + struct.pack("<I" if number & 8 else ">I", value & 0xFFFFFFFF) + data[place + 4 :]
        elif what == "cut":
            data = data[:start]
        elif what == "insert":
            data = data[:start] + random.Random(number).randbytes(span) + data[start:]
        elif what == "remove":
            data = data[:start] + data[start + span :]
        elif what == "swap":
            other = min(len(data), start + span)
            data = data[:start] + data[other : other + span] + data[start:other] + data[other + span :]
        else:
            raise ValueError(what)
    return data


WHATS = ("flip", "header", "cut", "insert", "remove", "swap")


def drawn(seed: int) -> bytes:
    """The damaged file of that number."""
    draw = random.Random(seed)
    edits = [
        (draw.choice(WHATS), draw.random(), draw.random(), draw.getrandbits(32)) for _ in range(draw.randint(1, 4))
    ]
    return damaged(written(*CONTAINERS[seed % len(CONTAINERS)]), edits)


def outcome(path: Path, decoding: Decoding) -> np.ndarray | str:
    """The clip, or the reason why there is none."""
    try:
        return decoding.load(path).wave
    except UnusableAudio as error:
        return error.reason


def check(path: Path, decoding: Decoding = DECODING) -> str:
    """What became of the file, in a word. Raises where decoding did not do as it says."""
    planned, wave = decoding.samples(path), outcome(path, decoding)
    if isinstance(wave, str):
        assert wave.isprintable(), wave  # so: one line
        assert 0 < len(wave.encode()) <= REASON_BYTES, wave
        return "refused"
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert np.isfinite(wave).all()
    assert len(wave) == planned > 0, (len(wave), planned)
    return "decoded"


def main(start: int, stop: int) -> None:
    """Check the damaged files start..stop; a file that hangs ends the process with its stack, as a crash does."""
    counts = {"decoded": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for seed in range(start, stop):
            print(f"\r{seed}", end="", file=sys.stderr, flush=True)
            path.write_bytes(drawn(seed))
            faulthandler.dump_traceback_later(SECONDS_A_FILE, exit=True)
            counts[check(path, DECODINGS[seed % 3])] += 1
            faulthandler.cancel_dump_traceback_later()
    print(counts["decoded"], counts["refused"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
