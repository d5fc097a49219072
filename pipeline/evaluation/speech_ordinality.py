"""Does the space order speech by itself, without a prompt? Audio-only ordinality.

    test = SpeechOrdinalityTest(labels, seed=0)
    test.measure(speech[test.utterances])["arousal_tau"]    # Kendall's tau, -1 to 1

Rank-N-Contrast calls a space ordered where, from every anchor, what has the nearer label is the more similar (Zha et
al., NeurIPS 2023, Definition 1; F15). The measure is how far that holds: Kendall's tau-b of the distances of labels
from an anchor and the cosine distances of speech from it, mean over anchors. 1 is their definition met in full, 0 no
order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cache.manifest import LABEL_COLUMNS
from pipeline.evaluation.ordinality import kendall_tau

ANCHORS, COMPARED = 200, 1000  # utterances drawn: 0.2 s of one core for the four measures
_COLUMNS = {**{name: [column] for column, name in enumerate(LABEL_COLUMNS)}, "plane": [0, 1]}
_LABEL_DECIMALS = 6  # of squared distances of labels, so that equal ones tie (F6)
_COSINE_DECIMALS = 9  # so that equal vectors are equally far


class _Drawn(NamedTuple):
    anchors: NDArray[np.int64]  # (A,) utterances
    compared: NDArray[np.int64]  # (C,) utterances, an anchor among them where there are few
    distances: NDArray[np.float64]  # (A, C) of the labels, squared


class SpeechOrdinalityTest:
    """Anchors and what they are compared with: drawn once, for any number of spaces."""

    def __init__(self, labels: NDArray[np.float64], seed: int) -> None:
        """`labels` are (n, 3) valence, arousal and dominance, NaN where unknown.

        What fewer than three utterances have, or all have alike, is not measured, and `notes` say so. `utterances` (m,)
        are those whose vectors are needed.
        """
        self._drawn: dict[str, _Drawn] = {}
        for name, columns in _COLUMNS.items():
            points = labels[:, columns]
            known = np.flatnonzero(np.isfinite(points).all(axis=1))
            if len(known) > 2 and np.ptp(points[known], axis=0).any():
                order = np.random.default_rng(seed).permutation(known)
                anchors, compared = order[:ANCHORS], order[-COMPARED:]
                squared = ((points[anchors][:, None] - points[compared]) ** 2).sum(axis=-1).round(_LABEL_DECIMALS)
                self._drawn[name] = _Drawn(anchors, compared, squared)
        needed = [rows for drawn in self._drawn.values() for rows in drawn[:2]]
        self.utterances = np.unique(np.concatenate([np.empty(0, np.int64), *needed]))
        missing = ", ".join(name for name in _COLUMNS if name not in self._drawn)
        condition = "three utterances of the split with such labels, not all the same"
        self.notes = [f"order of speech by {missing} is not measured: it needs {condition}"] if missing else []

    def measure(self, vectors: Tensor) -> dict[str, float]:
        """Each measure by (m, d) vectors of `utterances`, of any length."""
        unit = normalize(vectors.double(), dim=1).cpu().numpy()
        found = {}
        for name, (anchors, compared, distances) in self._drawn.items():
            here, there = (unit[np.searchsorted(self.utterances, rows)] for rows in (anchors, compared))
            apart = (1 - here @ there.T).round(_COSINE_DECIMALS)  # (A, C)
            others = compared != anchors[:, None]
            rows = zip(distances, apart, others, strict=True)
            of_anchors = [kendall_tau(of_labels[other], of_speech[other]) for of_labels, of_speech, other in rows]
            found[f"{name}_tau"] = float(np.nan_to_num(of_anchors, nan=0.0).mean())
        return found

    def chance(self) -> dict[str, float]:
        """What no order gives."""
        return {f"{name}_tau": 0.0 for name in self._drawn}

    def conventions(self) -> dict[str, str]:
        """How each measure was taken."""
        return {
            f"{name}_tau": (
                f"Kendall's tau-b of {'valence-arousal' if name == 'plane' else name} distance and cosine distance of "
                f"speech from an anchor, mean over {len(drawn.anchors)} anchors, each with {len(drawn.compared)} "
                "utterances (itself aside), drawn of those labelled; undefined tau counts 0"
            )
            for name, drawn in self._drawn.items()
        }
