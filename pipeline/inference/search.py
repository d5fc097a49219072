"""A sentence in, the utterances that sound like it out; or a recording in, the descriptions that fit it.

    search-speech stores/msp runs/erc "The person is speaking with joy."

Loading is one thing (`SpeechIndex.open`: seconds), asking another (`ask`: milliseconds at 150,000 utterances).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cache.fingerprint import describe_differences, differences
from cache.manifest import Manifest
from cache.reader import Store
from cache.stores import CONFIG, Stores
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import validate
from pipeline.core.errors import StoreMismatch, UsageError
from pipeline.core.files import read_yaml
from pipeline.core.resources import pick_device
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.speech import with_precision
from pipeline.inference.nearest_neighbours import Filter, NearestNeighbours, UtteranceFilter, embed_rows
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

Hit = dict[str, Any]
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Folder = str | Path
AnyStores = Stores | Folder | None  # none: those the run was trained from


@dataclass(frozen=True)
class SpeechIndex:
    """The utterances of a folder of stores as a run's heads embed them; sentences find them.

    index = SpeechIndex.open("stores/msp", "runs/erc")
    index.ask(["The person is speaking with joy."], among=Filter(split=["test1"]), top=10)
    """

    manifest: Manifest
    columns: UtteranceFilter
    found: NearestNeighbours
    embed: Callable[[str], Vectors]  # a sentence -> (1, width)
    root: Path | None = None  # of the audio

    @classmethod
    def open(
        cls, stores: AnyStores, run: Run | Folder, *, among: Filter | None = None, device: str = "auto"
    ) -> SpeechIndex:
        """Embed the utterances that are done, or those of them that fit `among`: no other is read.

        Without `stores`, those that `run` was trained from. Raises UsageError, StoreCorrupt, and StoreMismatch when the
        heads or the text encoder that the stores' config names do not go with the stores.
        """
        opened = _Opened(stores, run, device)
        manifest = opened.stores.manifest
        columns = UtteranceFilter(manifest)
        rows = np.flatnonzero(columns.allowed(among or Filter()))
        embed = opened.sentences()
        found = embed_rows(opened.stores.audio, rows, opened.embed_speech)
        if len(found.rows) < len(rows):
            log.warning(
                f"{len(rows) - len(found.rows):,} of {len(rows):,} utterances are no hits: failed, pending or all zero"
            )
        return cls(manifest, columns, found, embed, opened.config.corpus.root)

    def ask(self, sentences: str | Sequence[str], *, among: Filter | None = None, top: int = 5) -> list[list[Hit]]:
        """For each sentence the `top` nearest utterances, as `search` gives them. Raises UsageError."""
        asked = [self.embed(sentence) for sentence in _usable(sentences)]  # one by one: company changes the last bits
        return self.rank(np.concatenate(asked), among=among, top=top)

    def rank(self, asked: Vectors, *, among: Filter | None = None, top: int = 5) -> list[list[Hit]]:
        """For each unit vector of `asked` (q, width) the `top` nearest utterances. Raises UsageError."""
        allowed = self.columns.allowed(among) if among else None
        return [[self._hit(*near) for near in nearest] for nearest in self.found.nearest(asked, top, allowed)]

    def _hit(self, row: int, similarity: float) -> Hit:
        manifest = self.manifest
        return {
            "id": manifest.id[row],
            "audio": str(self.root / manifest.audio[row]) if self.root else manifest.audio[row],
            "similarity": similarity,
            **{name: _label(getattr(manifest, name)[row]) for name in ("valence", "arousal")},
            **{name: getattr(manifest, name)[row] for name in ("emotion", "speaker", "split")},
        }


@dataclass(frozen=True)
class CaptionIndex:
    """The caption texts of a folder of stores as a run's heads embed them; recordings find them."""

    texts: list[str]
    styles: Mapping[str, str]  # of each text that is a caption
    found: NearestNeighbours
    embed: Callable[[Path], Vectors]  # an audio file -> (1, width)

    @classmethod
    def open(cls, stores: AnyStores, run: Run | Folder, *, device: str = "auto") -> CaptionIndex:
        """Embed every caption text that is done. Raises what `SpeechIndex.open` raises, over the audio encoder."""
        opened = _Opened(stores, run, device)
        texts, styles = opened.stores.captions.texts(), _styles(opened.stores)
        embed = opened.recordings()
        rows = np.flatnonzero([text in styles for text in texts])
        return cls(texts, styles, embed_rows(opened.stores.text, rows, opened.embed_text), embed)

    def ask(self, recordings: Sequence[Folder], *, top: int = 5) -> list[list[Hit]]:
        """For each audio file the `top` nearest captions, as `describe` gives them. Raises UsageError."""
        nearest = (self.found.nearest(self.embed(Path(recording)), top)[0] for recording in recordings)
        return [[self._hit(*near) for near in each] for each in nearest]

    def _hit(self, row: int, similarity: float) -> Hit:
        text = self.texts[row]
        return {"text": text, "similarity": similarity, "style": self.styles[text]}


class _Opened:
    """Stores, the heads for them, and the encoders that made them."""

    def __init__(self, stores: AnyStores, run: Run | Folder, device: str) -> None:
        run = run if isinstance(run, Run) else open_run(run)
        self.stores = run.stores(stores)
        path = self.stores.folder / CONFIG
        self.config = validate(ExtractConfig, read_yaml(path), subject=str(path))
        self.device = pick_device(device)
        self.heads = run.heads_for(self.stores).to(self.device).requires_grad_(False)

    def embed_speech(self, vectors: Tensor) -> Vectors:
        return np.asarray(self.heads.embed_speech(vectors.to(self.device)).cpu())

    def embed_text(self, vectors: Tensor) -> Vectors:
        return np.asarray(self.heads.embed_text(vectors.to(self.device)).cpu())

    def sentences(self) -> Callable[[str], Vectors]:
        """A sentence -> (1, width). Raises StoreMismatch when its encoder is not the stores'."""
        encoder = load_encoder("text", self.config.text, str(self.device))
        _refuse_another("text", self.stores.text, {"encoder": encoder.fingerprint()})
        return lambda sentence: self.embed_text(encoder.encode([sentence]))

    def recordings(self) -> Callable[[Path], Vectors]:
        """An audio file -> (1, width), or UsageError. Raises StoreMismatch when its encoder is not the stores'."""
        from pipeline.extraction.audio.decoding import UnusableAudio
        from pipeline.extraction.batching import decoding_of

        encoder = load_encoder("audio", with_precision(self.config.audio, self.device), str(self.device))
        decoding = decoding_of(encoder, self.config)
        ours = {"encoder": encoder.fingerprint(), "decoding": decoding.fingerprint()}
        _refuse_another("audio", self.stores.audio, ours)

        def embed(path: Path) -> Vectors:
            try:
                wave = decoding.load(path).wave
            except UnusableAudio as error:
                raise UsageError(path, error.reason, "an audio file with speech", "Name another file.") from None
            return self.embed_speech(encoder.encode([wave]))

        return embed


def search(
    run: Run | Folder,
    sentences: str | Sequence[str],
    *,
    stores: AnyStores = None,
    split: str | Sequence[str] | None = None,
    speaker: str | Sequence[str] | None = None,
    emotion: str | Sequence[str] | None = None,
    top: int = 5,
    device: str = "auto",
) -> list[list[Hit]]:
    """For each sentence the `top` nearest utterances by cosine (of any of the values named, or of all), nearest first.

        search("runs/erc", "The person is speaking with joy.", split="test", top=3)[0][0]["id"]

    A hit has id, audio (its path), similarity, valence and arousal (None where unlabelled), emotion, speaker and split.
    Loads everything anew: keep a `SpeechIndex` to ask more than once. Raises UsageError, StoreCorrupt, and
    StoreMismatch when the heads, or the text encoder of the stores' config, are not theirs.
    """
    sentences = _usable(sentences)
    index = SpeechIndex.open(stores, run, among=Filter(_many(split), _many(speaker), _many(emotion)), device=device)
    if not len(index.found.rows):
        log.warning("no utterance that fits the filter is done: nothing is found")
    return index.ask(sentences, top=top)


def describe(
    run: Run | Folder,
    recordings: Folder | Sequence[Folder],
    *,
    stores: AnyStores = None,
    top: int = 5,
    device: str = "auto",
) -> list[list[Hit]]:
    """For each audio file the `top` nearest of the stores' own caption texts by cosine, nearest first.

        describe("runs/erc", "clip.wav")[0][0]["text"]

    A hit has text, similarity and style (all of them, with commas). Raises UsageError, also for a file that cannot be
    used, StoreCorrupt, and StoreMismatch when the heads, or the audio encoder of the stores' config, are not theirs.
    """
    index = CaptionIndex.open(stores, run, device=device)
    return index.ask([recordings] if isinstance(recordings, str | Path) else recordings, top=top)


def _label(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _many(names: str | Sequence[str] | None) -> Sequence[str]:
    return [names] if isinstance(names, str) else names or ()


def _styles(stores: Stores) -> dict[str, str]:
    """The styles of each caption's text."""
    styles: dict[str, dict[str, None]] = {}
    for caption in stores.captions.captions:
        styles.setdefault(caption.text, {})[caption.style] = None
    return {text: ", ".join(of) for text, of in styles.items()}


def _refuse_another(name: str, store: Store, ours: Mapping[str, Any]) -> None:
    fields = differences({key: value for key, value in store.fingerprint.items() if key in ours}, ours)
    if fields:
        found, action = (
            f"another {name} encoder ({describe_differences(fields)})",
            "Restore it, or the stores' config.yaml.",
        )
        raise StoreMismatch(store.path, found, "the one the stores were made with", action)


def _usable(sentences: str | Sequence[str]) -> Sequence[str]:
    """The sentences, where each is one. Raises UsageError."""
    many = [sentences] if isinstance(sentences, str) else sentences
    for number, sentence in enumerate(many or [""], start=1):
        if not sentence.strip() or any("\ud800" <= letter <= "\udfff" for letter in sentence):
            found = "not UTF-8" if sentence.strip() else "empty"
            raise UsageError(f"sentence {number}", found, "words in UTF-8", "Say what the speech should sound like.")
    return many
