"""IEMOCAP in miniature: the layout and the lines of the release (F31), with generated clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from tests.speech import RATE, tone

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
RATINGS = "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
# label: (pitch, loudness, valence, arousal) of its turns, before noise
SOUNDS = {
    "ang": (260, 0.6, 1.5, 4.0),
    "hap": (300, 0.3, 4.0, 3.5),
    "exc": (330, 0.4, 4.5, 4.0),
    "neu": (150, 0.15, 3.0, 2.5),
    "sad": (100, 0.05, 2.0, 2.0),
    "fru": (200, 0.3, 2.0, 3.5),
}


def turn(name: str, label: str, labels: str = "2.5000, 3.0000, 2.0000") -> str:
    return f"[6.2901 - 8.2357]\t{name}\t{label}\t[{labels}]\n{RATINGS}"


def write_dialog(root: Path, dialog: str, *turns: str) -> Path:
    """One dialog's evaluation file and an empty clip for each of its turns."""
    session = root / f"Session{dialog[4]}"
    path = session / "dialog" / "EmoEvaluation" / f"{dialog}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(turns))
    clips = session / "sentences" / "wav" / dialog
    clips.mkdir(parents=True)
    for line in "".join(turns).splitlines():
        if line.startswith("[") and line.count("\t") == 3:
            (clips / f"{line.split(chr(9))[1]}.wav").touch()
    return path


def write_miniature_iemocap(root: Path) -> dict[str, str]:
    """Five sessions of one dialog, 11-13 turns each by both speakers, with all of `SOUNDS`; returns turn -> label."""
    draw = np.random.default_rng(0)
    labels = {}
    for session in range(1, 6):
        dialog = f"Ses0{session}F_impro01"
        said = [*SOUNDS, *draw.choice(list(SOUNDS), 5 + session % 3)]
        names = [f"{dialog}_{'FM'[i % 2]}{i:03}" for i in range(len(said))]
        heard = [np.array(SOUNDS[label]) * draw.uniform(0.8, 1.2, 4) for label in said]
        rated = [np.clip(sound[2:].round(1), 1, 5) for sound in heard]
        lines = [turn(n, s, f"{v:.4f}, {a:.4f}, 3.0000") for n, s, (v, a) in zip(names, said, rated, strict=True)]
        write_dialog(root, dialog, *lines)
        for name, sound in zip(names, heard, strict=True):
            clip = root / f"Session{session}/sentences/wav/{dialog}/{name}.wav"
            soundfile.write(clip, tone(0.4, pitch=sound[0], loud=sound[1]), RATE)
        labels |= dict(zip(names, map(str, said), strict=True))
    return labels
