"""What has to be asked for a corpus, and what the answers become: lines of a captions file.

Test captions and the prompts of the ordinality test share one phrasing, "test", and so their answers; training and
development captions have the other, "train". A pair that occurs in both is asked once for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.manifest import Manifest
from pipeline.core.errors import UsageError
from pipeline.data.captions.base import LABEL_DECIMALS as DECIMALS
from pipeline.data.captions.base import TemplateSplit as Phrasing
from pipeline.data.captions.base import template_split as phrasing_of
from pipeline.data.captions.dimensional import LEVELS
from pipeline.data.captions.llm.config import LlmConfig, WriteConfig, WritingConfig

PHRASINGS: tuple[Phrasing, ...] = ("train", "test")


@dataclass(frozen=True)
class Ask:
    """One answer wanted. Asks of equal `target` and `phrasing` are paraphrases of each other, told by `index`."""

    phrasing: Phrasing
    target: tuple[str | float, ...]  # (valence, arousal), (valence, arousal, id) or (emotion,)
    index: int
    prompt: str
    describes: bool = True  # an utterance of the corpus; else it is there for the ordinality test alone

    def key(self, llm: LlmConfig) -> str:
        """Names the answer in the cache, whatever the corpus and the endpoint. Equal for every attempt."""
        owner = self.target[2:]  # the prompt says the rest
        sampling = (llm.model, llm.temperature, llm.seed, llm.max_tokens)
        named = json.dumps([*sampling, self.prompt, self.phrasing, owner, self.index])
        return hashlib.sha256(named.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.target))} ({self.phrasing}, paraphrase {self.index})"


def asks_of(manifest: Manifest, config: WriteConfig) -> list[Ask]:
    """Every answer that `config` wants for `manifest`, each once, in a fixed order.

    Raises UsageError for a label outside 0.5-7 and for a corpus with nothing to ask about.
    """
    writing = config.writing
    asks = list(_by_emotion(manifest, writing) if writing.style == "clap4emo" else _by_pair(manifest, writing))
    if not asks:
        needed = "a category" if writing.style == "clap4emo" else "valence and arousal"
        raise UsageError("the corpus", f"no utterance has {needed}", "at least one", "Check the labels.")
    return asks


def caption_lines(asks: list[Ask], texts: Mapping[Ask, str], config: WriteConfig) -> Iterator[dict[str, Any]]:
    """The lines of the captions file, as `pipeline.captions.files` reads them: captions first, then prompts."""
    writing, grid = config.writing, _grid(config.writing)
    answered = [ask for ask in asks if ask in texts]
    for ask in answered:
        if ask.describes:
            yield {"use": "caption", "style": writing.style, **_about(ask, writing), "text": texts[ask]}
    for ask in answered:
        if ask.phrasing == "test" and ask.target in grid and ask.index < writing.variants:
            valence, arousal = ask.target
            place = {"valence": valence, "arousal": arousal, "variant": ask.index}
            yield {"use": "prompt", "style": writing.style, **place, "text": texts[ask]}


def pairs_of(manifest: Manifest) -> list[tuple[int, Phrasing, float, float]]:
    """(row, phrasing, valence, arousal) of every utterance that has both labels, rounded as they are printed.

    Raises UsageError for a label outside 0.5-7.
    """
    rows = np.flatnonzero(np.isfinite(manifest.valence) & np.isfinite(manifest.arousal))
    pairs: list[tuple[int, Phrasing, float, float]] = []
    for row in rows.tolist():
        valence, arousal = float(manifest.valence[row]), float(manifest.arousal[row])
        if not (LEVELS[0] <= min(valence, arousal) and max(valence, arousal) <= LEVELS[-1]):
            raise UsageError(
                manifest.id[row],
                f"valence {valence:g}, arousal {arousal:g}",
                f"labels from {LEVELS[0]} to {LEVELS[-1]}",
                "Set corpus.scale to the lowest and highest label of the corpus.",
            )
        pairs.append((row, phrasing_of(manifest.split[row]), round(valence, DECIMALS), round(arousal, DECIMALS)))
    return pairs


def _by_pair(manifest: Manifest, writing: WritingConfig) -> Iterator[Ask]:
    wanted: dict[tuple[Phrasing, tuple[str | float, ...]], int] = {}
    for row, phrasing, valence, arousal in pairs_of(manifest):
        owner = (manifest.id[row],) if writing.per == "utterance" else ()
        wanted[phrasing, (valence, arousal, *owner)] = writing.paraphrases
    described = dict(wanted)
    for pair in _grid(writing) if described else ():
        wanted["test", pair] = max(writing.variants, described.get(("test", pair), 0))
    for (phrasing, target), count in wanted.items():
        prompt = writing.template.format(valence=f"{target[0]:g}", arousal=f"{target[1]:g}")
        own = described.get((phrasing, target), 0)
        yield from (Ask(phrasing, target, index, prompt, index < own) for index in range(count))


def _by_emotion(manifest: Manifest, writing: WritingConfig) -> Iterator[Ask]:
    emotions = sorted(set(manifest.emotion) - {""})
    if "{words}" in writing.template and (missing := [name for name in emotions if name not in writing.words]):
        raise UsageError(
            "writing.words", f"none for {', '.join(missing)}", "words for every emotion of the corpus", "Add them."
        )
    present = set(zip(map(phrasing_of, manifest.split), manifest.emotion, strict=True))
    for emotion in emotions:
        words = ", ".join(writing.words.get(emotion, ()))
        prompt = writing.template.format(emotion=emotion, words=words)
        for phrasing in PHRASINGS:
            if (phrasing, emotion) in present:
                yield from (Ask(phrasing, (emotion,), index, prompt) for index in range(writing.paraphrases))


def _grid(writing: WritingConfig) -> dict[tuple[str | float, ...], None]:
    wanted = writing.style == "dimensional" and writing.prompts_grid
    return {(v, a): None for v in LEVELS for a in LEVELS} if wanted else {}


def _about(ask: Ask, writing: WritingConfig) -> dict[str, Any]:
    """How a caption line says whom it describes."""
    if writing.style == "clap4emo":
        return {"phrasing": ask.phrasing, "emotion": ask.target[0]}
    if writing.per == "utterance":
        return {"id": ask.target[2]}
    return {"phrasing": ask.phrasing, "valence": ask.target[0], "arousal": ask.target[1]}
