"""Every prompt set that a folder of stores can ask, of the utterances of one split and of resamples of its speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.captions import Prompt
from cache.pairs import CachedPairs
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions.word_norms import WORD_NORMS
from pipeline.evaluation.ordinality import STEPS, NearestUtterances, OrdinalityTest, dominance_axis
from pipeline.evaluation.pooling import over_speakers
from pipeline.evaluation.speakers import SpeakerResamples, ordinality_draws, resample_speakers

Result = dict[str, Any]
Draws = dict[tuple[str, str], NDArray[np.float64]]  # by test and measure, (B,)


class OrderTests:
    """The prompt sets by name, each chosen once, for any number of heads."""

    def __init__(self, stores: Stores, pairs: CachedPairs, config: EvaluateConfig, device: torch.device) -> None:
        """The prompts of `config.style` are "ordinality"; rated words, where the stores have them, "word_norms".

        Where people rated the words' dominance and utterances have one, "dominance" is asked too; else `notes` say so.
        Raises UsageError as `ordinality_prompts` and `OrdinalityTest` do.
        """
        self.tests: dict[str, OrdinalityTest] = {}
        self.vectors: dict[str, torch.Tensor] = {}  # (P, Dt) of the text encoder
        self.notes: list[str] = []
        labels = pairs.labels.cpu().numpy()
        prompts, self.vectors["ordinality"] = ordinality_prompts(stores, config.style, device)
        self.tests["ordinality"] = OrdinalityTest(labels[:, :2], prompts, config.lists)
        if WORD_NORMS in stores.captions.prompts.columns["style"]:
            words, vectors = ordinality_prompts(stores, WORD_NORMS, device)
            self.tests["word_norms"] = OrdinalityTest(labels[:, :2], words, config.lists)
            if reason := _without_dominance(labels, words):
                self.notes.append(f"order of dominance (DOC) is not measured: {reason}")
            else:
                self.tests["dominance"] = OrdinalityTest(labels, words, config.lists, axes=dominance_axis)
            self.vectors |= {name: vectors for name in self.tests if name != "ordinality"}
        self.resamples: dict[str, SpeakerResamples] = {}
        for name, test in self.tests.items():
            speakers = [stores.manifest.speaker[row] for row in pairs.rows[test.labelled].tolist()]
            drawn = resample_speakers(speakers, draws=config.bootstrap, seed=config.seed, at_least=STEPS)
            if drawn is not None:
                self.resamples[name] = drawn

    def measure(self, nearest: Mapping[str, NearestUtterances]) -> tuple[Result, Draws]:
        """What each test of `nearest` measures of the utterances nearest to its prompts, and on every resample."""
        found: Result = {}
        draws: Draws = {}
        for name, utterances in nearest.items():
            found[name] = self.tests[name].measure(utterances)
            if name in self.resamples:
                drawn = ordinality_draws(self.tests[name], utterances, self.resamples[name])
                draws |= {(name, axis): values for axis, values in drawn.items()}
        return found, draws

    def intervals(self, draws: Sequence[Draws]) -> dict[tuple[str, str], Result]:
        """The interval of each measure, from the draws of all seeds; none where the speakers were not resampled."""
        found = {}
        for name, axis in draws[0]:
            counts = {"count": self.resamples[name].speakers, "left_out": self.resamples[name].left_out}
            found[name, axis] = over_speakers(np.mean([of[name, axis] for of in draws], axis=0), **counts)
        return found


def _without_dominance(labels: NDArray[np.float64], words: Sequence[Prompt]) -> str:
    """Why dominance cannot be asked for; "" where it can."""
    rated = sum(word.dominance is not None for word in words if word.variant == 0)
    labelled = int(np.isfinite(labels).all(axis=1).sum())
    if rated < STEPS:
        return f"{rated} rated words of the stores have a dominance; {STEPS} are needed"
    if labelled < STEPS:
        return f"{labelled} utterances of the split have valence, arousal and dominance; {STEPS} are needed"
    return ""


def ordinality_prompts(stores: Stores, style: str, device: torch.device) -> tuple[list[Prompt], torch.Tensor]:
    """The prompts of `style` and their (P, Dt) vectors."""
    prompts = [prompt for prompt in stores.captions.prompts if prompt.style == style]
    vectors, done = stores.read_texts([prompt.text for prompt in prompts])
    if not prompts or not done.all():
        found = f"{int((~done).sum())} prompts not encoded" if prompts else f"no prompts of style {style}"
        raise UsageError(stores.folder, found, "all of them", "Run extract-features again.")
    return prompts, torch.tensor(vectors, dtype=torch.float32, device=device)
