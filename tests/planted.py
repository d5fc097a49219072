"""Planted stores: embeddings generated from known valence and arousal plus noise, at the real corpus's size.

What is planted, so that a result can be read (docs/planted.md):

- Each utterance has a true point of the plane; five raters hear it with noise and answer in whole numbers; the label
  is their mean, as in MSP-Podcast (F10).
- The encoder perceives the true point with noise too: `reliability` is the correlation of the best estimate from the
  speech vector with the label. The vector is a fixed random nonlinear map of the perceived point, of nuisances (the
  voice, the words) as strong as it, and noise in every channel.
- The text vector is the same kind of map of what the caption says, perceived with an R^2 of about .9, which is what
  MiniLM's embedding of the built-in captions gives. With `text="words"` it must be learnt: the vector is a nonlinear
  map of the mean of the sentence's words, each with a little of what the texts that hold it are about and a lot of its
  own, so that a few captions do not teach the plane.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, Columns, GridText, write_captions_file
from cache.manifest import Manifest, Ratings, votes_text, write_manifest
from cache.stores import LISTED, Stores, open_stores, stores_digests
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from pipeline.core.config import CaptionsConfig
from pipeline.data.captions import CaptionSource, assign_captions
from pipeline.data.captions.base import Acoustics
from pipeline.data.corpora.acted import nominal_points
from pipeline.extraction.audio.praat import NAMES

Values = NDArray[np.float64]

MSP_PODCAST = {"train": 90_022, "dev": 25_258, "test1": 34_963}  # F10
EVERY_STYLE = ("dimensional", "template", "clap4emo", "acoustic")
SPREAD = 1.1  # of the true points; raters hear with RATER's noise
RATERS, RATER = 5, 0.8
# published systems on MSP-Podcast: a mean CCC of .59 over the three attributes, .69 for valence (arXiv 2506.19887)
RELIABILITY = 0.67
NUISANCES = 32
WORD, ABOUT = 64, 2.0  # of text="words": a word's own values, and how much of a vector is what it is about
_CATEGORIES = ("angry", "sad", "happy", "surprised", "fearful", "disgust", "neutral", "calm")


def plant(
    folder: Path,
    splits: dict[str, int],
    *,
    audio_width: int = 1024,
    text_width: int = 768,
    noise: float = 1.0,
    reliability: float | None = None,
    styles: Sequence[str] = ("dimensional", "template"),
    grid: bool = False,
    word_norms: Path | None = None,
    text: Literal["point", "words"] = "point",
    nominal: bool = False,
    raters: bool = False,
    speakers: int = 0,
    seed: int = 0,
) -> Stores:
    """Write stores of planted vectors; `noise` is each channel's, beside a signal of about .7.

    Without a `reliability` the encoder perceives the true point. With the style `acoustic` in `styles` (or any other of
    a category) utterances get an emotion, a gender and acoustic features that lean on arousal; otherwise none. With
    `grid` there are whole-grammar texts too; every other row is then the same as without it. `word_norms` is a CSV of
    rated words for the prompts of that style. `speakers` are that many in each split, each heard with an offset of its
    own; without any, no speaker is known. With `nominal` labels are one point a category, as in acted corpora, so that
    the captions know eight points of the plane. With `raters` the manifest says what each label's raters said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    split = [name for name, count in splits.items() for _ in range(count)]
    count = len(split)
    truth = np.clip(draw.normal(4.0, SPREAD, (count, 2)), 1, 7)
    ratings = np.clip(np.rint(truth[:, None, :] + draw.normal(0, RATER, (count, RATERS, 2))), 1, 7)
    labels = ratings.mean(1)
    blank = [""] * count
    rich = "acoustic" in styles
    female = draw.random(count) < 0.5
    felt = _emotions(truth + draw.normal(0, RATER, truth.shape)) if rich else blank
    if nominal:
        labels = np.array([nominal_points()[name] for name in felt])
    manifest = Manifest(
        root=folder, id=[f"u{i}" for i in range(count)], audio=[f"{i}.wav" for i in range(count)], split=split,
        valence=labels[:, 0], arousal=labels[:, 1], dominance=np.full(count, np.nan),
        emotion=felt,
        speaker=[f"{name}-{row % speakers}" for row, name in enumerate(split)] if speakers else blank,
        gender=np.where(female, "female", "male").tolist() if rich else blank, intensity=blank, caption=blank,
    )  # fmt: skip
    if raters:
        named = zip(*(_emotions(ratings[:, rater]) for rater in range(RATERS)), strict=True)
        votes = [votes_text(Counter(names)) for names in named]
        std = np.c_[ratings.std(1, ddof=1), np.full(count, np.nan)]
        manifest = replace(manifest, ratings=Ratings(np.full(count, RATERS), std, votes))
    acoustics = _acoustics(truth, female, draw) if rich else None
    captions = assign_captions(
        CaptionSource(manifest, Acoustics(NAMES, acoustics) if acoustics is not None else None),
        CaptionsConfig(styles=styles, grid=grid, word_norms=word_norms),
    )
    texts = captions.texts()
    perceived = truth + draw.normal(0, _blur(labels, truth, reliability), truth.shape)
    if speakers:
        heard, owner = np.unique(manifest.speaker, return_inverse=True)
        perceived += np.random.default_rng([seed, 2]).normal(0, 0.3 * SPREAD, (len(heard), 2))[owner]
    said = _said(captions, texts, labels)
    others = len(replace(captions, grid=Columns.of(GridText)).texts())  # their noise is drawn as without the grid
    said[:others] += draw.normal(0, 0.33 * SPREAD, (others, 2))  # R^2 about .9
    said[others:] += np.random.default_rng([seed, 1]).normal(0, 0.33 * SPREAD, (len(said) - others, 2))
    nuisance = draw.standard_normal((count, NUISANCES))
    nuisance[:, 0] = np.where(female, 1, -1)
    write_manifest(manifest, folder / "manifest.csv")
    write_captions_file(captions, folder / "captions.jsonl")
    speech = _vectors(perceived, nuisance, audio_width, noise, np.random.default_rng(1))
    known = (said, np.zeros((len(said), 1))) if text == "point" else _of_words(texts, _said(captions, texts, labels))
    words = _vectors(*known, text_width, noise / 2, np.random.default_rng(2))
    _store(folder / "audio.h5", "audio", manifest.id, speech)
    _store(folder / "text.h5", "text", texts, words)
    if acoustics is not None:
        _store(folder / "acoustic.h5", "audio", manifest.id, acoustics.astype(np.float32))
    stores_digests(folder).write(LISTED)
    return open_stores(folder)


def with_transcripts(stores: Stores, *, labels_in: Literal["words", "voice"], without: Collection[int] = ()) -> Stores:
    """Write other speech vectors, the sum of a part of the words and one of the voice, and vectors of transcripts.

    The labels are in one of the parts alone, the other is drawn. Rows `without` a transcript are failed.
    """
    draw, manifest = np.random.default_rng(5), stores.manifest
    labels = np.stack([manifest.valence, manifest.arousal], axis=1) - 4
    known, other = labels + draw.normal(0, 0.2, labels.shape), draw.normal(0, labels.std(), labels.shape)
    words, voice = (known, other) if labels_in == "words" else (other, known)
    speech = words @ draw.normal(0, 1, (2, stores.audio.dim)) + voice @ draw.normal(0, 1, (2, stores.audio.dim))
    speech += draw.normal(0, 0.1, speech.shape)
    vectors = words @ draw.normal(0, 1, (2, stores.text.dim)) + 5
    vectors += draw.normal(0, 0.1, vectors.shape)
    transcript = ["" if row in without else f"transcript {row}" for row in range(len(manifest))]
    write_manifest(replace(manifest, transcript=transcript), stores.folder / "manifest.csv")
    for name in ("audio.h5", "words.h5"):
        (stores.folder / name).unlink(missing_ok=True)
    _store(stores.folder / "audio.h5", "audio", manifest.id, speech.astype(np.float32))
    _store(stores.folder / "words.h5", "text", manifest.id, vectors.astype(np.float32), without)
    stores_digests(stores.folder).write(LISTED)
    return open_stores(stores.folder)


def _blur(labels: Values, truth: Values, reliability: float | None) -> float:
    """The encoder's noise about the true point, for this correlation of what it perceives with the labels."""
    if reliability is None:
        return 0.0
    rated = np.mean([np.corrcoef(labels[:, axis], truth[:, axis])[0, 1] for axis in range(2)])
    return float(truth.std() * np.sqrt((rated / reliability) ** 2 - 1))


def _emotions(felt: Values) -> list[str]:
    """The nearest category of the circumplex."""
    points = np.array([nominal_points()[name] for name in _CATEGORIES])
    nearest = ((felt[:, None] - points) ** 2).sum(-1).argmin(1)
    return [_CATEGORIES[i] for i in nearest]


def _acoustics(truth: Values, female: NDArray[np.bool_], draw: np.random.Generator) -> Values:
    """(N, F) features that lean on arousal, pitch on gender as well; the last is the duration."""
    leaning = (truth[:, 1:] - 4) * np.array([0.5, 0.6, 0.8, 0.2, -0.2, 0.5, 0.0])
    values = leaning + draw.standard_normal((len(truth), len(NAMES)))
    values[:, 0] += 2 * female
    return np.asarray(values - values.min(0))


def _said(captions: Captions, texts: list[str], labels: Values) -> Values:
    """(T, 2) the point that each text is about: its own for a prompt, the mean of its utterances for a caption.

    A whole-grammar text that is no utterance's caption is about its own point.

    An acoustic caption of few utterances says little of them: their mean is drawn in to the centre.
    """
    said = np.full((len(texts), 2), 4.0)
    row_of = {text: row for row, text in enumerate(texts)}
    for text in captions.grid:
        said[row_of[text.text]] = text.valence, text.arousal
    for caption in captions.captions:
        known = len(caption.rows) / (len(caption.rows) + 20) if caption.style == "acoustic" else 1.0
        said[row_of[caption.text]] = 4 + known * (labels[caption.rows].mean(0) - 4)
    for prompt in captions.prompts:
        said[row_of[prompt.text]] = prompt.valence, prompt.arousal
    for named in captions.classes:
        said[row_of[named.text]] = nominal_points().get(named.emotion, (4.0, 4.0))
    return said


def _of_words(texts: list[str], said: Values) -> tuple[Values, Values]:
    """(T, 2) what the mean of each text's words is about, and (T, WORD) what else is in it.

    A word is about the mean of the texts that hold it, so most words are about nothing; WORD values are its own.
    """
    words_of = [re.findall(r"[a-z']+", text.lower()) for text in texts]
    place = {word: i for i, word in enumerate(sorted({word for words in words_of for word in words}))}
    rows = np.repeat(np.arange(len(texts)), [len(words) for words in words_of])
    columns = np.array([place[word] for words in words_of for word in words])
    counts = np.bincount(columns, minlength=len(place))[:, None]
    about = np.zeros((len(place), 2))
    np.add.at(about, columns, said[rows] - 4)
    own = np.random.default_rng(3).standard_normal((len(place), WORD))
    lengths = np.array([len(words) for words in words_of])[:, None]
    sums = [np.zeros((len(texts), values.shape[1])) for values in (about, own)]
    for total, values in zip(sums, (about / counts, own), strict=True):
        np.add.at(total, rows, values[columns])
    return 4 + ABOUT * sums[0] / np.sqrt(lengths), sums[1] / np.sqrt(lengths)


def _vectors(
    points: Values, nuisance: Values, width: int, noise: float, draw: np.random.Generator
) -> NDArray[np.float32]:
    hidden = np.tanh((points - 4) / 3 @ draw.normal(0, 1, (2, 64)) + draw.normal(0, 1, 64))
    vectors = (hidden @ draw.normal(0, 1 / 8, (64, width))).astype(np.float32)
    vectors += (nuisance @ draw.normal(0, 0.7 / np.sqrt(nuisance.shape[1]), (nuisance.shape[1], width))).astype("f4")
    vectors += np.float32(noise) * draw.standard_normal(vectors.shape, dtype=np.float32)
    return vectors


def _store(path: Path, kind: str, ids: list[str], vectors: NDArray[np.float32], failed: Collection[int] = ()) -> None:
    rows = StoreRows(ids, np.zeros((len(ids), 2), np.int64), np.zeros(len(ids), np.int64))
    fingerprint = {"store_version": 1, "encoder": {"encoder": "planted"}}
    store, _ = open_for_writing(StoreSpec(path, kind, rows, dim=vectors.shape[1], dtype="<f4", fingerprint=fingerprint))
    with StoreWriter(store) as writer:
        for row, vector in enumerate(vectors):
            if row in failed:
                writer.fail(row, "no transcript", bytes(16))
            else:
                writer.commit(row, vector, row.to_bytes(16, "little"))
