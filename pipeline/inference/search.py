"""A sentence in, the utterances that sound like it out; or a recording in, the captions that fit it.

    search-speech stores/msp runs/erc "The person is speaking with joy."

Loading is one thing (`SpeechIndex.open`: seconds), asking another (`ask`: milliseconds at 150,000 utterances).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.fingerprint import describe_differences, differences
from cache.manifest import Manifest
from cache.reader import Store
from cache.stores import CONFIG, Stores, stores_named
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import validate_file
from pipeline.core.errors import StoreMismatch, UsageError
from pipeline.core.progress import Meter
from pipeline.core.resources import pick_device
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import TextEncoder, chosen_columns
from pipeline.extraction.encoders.speech import with_precision
from pipeline.inference.filters import Filter, Mask, UtteranceFilter, trained_on
from pipeline.inference.kept_index import KeptFile, KeptIndex, path_of, read_kept
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

Hit = dict[str, Any]
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Folder = str | Path
AnyStores = Stores | Folder | None  # none: those the run was trained from

BLOCK_ROWS = 8192  # rows of a store projected at once, beside the index in memory
BLOCK_QUERIES = 16  # queries in one matrix product: 10 MB of similarities at 150,000 rows


@dataclass(frozen=True)
class NearestNeighbours:
    """Rows of a store as the heads embed them; rows without a vector, or whose vector is all zero, are left out."""

    rows: Rows  # (n,) ascending
    vectors: Vectors  # (n, dim) of length 1

    def among(self, rows: Rows) -> NearestNeighbours:
        """Those of `rows`."""
        chosen = np.isin(self.rows, rows, assume_unique=True)
        return self if chosen.all() else NearestNeighbours(self.rows[chosen], self.vectors[chosen])

    def nearest(self, queries: Vectors, top: int, allowed: Mask | None = None) -> list[list[tuple[int, float]]]:
        """The `top` rows nearest to each of `queries` (q, dim), as (row, cosine): nearest first, of equals the lower.

        `allowed` (N,) says which rows of the store may be hits. Candidates are chosen by a float32 product; their
        cosines and order are float64, so they do not depend on the other queries or the number of cores. A query of
        zeros has no hits. Raises UsageError for a `top` below 1.
        """
        if top < 1:
            raise UsageError(f"top {top}", "no hits asked for", "1 or more", "Raise top.")
        places = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(allowed[self.rows])
        if not len(places):
            return [[] for _ in queries]
        nearest = []
        for start in range(0, len(queries), BLOCK_QUERIES):
            block = queries[start : start + BLOCK_QUERIES]
            rough = block @ self.vectors.T  # (q, n)
            nearest += [self._ranked(query, row[places], places, top) for query, row in zip(block, rough, strict=True)]
        return nearest

    def _ranked(self, query: Vectors, rough: Vectors, places: Rows, top: int) -> list[tuple[int, float]]:
        if not is_normalised(query[None])[0]:
            return []
        if top < len(places):
            # a float32 product of unit vectors is wrong by dim * 2^-24 at most, of this row and of the top-th
            least = np.partition(rough, -top)[-top] - 2 * (len(query) + 2) * np.float32(2**-24)
            places = places[rough >= least]
        query = query.astype(np.float64)
        blocks = (places[start : start + BLOCK_ROWS] for start in range(0, len(places), BLOCK_ROWS))
        # summed row by row, so that the cosines of equal rows are equal to the last bit
        exact = np.concatenate([(self.vectors[block] * query).sum(axis=1) for block in blocks])
        order = np.argsort(-exact, kind="stable")[:top]
        return list(zip(self.rows[places[order]].tolist(), exact[order].tolist(), strict=True))


def embed_rows(store: Store, rows: Rows, embed: Callable[[Tensor], Vectors]) -> NearestNeighbours:
    """Embed those of `rows` (ascending) that are done by `embed` ((n, store's dim) -> (n, dim)), in blocks."""
    kept = np.zeros(len(rows), dtype=bool)
    vectors, filled = np.empty((0, 0), np.float32), 0
    with Meter("load", len(rows), unit="rows") as meter:
        for start in range(0, len(rows), BLOCK_ROWS):
            stored, done = store.read(rows[start : start + BLOCK_ROWS])
            block = embed(torch.from_numpy(stored.astype(np.float32, copy=False)))
            if not start:  # allocated once: joining blocks at the end would take twice the memory
                vectors = np.empty((len(rows), block.shape[1]), np.float32)
            usable = done & is_normalised(block)
            kept[start : start + BLOCK_ROWS] = usable
            end = filled + int(usable.sum())
            vectors[filled:end] = block[usable]
            filled = end
            meter.advance(len(stored))
    return NearestNeighbours(rows[kept], vectors[:filled])


def is_normalised(vectors: Vectors) -> Mask:
    """(n,) which rows have length 1: heads give zeros where no unit fires (F7), and NaN for what overflows."""
    return np.asarray(np.isclose(np.einsum("nd,nd->n", vectors, vectors), 1, atol=0.01))


class _Embedder:
    """Stores, the heads trained for them, and the encoders that made them."""

    def __init__(self, stores: AnyStores, run: Run | Folder, device: str) -> None:
        self.run = run if isinstance(run, Run) else open_run(run)
        self.stores = stores_named(stores or self.run.about["stores"])
        if len(self.stores.folders) > 1:
            found, action = "heads of several stores", f"Pass one of {', '.join(map(str, self.stores.folders))}."
            raise UsageError(self.run.folder, found, "one folder of stores to search", action)
        self.trained, self.device = self.run.config, pick_device(device)

    @cached_property
    def config(self) -> ExtractConfig:
        """That of the stores. Raises UsageError where there is none."""
        return validate_file(ExtractConfig, self.stores.folder / CONFIG)

    def open(self) -> None:
        """Open what the heads are for. Raises StoreMismatch, StoreCorrupt."""
        self.stores = self.run.stores(self.stores)
        self.heads = self.run.heads_for(self.stores).to(self.device).requires_grad_(False)

    def embed_kept(self, rows: Rows, kept: KeptFile | None) -> NearestNeighbours:
        """Those of `rows` of the speech vectors that are done: of what is `kept`, or projected."""
        index = KeptIndex.of(self.run, self.stores, self.heads, self.device)
        if (embedded := index.of_these(kept)) is not None:
            return NearestNeighbours(*embedded).among(rows)
        store = self.stores.audio
        if not index.wanted:
            return embed_rows(store, rows, self.embed_speech)
        whole = embed_rows(store, np.arange(len(store)), self.embed_speech)
        index.write(whole.rows, whole.vectors)
        return whole.among(rows)

    def embed_speech(self, vectors: Tensor) -> Vectors:
        return np.asarray(self.heads.embed_speech(vectors.to(self.device)).cpu())

    def embed_text(self, vectors: Tensor) -> Vectors:
        return np.asarray(self.heads.embed_text(vectors.to(self.device)).cpu())

    def text_encoder(self) -> TextEncoder:
        """The one that the stores' config names, whatever the stores are."""
        return load_encoder("text", self.config.text, str(self.device))

    def sentence_embedder(self, encoder: TextEncoder) -> Callable[[str], Vectors]:
        """A sentence -> (1, dim). Raises StoreMismatch if the text encoder is not the stores'."""
        _require_same_encoder("text", self.stores.text, {"encoder": encoder.fingerprint()})
        return lambda sentence: self.embed_text(chosen_columns(encoder.encode([sentence]), encoder, self.trained.text))

    def recording_embedder(self) -> Callable[[Path], Vectors]:
        """An audio file -> (1, dim), or UsageError. Raises StoreMismatch if the audio encoder is not the stores'."""
        from pipeline.extraction.audio.decoding import UnusableAudio
        from pipeline.extraction.batching import decoding_of

        encoder = load_encoder("audio", with_precision(self.config.audio, self.device), str(self.device))
        decoding = decoding_of(encoder, self.config)
        fingerprint = {"encoder": encoder.fingerprint(), "decoding": decoding.fingerprint()}
        _require_same_encoder("audio", self.stores.audio, fingerprint)

        def embed(path: Path) -> Vectors:
            try:
                wave = decoding.load(path).wave
            except UnusableAudio as error:
                raise UsageError(path, error.reason, "an audio file with speech", "Pass another file.") from None
            return self.embed_speech(chosen_columns(encoder.encode([wave]), encoder, self.trained.speech))

        return embed


def _require_same_encoder(name: str, store: Store, fingerprint: Mapping[str, Any]) -> None:
    recorded = {key: value for key, value in store.fingerprint.items() if key in fingerprint}
    if changes := differences(recorded, fingerprint):
        found = f"another {name} encoder ({describe_differences(changes)})"
        action = "Restore it, or the stores' config.yaml."
        raise StoreMismatch(store.path, found, "the one the stores were made with", action)


@dataclass(frozen=True)
class SpeechIndex:
    """The utterances of a folder of stores as a run's heads embed them; sentences find them.

    index = SpeechIndex.open("stores/msp", "runs/erc")
    index.ask(["The person is speaking with joy."], among=Filter(split=["test1"]), top=10)
    """

    manifest: Manifest
    columns: UtteranceFilter
    neighbours: NearestNeighbours
    embed: Callable[[str], Vectors]  # a sentence -> (1, dim)
    root: Path | None = None  # of the audio

    @classmethod
    def open(
        cls, stores: AnyStores, run: Run | Folder, *, among: Filter | None = None, device: str = "auto"
    ) -> SpeechIndex:
        """Embed the utterances that are done, or those of them that fit `among`; or read what is kept of them in RUN.

        Those that `run` was trained on are hits only where a split is named, here or in a query, be it `all`. Without
        `stores`, those that `run` was trained from. Raises UsageError, StoreCorrupt, and StoreMismatch when the
        heads or the text encoder that the stores' config names do not go with the stores.
        """
        embedder, among = _Embedder(stores, run, device), among or Filter()
        with ThreadPoolExecutor(2) as pool:  # each is files, hashes and imports, which wait for each other little
            encoder = pool.submit(embedder.text_encoder)
            reading = pool.submit(read_kept, path_of(embedder.run, embedder.stores))
            embedder.open()
            manifest = embedder.stores.manifest
            columns = UtteranceFilter(manifest, trained_on(embedder.run, embedder.stores), among.split)
            rows = np.flatnonzero(columns.fits(among))
            embed = embedder.sentence_embedder(encoder.result())
            neighbours = embedder.embed_kept(rows, reading.result())
        if left_out := len(rows) - len(neighbours.rows):
            log.warning(f"not searched: {left_out:,} of {len(rows):,} utterances (failed, pending or all-zero vector)")
        if len(neighbours.rows) and columns.hidden[neighbours.rows].all():
            count = f"{len(neighbours.rows):,} {'matching' if among != Filter() else 'encoded'} utterances"
            action = "use --split all (split='all') to search them too"
            log.warning(f"no result: the heads were trained on all {count}; {action}")
        return cls(manifest, columns, neighbours, embed, embedder.config.corpus.root)

    def ask(self, sentences: str | Sequence[str], *, among: Filter | None = None, top: int = 5) -> list[list[Hit]]:
        """For each sentence the `top` nearest utterances, as `search` gives them. Raises UsageError."""
        # one by one: a batch changes the last bits of a sentence's vector
        queries = np.concatenate([self.embed(sentence) for sentence in _checked(sentences)])  # (q, dim)
        ranked = self.neighbours.nearest(queries, top, self.columns.allowed(among or Filter()))
        return [[self._hit(row, similarity) for row, similarity in nearest] for nearest in ranked]

    def _hit(self, row: int, similarity: float) -> Hit:
        manifest = self.manifest
        labels = {"valence": manifest.valence[row], "arousal": manifest.arousal[row]}
        return {
            "id": manifest.id[row],
            "audio": str(self.root / manifest.audio[row]) if self.root else manifest.audio[row],
            "similarity": similarity,
            **{name: None if np.isnan(value) else float(value) for name, value in labels.items()},
            **{name: getattr(manifest, name)[row] for name in ("emotion", "speaker", "split")},
            "trained_on": bool(self.columns.trained[row]),
        }


@dataclass(frozen=True)
class CaptionIndex:
    """The caption texts of a folder of stores as a run's heads embed them; recordings find them."""

    texts: list[str]
    styles: Mapping[str, str]  # of each text that is a caption
    neighbours: NearestNeighbours
    embed: Callable[[Path], Vectors]  # an audio file -> (1, dim)

    @classmethod
    def open(cls, stores: AnyStores, run: Run | Folder, *, device: str = "auto") -> CaptionIndex:
        """Embed every caption text that is done. Raises what `SpeechIndex.open` raises, over the audio encoder."""
        embedder = _Embedder(stores, run, device)
        embedder.open()
        texts, styles = embedder.stores.captions.texts(), _styles(embedder.stores)
        embed = embedder.recording_embedder()
        rows = np.flatnonzero([text in styles for text in texts])
        return cls(texts, styles, embed_rows(embedder.stores.text, rows, embedder.embed_text), embed)

    def ask(self, recordings: Sequence[Folder], *, top: int = 5) -> list[list[Hit]]:
        """For each audio file the `top` nearest captions, as `describe` gives them. Raises UsageError."""
        answers = []
        for recording in recordings:
            [nearest] = self.neighbours.nearest(self.embed(Path(recording)), top)
            hits = [(self.texts[row], similarity) for row, similarity in nearest]
            answers.append([{"text": t, "similarity": s, "style": self.styles[t]} for t, s in hits])
        return answers


def _styles(stores: Stores) -> dict[str, str]:
    """Each caption's text -> its styles, with commas."""
    styles: dict[str, dict[str, None]] = {}
    for caption in stores.captions.captions:
        styles.setdefault(caption.text, {})[caption.style] = None
    return {text: ", ".join(names) for text, names in styles.items()}


def search(
    run: Run | Folder, sentences: str | Sequence[str], *, stores: AnyStores = None,
    split: str | Sequence[str] | None = None, speaker: str | Sequence[str] | None = None,
    emotion: str | Sequence[str] | None = None, top: int = 5, device: str = "auto",
) -> list[list[Hit]]:  # fmt: skip
    """For each sentence the `top` nearest utterances by cosine, of any of the values named, nearest first.

        search("runs/erc", "The person is speaking with joy.", split="test", top=3)[0][0]["id"]

    Without a `split`, of those that the run was not trained on; `split="all"` is every one. A hit has id, audio (its
    path), similarity, valence and arousal (None where unlabelled), emotion, speaker, split and trained_on.
    Loads the encoder and the manifest each time: keep a `SpeechIndex` to ask more than once. Raises UsageError,
    StoreCorrupt, and StoreMismatch when the heads, or the text encoder of the stores' config, are not theirs.
    """
    sentences = _checked(sentences)
    among = Filter(*([values] if isinstance(values, str) else values or () for values in (split, speaker, emotion)))
    index = SpeechIndex.open(stores, run, among=among, device=device)
    if not len(index.neighbours.rows):
        log.warning("no result: no utterance that fits the filter is encoded")
    return index.ask(sentences, top=top)


def describe(
    run: Run | Folder, recordings: Folder | Sequence[Folder], *, stores: AnyStores = None, top: int = 5,
    device: str = "auto",
) -> list[list[Hit]]:  # fmt: skip
    """For each audio file the `top` nearest of the stores' own caption texts by cosine, nearest first.

        describe("runs/erc", "clip.wav")[0][0]["text"]

    A hit has text, similarity and style (all of them, with commas). Raises UsageError, also for a file that cannot be
    used, StoreCorrupt, and StoreMismatch when the heads, or the audio encoder of the stores' config, are not theirs.
    """
    index = CaptionIndex.open(stores, run, device=device)
    return index.ask([recordings] if isinstance(recordings, str | Path) else recordings, top=top)


def _checked(sentences: str | Sequence[str]) -> Sequence[str]:
    """The sentences as a sequence. Raises UsageError for one that is empty or not UTF-8."""
    many = [sentences] if isinstance(sentences, str) else sentences
    for number, sentence in enumerate(many or [""], start=1):
        if not sentence.strip() or any("\ud800" <= letter <= "\udfff" for letter in sentence):
            subject = f"sentence {number} of {len(many)}" if len(many) > 1 else "the sentence"
            found = "not UTF-8" if sentence.strip() else "empty"
            raise UsageError(subject, found, "words in UTF-8", "Describe what the speech should sound like.")
    return many
