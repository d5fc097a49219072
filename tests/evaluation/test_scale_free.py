"""What no constant appended to every vector can buy (F48): orders, recognition and the scale-free distances.

One shared constant k maps every cosine c to (c + k^2) / (1 + k^2), which changes no order of any two, and every
distance d to d / (1 + k^2)^.5.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.captions import ClassPrompt, Links, Prompt
from pipeline.core.config import EvaluateConfig
from pipeline.evaluation.alignment import alignment
from pipeline.evaluation.ordinality import VALUES, ordinality
from pipeline.evaluation.recognition import recognition

SCALE_FREE = ("mmd_median", "wasserstein_relative", "gap_centroid", "gap_covariance", "gap_rest")
IN_UNITS_OF_THE_SPACE = ("mmd", "wasserstein", "sliced_wasserstein")
CONFIG = EvaluateConfig(trials=2, pairs=60, projections=16)
CLASSES = ("angry", "happy", "neutral", "sad")


def unit(points: np.ndarray) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(points, dtype=torch.float64), dim=1)


def with_constant(vectors: Tensor, constant: float) -> Tensor:
    """`constant` appended to every unit vector, and unit length again."""
    return torch.nn.functional.normalize(torch.nn.functional.pad(vectors, (0, 1), value=constant), dim=1)


class Space:
    """80 utterances, their captions, the prompts of the ordinality test and of four classes, as unit vectors."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.labels = draw.uniform(1, 7, (80, 2))
        asked = np.array(list(itertools.product(VALUES, VALUES)))
        self.prompts = [Prompt("dimensional", f"{v} {a}", v, a, 0) for v, a in asked.tolist()]
        self.classes = [ClassPrompt("{emotion}", name, name) for name in CLASSES]
        self.emotions = [CLASSES[i] for i in draw.integers(0, 4, 80)]
        lift = draw.normal(size=(2, 12))
        points = self.labels, self.labels, asked, draw.uniform(1, 7, (4, 2))
        noise, shift = (1.0, 0.4, 0.2, 0.2), (0.0, 1.0, 1.0, 1.0)
        lifted = zip(points, noise, shift, strict=True)
        self.vectors = [unit((p - 4) @ lift + draw.normal(0, n, (len(p), 12)) + s) for p, n, s in lifted]

    def measured(self, vectors: list[Tensor]) -> dict[str, Any]:
        speech, text, asked, named = vectors
        links = Links(np.arange(81), np.arange(80))
        return {
            "ordinality": ordinality(speech, self.labels, prompts=self.prompts, vectors=asked, lists=14),
            "recognition": recognition(speech, self.emotions, prompts=self.classes, vectors=named).summary(),
            "distances": {name: value["mean"] for name, value in self.distances(speech, text, links).items()},
        }

    def distances(self, speech: Tensor, text: Tensor, links: Links) -> dict[str, Any]:
        found = alignment(speech, text, links, CONFIG)
        return {name: found[name] for name in (*SCALE_FREE, *IN_UNITS_OF_THE_SPACE)}


@pytest.mark.parametrize("constant", [2.0, 3.0, 10.0])
def test_a_constant_appended_to_every_vector_buys_the_papers_distances_and_nothing_else(constant: float) -> None:
    space = Space()
    before = space.measured(space.vectors)
    after = space.measured([with_constant(vectors, constant) for vectors in space.vectors])
    assert after["ordinality"] == before["ordinality"]
    assert after["recognition"] == before["recognition"]
    for name in SCALE_FREE:
        assert before["distances"][name] > 0.01
        assert after["distances"][name] == pytest.approx(before["distances"][name], abs=1e-6)
    shrunk = (1 + constant**2) ** -0.5
    for name in ("mmd", "wasserstein"):
        assert after["distances"][name] < 0.9 * before["distances"][name]
    assert after["distances"]["wasserstein"] == pytest.approx(shrunk * before["distances"]["wasserstein"], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 7.0])
def test_no_common_scaling_moves_the_scale_free_distances(scale: float) -> None:
    space = Space()
    speech, text, *_ = space.vectors
    links = Links(np.arange(81), np.arange(80))
    before, after = space.distances(speech, text, links), space.distances(scale * speech, scale * text, links)
    for name in SCALE_FREE:
        assert after[name]["values"] == pytest.approx(before[name]["values"], abs=1e-6)
    assert after["wasserstein"]["mean"] == pytest.approx(scale * before["wasserstein"]["mean"], rel=1e-9)


def test_vectors_in_float32_as_heads_give_them_move_by_rounding_alone() -> None:
    space = Space()
    speech, text, *_ = space.vectors
    links = Links(np.arange(81), np.arange(80))
    before = space.distances(speech.float(), text.float(), links)
    after = space.distances(with_constant(speech.float(), 3.0), with_constant(text.float(), 3.0), links)
    for name in SCALE_FREE:
        assert after[name]["mean"] == pytest.approx(before[name]["mean"], abs=1e-5)
