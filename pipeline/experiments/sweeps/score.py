"""What trials are ranked by: ordinality on the development split (F13), or the development loss.

At a rung the heads are asked the 14 lists a test of one paraphrase, at the end all 100, as evaluate-heads asks them of
the test split; so a rung's scores are compared with each other only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cache.captions import Prompt
from cache.pairs import cached_pairs
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig
from pipeline.evaluation.evaluate import ordinality_prompts
from pipeline.evaluation.ordinality import STEPS, ordinality
from pipeline.training.training_data import TrainingData

RUNG_LISTS = STEPS  # one list for each fixed value, all in the first paraphrase
STYLE = EvaluateConfig().style


class DevOrdinality:
    """The development utterances and the prompts, as encoder vectors; read once."""

    def __init__(self, stores: Stores, device: torch.device) -> None:
        pairs = cached_pairs(stores, "dev", style=STYLE, device=device)
        self.speech, self.labels = pairs.speech, pairs.labels[:, :2].cpu().numpy()
        self.prompts, self.vectors = ordinality_prompts(stores, STYLE, device)
        self._seen: TrainingData | None = None
        self.first = [row for row, prompt in enumerate(self.prompts) if prompt.variant == 0]

    def __call__(self, material: TrainingData, learnt: Mapping[str, Tensor], *, final: bool) -> dict[str, float]:
        """`aoc` and `voc`, each the mean tau of its lists, of heads that have `learnt` (part of a state dict).

        Raises UsageError for a split with fewer than 14 labelled utterances.
        """
        asked = slice(None) if final else self.first
        prompts: list[Prompt] = self.prompts if final else [self.prompts[row] for row in self.first]
        heads = copy.deepcopy(material.standard)
        heads.load_state_dict(dict(learnt), strict=False)
        with torch.no_grad():
            speech, vectors = heads.project(*self._standardised(material, asked))
        lists = EvaluateConfig().lists if final else RUNG_LISTS
        found: dict[str, Any] = ordinality(speech, self.labels, prompts=prompts, vectors=vectors, lists=lists)
        return {"aoc": found["aoc"]["mean"], "voc": found["voc"]["mean"]}

    def _standardised(self, material: TrainingData, asked: slice | list[int]) -> tuple[Tensor, Tensor]:
        """Speech and prompts as the linear layers of `material` see them; kept for the next heads of the same data."""
        if self._seen is None or self._seen.speech is not material.speech:
            self._seen = material
            self._inputs = material.standard.standardise(self.speech, self.vectors)
        return self._inputs[0], self._inputs[1][asked]
