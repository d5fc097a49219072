"""MSP-Podcast in miniature: the layout, headers and number formats of the release (F30), with 36 generated clips."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

HEADER = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
# split as the release spells it: letters of its turns
TURNS = {"Train": "ASHUFDCNNHASNHXO", "Development": "NHASNHX", "Test1": "NASHNHO", "Test2": "NHA", "Test3": "NHA"}
KEPT = {"train": 14, "dev": 6, "test1": 6, "test2": 3, "test3": 3}  # without X and O
# split: (SpkrID, Gender) in turn; no speaker is in two splits
SPEAKERS = {
    "Train": (("30", "Male"), ("41", "Female"), ("Unknown", "Unknown"), ("52", "Male")),
    "Development": (("63", "Female"), ("74", "Male")),
    "Test1": (("85", "Female"), ("96", "Male")),
    "Test2": (("Unknown", "Unknown"),),
    "Test3": (("107", "Female"),),
}
# letter: where the five raters' valence, arousal and dominance lie
CENTRES = {
    "A": (2, 6, 5),
    "S": (2, 2, 3),
    "H": (6, 5, 5),
    "U": (5, 6, 4),
    "F": (2, 6, 2),
    "D": (2, 4, 4),
    "C": (3, 4, 5),
    "N": (4, 3, 4),
    "X": (4, 4, 4),
    "O": (4, 4, 4),
}
# letter: what the five raters called it
VOTES = {
    letter: (name, name, "Neutral" if letter != "N" else "Sad", name, 'Other-hard to say; "tired", or so')
    for letter, name in zip(
        "ASHUFDCN", ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral"), strict=True
    )
}
VOTES["X"] = ("Happy", "Sad", "Happy", "Sad", "Other-bored")
VOTES["O"] = ("Other-curious", "Neutral", "Other", "Neutral", "Other-tired")


def rated_turns(generator: np.random.Generator, times: int = 1) -> list[tuple[dict[str, str], NDArray[np.int64]]]:
    """The rows of the labels file, and the five raters' valence, arousal and dominance behind each, (5, 3)."""
    rows = [
        _row(f"MSP-PODCAST_{podcast:04}_{turn:04}.wav", letter, SPEAKERS[split][turn % len(SPEAKERS[split])], split)
        for podcast, (split, letters) in enumerate(TURNS.items(), start=1)
        for turn, letter in enumerate(letters * times)
    ]
    return [(row, _rate(row, generator)) for row in rows]


def write_detailed_labels(root: Path, layout: Literal["field", "columns"]) -> None:
    """`Labels/labels_detailed.csv` of the miniature without Test3: a rating in one field, or in columns."""
    columns = ("FileName", "Workers", "EmoClass_Major", "EmoClass_Second", "EmoAct", "EmoVal", "EmoDom")
    lines = []
    for row, ratings in rated_turns(np.random.default_rng(0)):
        for rater, (category, values) in enumerate(zip(VOTES[row["EmoClass"]], ratings.tolist(), strict=True)):
            valence, arousal, dominance = values
            worker, second = f"WORKER{rater:08}", "Concerned,Confused"
            detail = f"{worker}; {category}; {second}; A:{arousal:.6f}; V:{valence:.6f}; D:{dominance:.6f};"
            whole = (row["FileName"], worker, category, second, arousal, valence, dominance)
            if row["Split_Set"] != "Test3":
                lines.append((row["FileName"], detail) if layout == "field" else whole)
    with open(root / "Labels" / "labels_detailed.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("FileName", "EmoDetail") if layout == "field" else columns, *lines])


def write_miniature_msp(
    root: Path,
    *,
    labels: Collection[str] = ("csv", "json"),
    test3: Literal["partitions", "blank"] = "partitions",
    times: int = 1,
) -> list[dict[str, str]]:
    """Write the corpus under `root` and return its rows as the labels file has them (Test3 with its labels).

    `labels` are the label files written; `test3` is where the turns without public labels stand: only in
    Partitions.txt, or in the labels file with blank fields too. Every split has its turns `times` over.
    """
    generator = np.random.default_rng(0)
    rows = [row for row, _ in rated_turns(generator, times)]
    (root / "Audios").mkdir(parents=True)
    (root / "Labels").mkdir()
    for row in rows:
        _write_clip(root / "Audios" / row["FileName"], float(row["EmoAct"]), float(row["EmoVal"]), generator)
    partitions = "".join(f"{row['Split_Set']}; {row['FileName']}\n" for row in rows)
    (root / "Partitions.txt").write_text(partitions, encoding="utf-8")
    public = [_hidden(row) if row["Split_Set"] == "Test3" else row for row in rows]
    _write_labels(root / "Labels", [r for r in public if r["EmoClass"] or test3 == "blank"], labels)
    return rows


def transcript_of(turn: str) -> str:
    """What is said in the turn of this name."""
    return f"Well, that was {turn[-4:]} times, I think."


def write_transcripts(root: Path) -> None:
    """`Transcripts/*.txt`, one a clip of the miniature."""
    (root / "Transcripts").mkdir()
    for clip in (root / "Audios").iterdir():
        (root / "Transcripts" / f"{clip.stem}.txt").write_text(transcript_of(clip.stem) + "\n", encoding="utf-8")


def _row(name: str, letter: str, who: tuple[str, str], split: str) -> dict[str, str]:
    return dict(zip(HEADER, (name, letter, "", "", "", *who, split), strict=True))


def _rate(row: dict[str, str], generator: np.random.Generator) -> NDArray[np.int64]:
    given = []
    for column, centre in zip(("EmoVal", "EmoAct", "EmoDom"), CENTRES[row["EmoClass"]], strict=True):
        ratings = np.clip(generator.integers(centre - 1, centre + 2, size=5), 1, 7)
        row[column] = repr(float(ratings.mean().round(6)))
        given.append(ratings)
    return np.stack(given, axis=1)


def _hidden(row: dict[str, str]) -> dict[str, str]:
    return {**row, "EmoClass": "", "EmoAct": "", "EmoVal": "", "EmoDom": ""}


def _write_labels(folder: Path, rows: list[dict[str, str]], kinds: Collection[str]) -> None:
    if "csv" in kinds:
        with open(folder / "labels_consensus.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if "json" in kinds:
        entries = {row["FileName"]: {name: _json_value(name, row[name]) for name in HEADER[1:]} for row in rows}
        (folder / "labels_consensus.json").write_text(json.dumps(entries, indent=4), encoding="utf-8")


def _json_value(name: str, text: str) -> object:
    if not name.startswith("Emo") or name == "EmoClass":
        return text
    return float(text) if text else None


def _write_clip(path: Path, arousal: float, valence: float, generator: np.random.Generator) -> None:
    """0.6-3 s at 16 kHz, mono, PCM16: arousal is heard as pitch and loudness, valence as brightness."""
    time = np.arange(int(16_000 * generator.uniform(0.6, 3.0))) / 16_000
    pitch = 80.0 + 30.0 * arousal
    tone = np.sin(2 * np.pi * pitch * time) + valence / 7 * np.sin(2 * np.pi * 3 * pitch * time)
    samples = (0.02 + 0.05 * arousal) * tone + 0.01 * generator.standard_normal(len(time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())
