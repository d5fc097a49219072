"""The dimensional style (F11): sentences for points of the valence-arousal plane.

The sentence templates and the graded phrases in them are `configs/captions/dimensional.yaml`.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, Columns, GridText, Prompt
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.data.captions.base import TEMPLATE_SPLITS, CaptionSource, TemplateSplit, group_rows, hash_ids, is_test

LEVELS = tuple(0.5 * step for step in range(1, 15))  # 0.5, 1.0 ... 7.0
VARIANTS = 8
_SHAPE = (len(TEMPLATE_SPLITS), len(LEVELS), len(LEVELS), VARIANTS)  # every caption there is: 3,136


class Template(NamedTuple):
    """A sentence around one valence phrase `{v}` and one arousal phrase `{a}`, with the (14,) phrases of each."""

    sentence: str
    valence: list[str]
    arousal: list[str]

    def fill(self, v: int, a: int) -> str:
        """The sentence for a `level` of valence and one of arousal."""
        return self.sentence.format(v=self.valence[v], a=self.arousal[a])


@cache
def templates(split: TemplateSplit) -> list[Template]:
    """The `VARIANTS` sentence templates of a split."""
    words = word_list("captions/dimensional")
    return [
        Template(entry["sentence"], words["valence"][entry["valence"]], words["arousal"][entry["arousal"]])
        for entry in words[split]
    ]


def describe_point(valence: float, arousal: float, *, split: TemplateSplit, variant: int) -> str:
    """One sentence, without numbers, for a way of speaking at (valence, arousal) on the 1-7 scale (F11).

    Labels are rounded to the nearest half point, halves up; 0.5 is accepted because F13 starts there. `variant`
    (0-7) picks the paraphrase. Raises UsageError for a label outside 0.5-7 or a variant that does not exist.
    """
    if not 0 <= variant < VARIANTS:
        raise UsageError(f"variant {variant}", "no such paraphrase", f"0 to {VARIANTS - 1}", "Ask for fewer variants.")
    return templates(split)[variant].fill(level(valence, "valence"), level(arousal, "arousal"))


def level(label: float, name: str) -> int:
    """Index into `LEVELS` of the half point nearest to `label`. Raises UsageError outside 0.5-7, naming the axis."""
    if not (math.isfinite(label) and LEVELS[0] <= label <= LEVELS[-1]):
        expected = f"a number from {LEVELS[0]} to {LEVELS[-1]}"
        raise UsageError(name, repr(label), expected, "Map the labels to the 1-7 scale.")
    return math.floor(2 * label + 0.5) - 1


def assign_dimensional(source: CaptionSource, config: CaptionsConfig) -> Captions:
    """`per_utterance` distinct paraphrases for each utterance that has both labels, and the prompts.

    Training and development utterances get train templates; test utterances and the prompts, which are the whole
    14 x 14 grid of F13, get test templates. An utterance keeps its paraphrases when the manifest grows around it.
    With `config.grid` every sentence of the train templates comes as a whole-grammar text.
    """
    manifest = source.manifest
    rows = np.flatnonzero(np.isfinite(manifest.valence) & np.isfinite(manifest.arousal))  # (M,)
    valence = _levels(manifest, manifest.valence, rows, "valence")
    arousal = _levels(manifest, manifest.arousal, rows, "arousal")
    choices = np.array(list(combinations(range(VARIANTS), config.per_utterance)), dtype=np.int64)  # ascending
    variants = choices[hash_ids(manifest, rows, config.seed) % len(choices)]  # (M, K)
    of_row = (is_test(manifest, rows)[:, None], valence[:, None], arousal[:, None])
    keys = np.ravel_multi_index((*of_row, variants), _SHAPE)  # (M, K)
    prompts = _plane("test", config.prompt_variants)
    return Captions(
        group_rows("dimensional", keys, rows, _texts),
        Columns.of(Prompt, *prompts, [None] * len(prompts[0])),  # of no dominance
        grid=Columns.of(GridText, *(_plane("train", VARIANTS) if config.grid else ())),
    )


def _levels(manifest: Manifest, labels: NDArray[np.float64], rows: NDArray[np.int64], axis: str) -> NDArray[np.int64]:
    """(M,) the `level` of the label of each row."""
    known = labels[rows]
    outside = np.flatnonzero((known < LEVELS[0]) | (known > LEVELS[-1]))
    if outside.size:
        raise UsageError(
            f"{manifest.id[rows[outside[0]]]}: {axis}",
            f"{known[outside[0]]:g} ({outside.size} such utterance{'s' * (outside.size > 1)})",
            f"a label from {LEVELS[0]} to {LEVELS[-1]}",
            "Set corpus.scale to the lowest and highest label of the corpus.",
        )
    return np.floor(2 * known + 0.5).astype(np.int64) - 1


def _texts(keys: NDArray[np.int64]) -> list[str]:
    parts = map(np.ndarray.tolist, np.unravel_index(keys, _SHAPE))
    return [templates(TEMPLATE_SPLITS[split])[variant].fill(v, a) for split, v, a, variant in zip(*parts, strict=True)]


def _plane(split: TemplateSplit, variants: int) -> list[list[Any]]:
    """Every point of the 14 x 14 grid in each of the first `variants` templates, as columns.

    The columns are style, text, valence, arousal and variant; the texts are what `describe_point` says.
    """
    rows = [
        ("dimensional", template.fill(v, a), LEVELS[v], LEVELS[a], variant)
        for variant, template in enumerate(templates(split)[:variants])
        for v in range(len(LEVELS))
        for a in range(len(LEVELS))
    ]
    return list(map(list, zip(*rows, strict=True)))
