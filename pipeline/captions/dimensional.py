"""The dimensional (A-V) style by a graded grammar: the offline stand-in for the paper's LLM captions (F11).

A caption asks for one of 14 levels of valence and 14 of arousal, 0.5, 1.0 ... 7.0: all that the ordinality test
distinguishes (F13). # paper: a caption is drawn from a grammar, not from OpenAI o1.
"""

from __future__ import annotations

import math
from typing import Literal

from pipeline.captions.wording import TEST, TRAIN, Frame
from pipeline.errors import UsageError

Phrasing = Literal["train", "test"]

LEVELS = tuple(0.5 * step for step in range(1, 15))  # 0.5, 1.0 ... 7.0
VARIANTS = 8
_FRAMES: dict[Phrasing, tuple[Frame, ...]] = {"train": TRAIN, "test": TEST}


def describe(valence: float, arousal: float, *, phrasing: Phrasing, variant: int) -> str:
    """One sentence, without numbers, for a way of speaking at (valence, arousal) on the 1-7 scale (F11).

    Labels are rounded to the nearest half point, halves up; 0.5 is accepted because F13 starts there. `variant`
    (0-7) picks the paraphrase. Raises UsageError for a label outside 0.5-7 or a variant that does not exist.
    """
    if not 0 <= variant < VARIANTS:
        raise UsageError(f"variant {variant}", "no such paraphrase", f"0 to {VARIANTS - 1}", "Ask for fewer variants.")
    frame = _FRAMES[phrasing][variant]
    v, a = level(valence, "valence"), level(arousal, "arousal")
    return frame.sentence.format(v=frame.valence[v], a=frame.arousal[a])


def level(label: float, name: str) -> int:
    """Index into `LEVELS` of the half point nearest to `label`. Raises UsageError outside 0.5-7, naming the axis."""
    if not (math.isfinite(label) and LEVELS[0] <= label <= LEVELS[-1]):
        raise UsageError(
            name, repr(label), f"a number from {LEVELS[0]} to {LEVELS[-1]}", "Map the labels to the 1-7 scale."
        )
    return math.floor(2 * label + 0.5) - 1
