"""What a linear map reads out of vectors of speech: valence, arousal and dominance (CCC), and the category (UAR).

    ReadOut(stores, "test1", device).measure(heads.embed_speech)["valence_ccc"]

Ridge regressions, fitted on the training split, their penalties chosen on the development split, measured on the test
split: of the shared space, and of the frozen vectors that it was made from, which is what it could have kept. The probe
of categories is a ridge regression to one-hot targets in which every category weighs the same; the highest output wins.
Both have a closed form, so that a read-out of 90,000 utterances takes seconds. Utterances need no captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.manifest import LABEL_COLUMNS
from cache.stores import Stores
from pipeline.training.ridge import Moments

CATEGORY = "category"
PENALTIES = tuple(10 ** (half / 2) for half in range(-8, 5))  # 1e-4 to 100, of weights of standardised channels
_BLOCK_ROWS = 2**12  # of vectors in float64 at once
_CONSTANT = 1e-5  # a channel is, whose std is less than this of its root mean square: float32 noise

Floats = NDArray[np.float64]
Embed = Callable[[Tensor], Tensor]  # (n, Da) frozen vectors -> (n, d)


def concordance(predicted: Floats, labels: Floats) -> float:
    """Lin's concordance correlation coefficient (CCC) of two (n,) sequences, -1 to 1; 0 where both are constant.

    2 cov(x, y) / (var(x) + var(y) + (mean x - mean y)^2) with moments over n (Lin, Biometrics 45, 1989).
    """
    x, y = predicted - predicted.mean(), labels - labels.mean()
    apart = (x**2).mean() + (y**2).mean() + (predicted.mean() - labels.mean()) ** 2
    return float(2 * (x * y).mean() / apart) if apart > 0 else 0.0


def unweighted_recall(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """The mean recall of the classes among `truth` (n,)."""
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))


class Target(NamedTuple):
    """What is regressed on, of n utterances: k columns that are known of the same ones."""

    names: list[str]  # dimensions, or `CATEGORY` alone
    values: Tensor  # (n, k) labels, or one-hot categories; 0 where unknown
    weights: Tensor  # (n,) 0 where unknown; each category has the same weight in all


class Ridge(NamedTuple):
    """A ridge regression for each of P penalties."""

    weight: Tensor  # (P, D, k)
    bias: Tensor  # (P, 1, k)

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, D) -> (P, n, k)."""
        return torch.einsum("nd,pdk->pnk", vectors, self.weight) + self.bias

    def least(self, errors: Tensor) -> Ridge:
        """Of each column, the regression of the least of `errors` (P, k); P is 1 then."""
        best, columns = errors.argmin(0), torch.arange(errors.shape[1], device=errors.device)
        return Ridge(self.weight[best, :, columns].T[None], self.bias[best, :, columns].T[None])


def fit_ridge(moments: Moments, penalties: Sequence[float] = PENALTIES) -> Ridge:
    """The minima of mean |x W + b - y|^2 + penalty |S W|^2, S the std of each channel; b is not penalised."""
    x_mean, y_mean, covariance, products = moments.centred()
    std = covariance.diagonal().clamp_min(0).sqrt()
    varies = std > _CONSTANT * (covariance.diagonal() + x_mean.square()).clamp_min(0).sqrt()
    scale = torch.where(varies, 1 / std, 0.0)
    correlation, target = covariance * scale[:, None] * scale, products * scale[:, None]
    identity = torch.eye(len(std), dtype=std.dtype, device=std.device)
    solved = [
        torch.cholesky_solve(target, torch.linalg.cholesky(correlation + penalty * identity)) for penalty in penalties
    ]
    weight = torch.stack(solved) * scale[:, None]
    return Ridge(weight, (y_mean - x_mean @ weight)[:, None])


class ReadOut:
    """What is known of the utterances of the training, development and test splits, for any number of spaces."""

    def __init__(self, stores: Stores, split: str, device: torch.device) -> None:
        """`labels` are, by name, what is known in all three splits, (n,) each, NaN where unknown.

        `categories` are those of the whole manifest, one an output of the probe. `notes` say what is left out.
        """
        self.store, self.device, self.splits = stores.audio, device, ("train", "dev", split)
        self.rows = [rows[self.store.done(rows)] for rows in map(stores.manifest.rows, self.splits)]
        known = {name: [getattr(stores.manifest, name)[rows] for rows in self.rows] for name in LABEL_COLUMNS}
        self.categories = sorted(set(stores.manifest.emotion) - {""})
        known[CATEGORY] = [self._codes(stores.manifest.emotion, rows) for rows in self.rows]
        self.labels = {name: of_splits for name, of_splits in known.items() if _is_labelled(of_splits)}
        missing = ", ".join(name for name in known if name not in self.labels)
        needed = f"two different labels in train and in {split}, and one in dev"
        self.notes = [f"read-out of {missing} is not measured: it needs {needed}"] if missing else []
        self.targets = [self._targets(part) for part in range(3)]

    def _codes(self, emotions: Sequence[str], rows: NDArray[np.int64]) -> Floats:
        """(n,) the place among `categories`; NaN where there is none."""
        code_of = {name: float(code) for code, name in enumerate(self.categories)}
        return np.array([code_of.get(emotions[row], np.nan) for row in rows.tolist()])

    def _targets(self, part: int) -> list[Target]:
        """Those of one split; dimensions that are known of the same utterances of all splits are one target."""
        groups: dict[tuple[bytes, ...], list[str]] = {}
        for name, of_splits in self.labels.items():
            masks = [np.isfinite(values).tobytes() for values in of_splits]
            groups.setdefault((*masks, name.encode() if name == CATEGORY else b""), []).append(name)
        return [self._target(names, part) for names in groups.values()]

    def _target(self, names: list[str], part: int) -> Target:
        values = np.stack([self.labels[name][part] for name in names], axis=1)  # (n, k)
        weights = np.isfinite(values[:, 0]).astype(np.float64)
        if names == [CATEGORY]:
            codes = np.where(weights > 0, values[:, 0], 0).astype(np.int64)
            weights /= np.maximum(np.bincount(codes, weights), 1)[codes]
            values = (values == np.arange(len(self.categories))).astype(np.float64)
        return Target(names, *(torch.from_numpy(of).to(self.device) for of in (np.nan_to_num(values), weights)))

    def measure(self, embed: Embed) -> dict[str, float]:
        """CCC of each dimension and UAR of the category, by the names of `conventions`."""
        found: dict[str, float] = {}
        for target, outputs in zip(self.targets[2], self.predict(embed, self.rows[2]), strict=True):
            found |= self._scores(target, outputs)
        return found

    @torch.no_grad()
    def predict(self, embed: Embed, rows: NDArray[np.int64]) -> list[Floats]:
        """Of each target its (n, k) outputs for `rows` (n,) of the manifest, which are done."""
        fits = self._fit(embed)
        outputs: list[list[Tensor]] = [[] for _ in fits]
        for _, vectors in self._blocks(rows, embed) if fits else ():
            for of_target, fit in zip(outputs, fits, strict=True):
                of_target.append(fit(vectors)[0])
        return [torch.cat(of_target).cpu().numpy() for of_target in outputs]

    def _fit(self, embed: Embed) -> list[Ridge]:
        """The regressions of each target, P of 1."""
        moments = [Moments() for _ in self.targets[0]]
        for number, vectors, target in self._targets_of(0, embed):
            moments[number].add(vectors, target.values, target.weights)
        fits = list(map(fit_ridge, moments))
        errors = [torch.zeros_like(fit.bias[:, 0]) for fit in fits]  # (P, k)
        for number, vectors, target in self._targets_of(1, embed):
            squared = (fits[number](vectors) - target.values).square()
            errors[number] += (squared * target.weights[:, None]).sum(1)
        for number, target in enumerate(self.targets[0]):
            if target.names == [CATEGORY]:  # outputs are compared, so one penalty for all
                errors[number] = errors[number].sum(1, keepdim=True).expand_as(errors[number])
            fits[number] = fits[number].least(errors[number])
        return fits

    def _targets_of(self, part: int, embed: Embed) -> Iterator[tuple[int, Tensor, Target]]:
        """Each target's number, a block of vectors (n, d) of a split, and what is known of it."""
        targets = self.targets[part]
        for block, vectors in self._blocks(self.rows[part], embed) if targets else ():
            for number, target in enumerate(targets):
                yield number, vectors, Target(target.names, target.values[block], target.weights[block])

    def _blocks(self, rows: NDArray[np.int64], embed: Embed) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of `rows` (n,) and their vectors (b, d) float64."""
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            frozen, _ = self.store.read(rows[block])
            yield block, embed(torch.tensor(frozen, dtype=torch.float32, device=self.device)).double()

    def _scores(self, target: Target, outputs: Floats) -> dict[str, float]:
        """Of the (n, k) outputs for a target of the test split."""
        known = target.weights.cpu().numpy() > 0
        if target.names == [CATEGORY]:
            truth = self.labels[CATEGORY][2][known].astype(np.int64)
            return {"category_uar": unweighted_recall(truth, outputs[known].argmax(1))}
        return {
            f"{name}_ccc": concordance(outputs[known, column], self.labels[name][2][known])
            for column, name in enumerate(target.names)
        }

    def chance(self) -> dict[str, float]:
        """CCC of a read-out that knows nothing, and UAR of a blind guess of one of the test split's categories."""
        found = {f"{name}_ccc": 0.0 for name in self.labels if name != CATEGORY}
        if CATEGORY in self.labels:
            codes = self.labels[CATEGORY][2]
            found["category_uar"] = 1 / len(np.unique(codes[np.isfinite(codes)]))
        return found

    def conventions(self) -> dict[str, str]:
        """How each measure was taken."""
        found = {}
        for name, of_splits in self.labels.items():
            train, dev, test = (int(np.isfinite(values).sum()) for values in of_splits)
            rule, unit = (_PROBE, "uar") if name == CATEGORY else (_REGRESSION, "ccc")
            found[f"{name}_{unit}"] = (
                f"{rule}; fitted on {train} utterances of train, the penalty of the least squared error on {dev} of "
                f"dev, measured on {test} of {self.splits[2]}"
            )
        return found


_REGRESSION = "Lin's concordance correlation coefficient (moments over n) of labels and a ridge regression from speech"
_PROBE = "mean recall of the classes present by ridge regression from speech to one-hot categories of equal weight"


def _is_labelled(of_splits: Sequence[Floats]) -> bool:
    """Whether training and test know two values and development one."""
    known = [len(np.unique(values[np.isfinite(values)])) for values in of_splits]
    return known[0] > 1 and known[1] > 0 and known[2] > 1
