"""Small real audio files for the tests, and ways to spoil them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
# 196 prompts in place of 1,568, and no whole-grammar texts
QUICK = ["captions.prompt_variants=1", "captions.per_utterance=1", "captions.grid=false"]
QUICK_OPTIONS = [word for override in QUICK for word in ("-o", override)]


def tone(seconds: float, *, pitch: float = 150.0, loud: float = 0.3, rate: int = RATE) -> np.ndarray:
    """A voiced-like sound: harmonics of `pitch` with a slow tremor."""
    t = np.arange(int(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 6))
    return (loud * wave / 2 * (1 + 0.3 * np.sin(2 * np.pi * 5 * t))).astype(np.float32)


def write_corpus(folder: Path, count: int = 24) -> Path:
    """`count` clips whose pitch and loudness follow arousal and valence, and their manifest."""
    (folder / "audio").mkdir(parents=True)
    draw = np.random.default_rng(0)
    with open(folder / "manifest.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "audio", "split", "valence", "arousal", "emotion", "speaker", "gender"])
        for i in range(count):
            split = ("train", "train", "dev", "test")[i % 4]
            valence, arousal = draw.integers(5, 36, 2) / 5
            wave = tone(0.4 + 0.05 * (i % 7), pitch=90 + 30 * arousal, loud=0.05 * valence)
            soundfile.write(folder / f"audio/u{i:02}.wav", wave, RATE)
            emotion = "" if i % 8 == 7 else ("sad", "calm", "angry", "happy")[2 * (arousal > 4) + (valence > 4)]
            gender = ("male", "female", "Unknown")[i % 3]
            table.writerow([f"u{i:02}", f"audio/u{i:02}.wav", split, valence, arousal, emotion, f"s{i % 8}", gender])
    return folder / "manifest.csv"


def spoil(folder: Path) -> dict[str, str]:
    """Damage four clips of a corpus; returns what the reason of each must say."""
    audio = folder / "audio"
    (audio / "u01.wav").write_bytes(b"this is no audio" * 400)
    (audio / "u05.wav").write_bytes(b"")
    wave = tone(0.6)
    wave[1000:1003] = np.nan
    soundfile.write(audio / "u10.wav", wave, RATE, subtype="FLOAT")
    whole = (audio / "u16.wav").read_bytes()
    (audio / "u16.wav").write_bytes(whole[: len(whole) // 2])
    return {"u01": "cannot be decoded", "u05": "an empty file", "u10": "3 samples are not finite", "u16": "truncated"}
