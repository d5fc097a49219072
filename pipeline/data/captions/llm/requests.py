"""What to request for a corpus, and what the accepted texts become: lines of a captions file.

Test captions and the prompts of the ordinality test share one template split, "test", and so their texts; training and
development captions have the other, "train". A pair that occurs in both is requested once for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.manifest import Manifest
from pipeline.core.errors import UsageError
from pipeline.data.captions.base import LABEL_DECIMALS, TEMPLATE_SPLITS, TemplateSplit, template_split
from pipeline.data.captions.dimensional import LEVELS
from pipeline.data.captions.llm.config import LlmConfig, WritingConfig

_Target = tuple[str | float, ...]  # (valence, arousal), (valence, arousal, id) or (emotion,)


@dataclass(frozen=True)
class CaptionRequest:
    """One text wanted. Requests of equal `target` and `split` are paraphrases of each other, numbered by `index`."""

    split: TemplateSplit
    target: _Target
    index: int
    prompt: str
    is_caption: bool  # of the corpus; else it is there for the ordinality test alone

    def key(self, llm: LlmConfig) -> str:
        """Identifies the response in the cache, whatever the corpus and the endpoint. Equal for every attempt."""
        sampling = (llm.model, llm.temperature, llm.seed, llm.max_tokens)
        owner = self.target[2:]  # the prompt holds the rest of the target
        identity = json.dumps([*sampling, self.prompt, self.split, owner, self.index])
        return hashlib.sha256(identity.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.target))} ({self.split}, paraphrase {self.index})"


def requests_for(manifest: Manifest, writing: WritingConfig) -> list[CaptionRequest]:
    """Every text that `writing` wants for `manifest`, each once, in a fixed order.

    Raises UsageError for a label outside 0.5-7 and for a corpus with nothing to describe.
    """
    by_emotion = writing.style == "clap4emo"
    described = dict.fromkeys((_emotions if by_emotion else _points)(manifest, writing), writing.paraphrases)
    if not described:
        needed = "a category" if by_emotion else "valence and arousal"
        raise UsageError("the corpus", f"no utterance has {needed}", "at least one", "Check the labels.")
    counts = dict(described)
    for point in _grid(writing):
        counts["test", point] = max(writing.variants, described.get(("test", point), 0))
    requests = []
    for (split, target), count in counts.items():
        if by_emotion:
            words = ", ".join(writing.words.get(str(target[0]), ()))
            prompt = writing.template.format(emotion=target[0], words=words)
        else:
            prompt = writing.template.format(valence=f"{target[0]:g}", arousal=f"{target[1]:g}")
        captions = described.get((split, target), 0)
        requests += [CaptionRequest(split, target, index, prompt, index < captions) for index in range(count)]
    return requests


def _points(manifest: Manifest, writing: WritingConfig) -> Iterator[tuple[TemplateSplit, _Target]]:
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
        point = (round(valence, LABEL_DECIMALS), round(arousal, LABEL_DECIMALS))
        yield template_split(manifest.split[row]), (*point, *owner)


def _emotions(manifest: Manifest, writing: WritingConfig) -> Iterator[tuple[TemplateSplit, _Target]]:
    emotions = sorted(set(manifest.emotion) - {""})
    if "{words}" in writing.template and (missing := [name for name in emotions if name not in writing.words]):
        found, expected = f"none for {', '.join(missing)}", "words for every emotion of the corpus"
        raise UsageError("writing.words", found, expected, "Add them.")
    present = set(zip(map(template_split, manifest.split), manifest.emotion, strict=True))
    yield from ((split, (emotion,)) for emotion in emotions for split in TEMPLATE_SPLITS if (split, emotion) in present)


def _grid(writing: WritingConfig) -> dict[_Target, None]:
    """The points of the ordinality test's prompts (F13), where they are wanted."""
    wanted = writing.style == "dimensional" and writing.prompts_grid
    return {(v, a): None for v in LEVELS for a in LEVELS} if wanted else {}


def caption_lines(
    requests: Iterable[CaptionRequest], texts: Mapping[CaptionRequest, str], writing: WritingConfig
) -> Iterator[dict[str, Any]]:
    """The lines of the captions file, as `pipeline.data.captions.files` reads them: captions first, then prompts."""
    done, grid = [request for request in requests if request in texts], _grid(writing)
    for request in done:
        target: dict[str, Any] = {"phrasing": request.split}
        if writing.style == "clap4emo":
            target["emotion"] = request.target[0]
        elif writing.per == "utterance":
            target = {"id": request.target[-1]}
        else:
            target["valence"], target["arousal"] = request.target
        if request.is_caption:
            yield {"use": "caption", "style": writing.style, **target, "text": texts[request]}
    for request in done:
        if request.split == "test" and request.target in grid and request.index < writing.variants:
            valence, arousal = request.target
            point = {"valence": valence, "arousal": arousal, "variant": request.index}
            yield {"use": "prompt", "style": writing.style, **point, "text": texts[request]}
