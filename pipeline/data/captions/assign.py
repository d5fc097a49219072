"""Which texts describe which utterances: the styles of a config, laid out over a manifest.

A style is a function of a `Source` and the config; registering it in `STYLES` is all that another one needs.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, Prompt
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions.acoustic import plan_acoustic
from pipeline.data.captions.base import Source, Style, drawn, grouped, is_test
from pipeline.data.captions.category import plan_clap4emo, plan_template
from pipeline.data.captions.dimensional import LEVELS, VARIANTS, Phrasing, describe_point
from pipeline.data.captions.files import plan_files

_PHRASINGS: tuple[Phrasing, ...] = ("train", "test")
_SHAPE = (len(_PHRASINGS), len(LEVELS), len(LEVELS), VARIANTS)  # every caption the grammar can write: 3,136


def plan_captions(source: Source, config: CaptionsConfig) -> Captions:
    """The captions and prompts of every style in `config`, in its order.

    A function of its arguments alone: the same manifest and config give the same captions, line by line. Raises
    UsageError for a style that is not registered or a label outside 0.5-7.
    """
    written = plan_files(source, config)
    plans = [_planned(name, source, config, written) for name in dict.fromkeys(config.styles)]
    return Captions(
        captions=[caption for plan in plans for caption in plan.captions],
        prompts=[prompt for plan in plans for prompt in plan.prompts],
        classes=[prompt for plan in plans for prompt in plan.classes],
    )


def plan_dimensional(source: Source, config: CaptionsConfig) -> Captions:
    """The A-V style (F11): `per_utterance` distinct paraphrases for each utterance that has both labels.

    Training and development utterances get the train phrasing; test utterances and the prompts, which are the whole
    14 x 14 grid of F13, get the test phrasing. An utterance keeps its paraphrases when the manifest grows around it.
    """
    manifest = source.manifest
    rows = np.flatnonzero(np.isfinite(manifest.valence) & np.isfinite(manifest.arousal))
    phrasing = is_test(manifest, rows)
    valence = _levels(manifest, manifest.valence, rows, "valence")
    arousal = _levels(manifest, manifest.arousal, rows, "arousal")
    variants = _variants(drawn(manifest, rows, config.seed), config)  # (M, K)
    keys = np.ravel_multi_index((phrasing[:, None], valence[:, None], arousal[:, None], variants), _SHAPE)  # (M, K)
    return Captions(captions=grouped("dimensional", keys, rows, _text), prompts=_prompts(config.prompt_variants))


STYLES: dict[str, Style] = {
    "dimensional": plan_dimensional,
    "template": plan_template,
    "clap4emo": plan_clap4emo,
    "acoustic": plan_acoustic,
}
FILE = "file"  # the style of a file's lines that name none
_WITH_PROMPTS = ("dimensional", "template")


def _planned(name: str, source: Source, config: CaptionsConfig, written: Captions) -> Captions:
    """One style: the captions `written` in files where they have it, with the built-in prompts they lack."""
    own = [caption for caption in written.captions if caption.style == name]
    if not own:
        return _style(name)(source, config)
    prompts = [prompt for prompt in written.prompts if prompt.style == name]
    built_in = STYLES[name](source, config) if name in _WITH_PROMPTS else Captions()
    return Captions(own, prompts or built_in.prompts, built_in.classes)


def _style(name: str) -> Style:
    if name == FILE:
        found = f"no captions of style {FILE} in captions.files"
        raise UsageError("captions.styles", found, "a file that has them", "Name it: -o captions.files=[mine.jsonl].")
    if name not in STYLES:
        raise UsageError(f"captions.styles: {name}", "no such style", ", ".join((*STYLES, FILE)), "Correct the config.")
    return STYLES[name]


def _levels(manifest: Manifest, labels: NDArray[np.float64], rows: NDArray[np.int64], axis: str) -> NDArray[np.int64]:
    """(M,) the level of each labelled row: what `dimensional.level` says of one label."""
    known = labels[rows]
    wrong = np.flatnonzero((known < LEVELS[0]) | (known > LEVELS[-1]))
    if wrong.size:
        raise UsageError(
            f"{manifest.id[rows[wrong[0]]]}: {axis}",
            f"{known[wrong[0]]:g} ({wrong.size} such utterance{'s' * (wrong.size > 1)})",
            f"a label from {LEVELS[0]} to {LEVELS[-1]}",
            "Set corpus.scale to the lowest and highest label of the corpus.",
        )
    return np.floor(2 * known + 0.5).astype(np.int64) - 1


def _variants(numbers: NDArray[np.int64], config: CaptionsConfig) -> NDArray[np.int64]:
    """(M, K) distinct variants, ascending in a row, by the number drawn for each utterance."""
    choices = np.array(list(combinations(range(VARIANTS), config.per_utterance)), dtype=np.int64)
    return choices[numbers % len(choices)]


def _text(key: int) -> str:
    phrasing, valence, arousal, variant = (int(part) for part in np.unravel_index(key, _SHAPE))
    return describe_point(LEVELS[valence], LEVELS[arousal], phrasing=_PHRASINGS[phrasing], variant=variant)


def _prompts(variants: int) -> list[Prompt]:
    return [
        Prompt("dimensional", describe_point(v, a, phrasing="test", variant=variant), v, a, variant)
        for variant in range(variants)
        for v in LEVELS
        for a in LEVELS
    ]
