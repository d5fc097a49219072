"""The valence-arousal plane in closed form: a method without gradient steps, and a start for those that have them.

Ridge regressions give the point of an utterance and the point of a sentence. As heads they are three units (valence,
arousal and a constant) in which the nearest by cosine is the nearest in the plane; or, as a start, `dim` units
relu(a_k . p + b_k) in random directions a_k, which hold the plane too, and from which training goes on.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cache.disk import make_folder, write_text
from cache.pairs import CachedPairs
from pipeline.core.config import TrainConfig
from pipeline.core.objective_config import RidgeConfig
from pipeline.training.heads import Heads, save_heads
from pipeline.training.run_folder import Run
from pipeline.training.training_data import TrainingData

log = logging.getLogger(__name__)

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the squared weights, against mean squared errors
CENTRE = 4.0  # of the 1-7 scale
HEIGHT = 20.0  # of the constant unit: cosines then order points as distances do, to 4 % of these
THRESHOLD, SCALE = 1.5, 0.6  # of the start's units: |b_k| at most, and the size of their weights
HELD_OUT = 4  # every fourth template of the grammar chooses the penalty of the text side

Chunks = Iterable[tuple[Tensor, Tensor]]  # standardised vectors (n, D) and points (n, 2) on the 1-7 scale


class Plane(NamedTuple):
    """Valence and arousal, less the centre of the scale, as a function of standardised vectors."""

    weight: Tensor  # (D, 2) float64
    bias: Tensor  # (2,) float64
    penalty: float
    error: float  # mean squared error of the development part, of both axes

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, D) -> (n, 2)."""
        return vectors.double() @ self.weight + self.bias


class Moments:
    """Sums over vectors (n, D) and what is regressed on them (n, k), both float64, added up block by block."""

    def __init__(self) -> None:
        self._sums: list[Any] = []

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Add a block; `weights` (n,) are 1 where there are none."""
        weighted = x if weights is None else x * weights[:, None]
        ends = (len(x), y.sum(0)) if weights is None else (weights.sum(), weights @ y)
        part = [ends[0], weighted.sum(0), ends[1], weighted.mT @ x, weighted.mT @ y]
        sums = self._sums or [0] * len(part)
        self._sums = [total + of_block for total, of_block in zip(sums, part, strict=True)]

    def centred(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means (D,) and (k,), and the covariances (D, D) of the vectors and (D, k) of both."""
        count, x_sum, y_sum, squares, products = self._sums
        x_mean, y_mean = x_sum / count, y_sum / count
        covariance = squares / count - torch.outer(x_mean, x_mean)
        return x_mean, y_mean, covariance, products / count - torch.outer(x_mean, y_mean)


def fit_plane(train: Chunks, dev: Chunks, *, penalties: Sequence[float] = PENALTIES) -> Plane:
    """The ridge regression of the points from the vectors, with that of `penalties` of the smallest error on `dev`.

    It minimises mean |x W + b - p|^2 + penalty |W|^2, in float64; b is not penalised.
    """
    moments = Moments()
    for vectors, points in train:
        moments.add(vectors.double(), points.double() - CENTRE)
    x_mean, y_mean, covariance, target = moments.centred()
    planes = []
    for penalty in penalties:
        penalised = covariance + penalty * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        weight = torch.linalg.solve(penalised, target)
        planes.append(Plane(weight, y_mean - x_mean @ weight, penalty, 0.0))
    residuals: list[list[Tensor]] = [[] for _ in planes]
    for vectors, points in dev:
        for of_plane, plane in zip(residuals, planes, strict=True):
            of_plane.append(plane(vectors) - (points.double() - CENTRE))
    errors = [torch.cat(of_plane).square().mean().item() for of_plane in residuals]
    best = min(range(len(planes)), key=errors.__getitem__)
    return planes[best]._replace(error=errors[best])


@dataclass(frozen=True)
class Planes:
    """The plane as speech and as text give it."""

    speech: Plane
    text: Plane

    def heads(self, standard: Heads) -> Heads:
        """Of three units, whose nearest by cosine is the nearest in the plane; `standard` has the standardisation."""
        heads = standard.untrained(3, "identity")
        with torch.no_grad():
            for layer, plane in ((heads.audio, self.speech), (heads.text, self.text)):
                layer.weight[:2], layer.bias[:2] = plane.weight.mT, plane.bias
                layer.weight[2], layer.bias[2] = 0.0, HEIGHT
        return heads

    def start(self, heads: Heads, seed: int) -> None:
        """Set both heads to units a_k . p + b_k of the planes, their directions and thresholds drawn from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        dim = heads.audio.out_features
        angle = torch.rand(dim, generator=generator, dtype=torch.float64) * 2 * math.pi
        threshold = (torch.rand(dim, generator=generator, dtype=torch.float64) * 2 - 1) * THRESHOLD
        directions, scale = torch.stack([angle.cos(), angle.sin()]), SCALE / math.sqrt(dim)
        with torch.no_grad():
            for layer, plane in ((heads.audio, self.speech), (heads.text, self.text)):
                axes = directions.to(plane.weight.device)
                layer.weight.copy_((plane.weight @ axes).mT * scale)
                layer.bias.copy_((plane.bias @ axes - threshold.to(axes.device)) * scale)


def fit_planes(data: TrainingData, config: TrainConfig) -> Planes:
    """Of the training utterances and their labels, and of the whole grammar or of the corpus's own captions.

    The penalties are chosen on the development utterances, and on templates that are held out or (own captions) the
    captions of the development utterances.
    """
    standardised = functools.partial(data.standard.standardise_side, "text")
    speech = fit_plane(data.speech_chunks(data.pairs), data.speech_chunks(data.dev))
    if isinstance(config.objective, RidgeConfig) and config.objective.texts == "captions":
        return Planes(speech, fit_plane(*(_captions(part, standardised(part.text)) for part in (data.pairs, data.dev))))
    grid = data.grid
    assert grid is not None
    vectors, held_out = standardised(grid.text), grid.variant % HELD_OUT == HELD_OUT - 1
    parts = [[(vectors[chosen], grid.points[chosen])] for chosen in (~held_out, held_out)]
    return Planes(speech, fit_plane(*parts))


def _captions(pairs: CachedPairs, text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each caption with the label of an utterance that it describes, once an utterance."""
    owner = torch.arange(len(pairs), device=text.device).repeat_interleave(pairs.offsets.diff())
    yield text[pairs.caption], pairs.labels[owner, :2]


def save_closed_form(run: Run, planes: Planes | None, standard: Heads) -> None:
    """Every seed's heads, which are the same: a closed form draws nothing. Its losses are the regressions' errors.

    Of `no_heads` they are `standard` itself, and its losses are 0.
    """
    heads, error = standard, 0.0
    if planes is not None and isinstance(run.config.objective, RidgeConfig):
        heads, error = planes.heads(standard), planes.speech.error + planes.text.error
        penalties = f"penalties {planes.speech.penalty:g} (speech) and {planes.text.penalty:g} (text)"
        log.info(f"ridge regressions: {penalties}, sum of both development MSEs {error:.4f} points squared")
    for seed in run.config.seeds:
        if seed in run.seeds:
            continue
        folder = run.seed_folder(seed)
        make_folder(folder)
        line = {"seed": seed, "epoch": 1, "train_loss": error, "dev_loss": error, "temperature": heads.temperature}
        write_text(folder / "metrics.jsonl", json.dumps(line) + "\n")
        about = {"method": run.config.method, "seed": seed, "epoch": 1, "dev_loss": error}
        save_heads(heads, folder / "heads.safetensors", about)
        run.finish(seed, {"epoch": 1, "dev_loss": error, "threads": 0})
