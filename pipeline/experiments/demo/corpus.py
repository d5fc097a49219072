"""Render the spoken corpus: `folder/audio/*.wav` and, last of all, `folder/manifest.csv` (script: configs/demo)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from cache.disk import make_folder, write_atomic, write_text
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.core.files import csv_text
from pipeline.experiments.demo.voice import GRID, SAMPLE_RATE, Prosody, Voice, mean_rating, prosody_of, shape_timbre


class Speaker(NamedTuple):
    """One voice: an accent and a variant of espeak-ng. A speaker belongs to one split."""

    name: str
    gender: str
    voice: str
    split: str


SPEAKERS = tuple(Speaker(**entry) for entry in word_list("demo/script")["speakers"])
SENTENCES = tuple(word_list("demo/script")["sentences"])
_FORMAT = 1  # raise it when the same recipe gives other samples
_COLUMNS = ("id", "audio", "split", "valence", "arousal", "emotion", "speaker", "gender")


@dataclass(frozen=True)
class Utterance:
    """A recipe: what is said, by whom and how (`truth`), and what the raters report of it (`rating`)."""

    id: str
    speaker: Speaker
    sentence: str
    truth: tuple[float, float]  # valence, arousal
    rating: tuple[float, float]
    prosody: Prosody

    @property
    def audio(self) -> str:
        """Path within the folder; the digest covers everything that changes a sample."""
        recipe = repr((_FORMAT, self.sentence, self.truth[0], self.prosody))
        return f"audio/{self.id}_{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.wav"


def render_corpus(
    folder: Path, *, seed: int = 0, utterances: int = 720, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Render `utterances` clips (16 kHz mono PCM16) into `folder`; returns the manifest's path.

    The bytes depend on `seed` alone, and clip i on (seed, i). `progress` is called with (done, total).
    Raises UsageError when the `demo` extra is missing, the folder cannot be made, or there is less than one clip for
    each speaker.
    """
    if utterances < len(SPEAKERS):
        expected = f"at least {len(SPEAKERS)}, one per speaker"
        raise UsageError("utterances", str(utterances), expected, "Raise their number.")
    recipes = [_recipe(seed, number) for number in range(utterances)]
    path, text = folder / "manifest.csv", csv_text(_COLUMNS, map(_row, recipes))
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        _render(folder, recipes, progress)
        write_text(path, text)
    return path


def _recipe(seed: int, number: int) -> Utterance:
    rng = np.random.default_rng([seed, number])
    speaker = SPEAKERS[number % len(SPEAKERS)]
    valence, arousal = (float(value) for value in rng.choice(GRID, 2))
    return Utterance(
        id=f"{speaker.name}_{number // len(SPEAKERS):04d}",
        speaker=speaker,
        sentence=SENTENCES[rng.integers(len(SENTENCES))],
        truth=(valence, arousal),
        rating=(mean_rating(valence, rng), mean_rating(arousal, rng)),
        prosody=prosody_of(speaker.voice, valence, arousal, rng),
    )


def _render(folder: Path, recipes: list[Utterance], progress: Callable[[int, int], None] | None) -> None:
    make_folder(folder / "audio")
    voice = Voice()
    for done, recipe in enumerate(recipes, start=1):
        path = folder / recipe.audio
        if not path.exists():
            wave = shape_timbre(voice.synthesize(recipe.sentence, recipe.prosody), voice.sample_rate, recipe.truth[0])
            write_atomic(path, [_wav(wave)])
        if progress:
            progress(done, len(recipes))


def _row(recipe: Utterance) -> list[str]:
    speaker, (valence, arousal) = recipe.speaker, recipe.rating
    labels = [f"{valence:.1f}", f"{arousal:.1f}", _emotion(valence, arousal)]
    return [recipe.id, recipe.audio, speaker.split, *labels, speaker.name, speaker.gender]


def _emotion(valence: float, arousal: float) -> str:
    """The category of the plane's quadrant; neutral within one point of neutral valence."""
    if abs(valence - 4) <= 1:
        return "neutral"
    if valence > 4:
        return "happy" if arousal > 4 else "calm"
    return "angry" if arousal > 4 else "sad"


def _wav(wave: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE, "PCM_16", format="WAV")
    return file.getvalue()
