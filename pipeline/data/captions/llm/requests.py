"""What to request for a corpus, and what the accepted texts become: lines of a captions file.

Test captions and the prompts of the ordinality test share one template split, "test", and so their texts; training and
development captions have the other, "train". A pair that occurs in both is requested once for each.
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
from pipeline.data.captions.base import LABEL_DECIMALS, TemplateSplit, template_split
from pipeline.data.captions.dimensional import LEVELS
from pipeline.data.captions.llm.config import LlmConfig, WriteConfig, WritingConfig

_Target = tuple[str | float, ...]  # (valence, arousal), (valence, arousal, id) or (emotion,)


@dataclass(frozen=True)
class CaptionRequest:
    """One text wanted. Requests of equal `target` and `split` are paraphrases of each other, numbered by `index`."""

    split: TemplateSplit
    target: _Target
    index: int
    prompt: str
    is_caption: bool = True  # of the corpus; else it is there for the ordinality test alone

    def key(self, llm: LlmConfig) -> str:
        """Identifies the response in the cache, whatever the corpus and the endpoint. Equal for every attempt."""
        owner = self.target[2:]  # the prompt holds the rest
        sampling = (llm.model, llm.temperature, llm.seed, llm.max_tokens)
        identity = json.dumps([*sampling, self.prompt, self.split, owner, self.index])
        return hashlib.sha256(identity.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.target))} ({self.split}, paraphrase {self.index})"


def requests_for(manifest: Manifest, config: WriteConfig) -> list[CaptionRequest]:
    """Every text that `config` wants for `manifest`, each once, in a fixed order.

    Raises UsageError for a label outside 0.5-7 and for a corpus with nothing to describe.
    """
    by_emotion = config.writing.style == "clap4emo"
    requests = list((_by_emotion if by_emotion else _by_pair)(manifest, config.writing))
    if not requests:
        needed = "a category" if by_emotion else "valence and arousal"
        raise UsageError("the corpus", f"no utterance has {needed}", "at least one", "Check the labels.")
    return requests


def caption_lines(
    requests: list[CaptionRequest], texts: Mapping[CaptionRequest, str], config: WriteConfig
) -> Iterator[dict[str, Any]]:
    """The lines of the captions file, as `pipeline.data.captions.files` reads them: captions first, then prompts."""
    writing, grid = config.writing, _grid(config.writing)
    done = [request for request in requests if request in texts]
    for request in done:
        if not request.is_caption:
            continue
        target: dict[str, Any] = {"phrasing": request.split}
        if writing.style == "clap4emo":
            target["emotion"] = request.target[0]
        elif writing.per == "utterance":
            target = {"id": request.target[2]}
        else:
            target["valence"], target["arousal"] = request.target
        yield {"use": "caption", "style": writing.style, **target, "text": texts[request]}
    for request in done:
        if request.split == "test" and request.target in grid and request.index < writing.variants:
            valence, arousal = request.target
            point = {"valence": valence, "arousal": arousal, "variant": request.index}
            yield {"use": "prompt", "style": writing.style, **point, "text": texts[request]}


def _by_pair(manifest: Manifest, writing: WritingConfig) -> Iterator[CaptionRequest]:
    described: dict[tuple[TemplateSplit, _Target], int] = {}
    for row in np.flatnonzero(np.isfinite(manifest.valence) & np.isfinite(manifest.arousal)).tolist():
        valence, arousal = float(manifest.valence[row]), float(manifest.arousal[row])
        if not (LEVELS[0] <= min(valence, arousal) and max(valence, arousal) <= LEVELS[-1]):
            raise UsageError(
                manifest.id[row],
                f"valence {valence:g}, arousal {arousal:g}",
                f"labels from {LEVELS[0]} to {LEVELS[-1]}",
                "Set corpus.scale to the lowest and highest label of the corpus.",
            )
        owner = (manifest.id[row],) if writing.per == "utterance" else ()
        target = (round(valence, LABEL_DECIMALS), round(arousal, LABEL_DECIMALS), *owner)
        described[template_split(manifest.split[row]), target] = writing.paraphrases
    counts = dict(described)
    for pair in _grid(writing) if described else ():
        counts["test", pair] = max(writing.variants, described.get(("test", pair), 0))
    for (split, target), count in counts.items():
        prompt = writing.template.format(valence=f"{target[0]:g}", arousal=f"{target[1]:g}")
        captions = described.get((split, target), 0)
        yield from (CaptionRequest(split, target, index, prompt, index < captions) for index in range(count))


def _by_emotion(manifest: Manifest, writing: WritingConfig) -> Iterator[CaptionRequest]:
    emotions = sorted(set(manifest.emotion) - {""})
    if "{words}" in writing.template and (missing := [name for name in emotions if name not in writing.words]):
        found, expected = f"none for {', '.join(missing)}", "words for every emotion of the corpus"
        raise UsageError("writing.words", found, expected, "Add them.")
    present = set(zip(map(template_split, manifest.split), manifest.emotion, strict=True))
    splits: tuple[TemplateSplit, ...] = ("train", "test")
    for emotion in emotions:
        prompt = writing.template.format(emotion=emotion, words=", ".join(writing.words.get(emotion, ())))
        for split in splits:
            if (split, emotion) in present:
                yield from (CaptionRequest(split, (emotion,), index, prompt) for index in range(writing.paraphrases))


def _grid(writing: WritingConfig) -> dict[_Target, None]:
    """The points of the ordinality test's prompts (F13), where they are wanted."""
    wanted = writing.style == "dimensional" and writing.prompts_grid
    return {(v, a): None for v in LEVELS for a in LEVELS} if wanted else {}
