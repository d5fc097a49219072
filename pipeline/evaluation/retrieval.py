"""Cross-modal retrieval as papers on speech and text report it: recall at k, median rank, mean average precision.

    RetrievalTest(pairs).measure(speech, text)["speech_to_text_r10"]    # 0 to 1

The hits of an utterance are the texts that describe it, all where it has several captions. The hits of a text are the
utterances that it describes, all where several share its words. A candidate is near a query where their valence and
their arousal differ by at most `TOLERANCE` each; the point of a text is the mean label of the utterances of the split
that it describes. Of equally similar candidates the hits come last, so that a space in which all vectors are one finds
nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.core.resources import cores, threads_restored, use_threads

TOLERANCE = 0.5  # on the 1-7 scale
KS = (1, 5, 10)
DIRECTIONS = ("speech_to_text", "text_to_speech")
_ROUNDING = 1e-6  # of differences of labels, which are means of a few whole ratings
_BLOCK_VALUES = 2**22  # similarities held at once by a thread, 16 MB

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """Q queries of one side and N candidates of the other."""

    offsets: Whole  # (Q + 1,)
    hits: Whole  # (M,) candidates; those of query q, one or more, are hits[offsets[q]:offsets[q + 1]]
    points: Floats  # (Q, 2) valence and arousal, NaN where unknown
    candidate_points: Floats  # (N, 2)

    @cached_property
    def near(self) -> Whole:
        """(Q,) how many candidates are near."""
        of_blocks = [_is_near(self.points[part, None], self.candidate_points).sum(axis=1) for part in self.blocks()]
        return np.concatenate(of_blocks)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def blocks(self) -> list[slice]:
        """Slices of the queries whose similarities to all candidates are held at once."""
        size = max(1, _BLOCK_VALUES // len(self.candidate_points))
        return [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]


class Ranks(NamedTuple):
    """What each of B queries finds."""

    first: Whole  # (B,) the rank of its first hit, from 1
    average_precision: Floats  # (B,)
    near: NDArray[np.bool_]  # (B, 10) which of its first ten candidates are near; fewer where there are fewer


def all_ranks(asked: Tensor, candidates: Tensor, queries: Queries) -> Ranks:
    """What every query finds, by (Q, d) and (N, d) unit vectors; a block of queries a core."""

    def of_block(part: slice) -> Ranks:
        return find_ranks((asked[part] @ candidates.T).numpy(), queries, part)

    with threads_restored(), ThreadPoolExecutor(cores()) as pool:
        use_threads(1)
        blocks = list(pool.map(of_block, queries.blocks()))
    return Ranks(*map(np.concatenate, zip(*blocks, strict=True)))


def find_ranks(similarity: NDArray[np.float32], queries: Queries, part: slice) -> Ranks:
    """Rank all candidates for the queries of `part` by (B, N) similarities.

    Average precision is the mean over a query's hits of the share of hits among the candidates that are as similar as
    this one or more (scikit-learn's, F. Pedregosa et al., JMLR 2011).
    """
    count = similarity.shape[1]
    ordered = np.sort(similarity, axis=1)
    first, precision = np.empty(len(similarity), dtype=np.int64), np.empty(len(similarity))
    bounds = queries.offsets[part.start : part.stop + 1].tolist()
    for row, (start, stop) in enumerate(pairwise(bounds)):
        of_hits = np.sort(similarity[row, queries.hits[start:stop]])
        found = count - ordered[row].searchsorted(of_hits)  # candidates as similar as each hit, or more
        hits_found = len(of_hits) - of_hits.searchsorted(of_hits)
        precision[row] = (hits_found / found).mean()
        first[row] = found[-1] - hits_found[-1] + 1
    return Ranks(first, precision, _near_among_first(similarity, queries, part))


def _near_among_first(similarity: NDArray[np.float32], queries: Queries, part: slice) -> NDArray[np.bool_]:
    """(B, 10) which of the first ten candidates of each query are near it; near ones come last among equals."""
    count, points = similarity.shape[1], queries.points[part]
    depth = min(KS[-1], count)
    values, candidates = (of.numpy() for of in torch.topk(torch.from_numpy(similarity), min(depth + 1, count)))
    near = _is_near(points[:, None], queries.candidate_points[candidates])
    order = np.lexsort((near, -values), axis=1)[:, :depth]
    near = np.take_along_axis(near, order, axis=1)
    if count > depth:
        for row in np.flatnonzero(values[:, depth - 1] == values[:, depth]):  # more are equal than are looked at
            all_near = _is_near(points[row], queries.candidate_points)
            near[row] = all_near[np.lexsort((all_near, -similarity[row]))[:depth]]
    return near


def _is_near(points: Floats, others: Floats) -> NDArray[np.bool_]:
    """Of points (..., 2); False where one is unknown."""
    valence, arousal = (np.abs(points[..., axis] - others[..., axis]) <= TOLERANCE + _ROUNDING for axis in (0, 1))
    found: NDArray[np.bool_] = valence & arousal
    return found


class RetrievalTest:
    """Which texts and utterances of one split are each other's hits: found once, for any number of heads."""

    def __init__(self, pairs: CachedPairs) -> None:
        """Texts that describe none of the utterances of `pairs` take no part."""
        self.texts, text = np.unique(pairs.caption.cpu().numpy(), return_inverse=True)  # (T,) rows of `pairs.text`
        utterances, texts = len(pairs), len(self.texts)
        owner = np.repeat(np.arange(utterances), np.diff(pairs.offsets.cpu().numpy()))
        links = np.unique(owner * texts + text)  # a text may be linked to an utterance twice
        owner, text = links // texts, links % texts
        labels = pairs.labels[:, :2].cpu().numpy()
        points = _text_points(labels, owner, text, texts)
        by_text = np.argsort(text, kind="stable")
        self.directions = {
            "speech_to_text": _queries(owner, text, labels, points),
            "text_to_speech": _queries(text[by_text], owner[by_text], points, labels),
        }

    def measure(self, speech: Tensor, text: Tensor) -> dict[str, float]:
        """Every measure of `chance` and the two median ranks, by (n, d) and (T, d) unit vectors of the pairs.

        The bits do not depend on the number of cores.
        """
        speech, text = speech.cpu(), text.cpu()[torch.from_numpy(self.texts)]
        found: dict[str, float] = {}
        for name, sides in zip(DIRECTIONS, ((speech, text), (text, speech)), strict=True):
            queries = self.directions[name]
            ranks = all_ranks(*sides, queries)
            found |= {f"{name}_{key}": value for key, value in summarise_ranks(ranks, queries).items()}
        return found

    def chance(self) -> dict[str, float]:
        """What candidates in random order would give, but of the median rank."""
        return {
            f"{name}_{key}": value
            for name, queries in self.directions.items()
            for key, value in random_order(queries).items()
        }

    def conventions(self) -> dict[str, str]:
        """How each measure was taken."""
        return {
            f"{name}_{key}": f"{rule}; {self._counts(name, key)}" for name in DIRECTIONS for key, rule in _RULES.items()
        }

    def _counts(self, name: str, key: str) -> str:
        queries = self.directions[name]
        asked = int((queries.near > 0).sum()) if key.startswith("near") else len(queries)
        return f"{asked} queries, {len(queries.candidate_points)} candidates, by cosine"


_TIES = "of equally similar candidates hits come last"
_HIT = "hits of an utterance are the texts that describe it, those of a text all utterances that it describes"
_NEAR = (
    f"a candidate is near within {TOLERANCE} of the query's valence and of its arousal, on the 1-7 scale; a text's "
    "point is the mean label of the utterances that it describes; queries that nothing is near take no part"
)
_RULES = {
    **{f"r{k}": f"share of queries with a hit among the first {k}; {_HIT}; {_TIES}" for k in KS},
    "median_rank": f"median over queries of the rank of the first hit, from 1; {_HIT}; {_TIES}",
    "map": f"mean over queries of average precision, equally similar candidates found together; {_HIT}",
    **{f"near_r{k}": f"share of queries with a near candidate among the first {k}; {_NEAR}; {_TIES}" for k in KS},
    f"near_p{KS[-1]}": f"mean share of near candidates among the first {KS[-1]}; {_NEAR}; {_TIES}",
}


def _text_points(labels: Floats, owner: Whole, text: Whole, texts: int) -> Floats:
    """(T, 2) the mean label of the labelled utterances that each text describes; NaN without one."""
    known = np.isfinite(labels[owner]).all(axis=1)
    counts = np.bincount(text[known], minlength=texts)
    sums = [np.bincount(text[known], labels[owner[known], axis], minlength=texts) for axis in (0, 1)]
    points = np.full((texts, 2), np.nan)
    np.divide(np.stack(sums, axis=1), counts[:, None], out=points, where=counts[:, None] > 0)
    return points


def _queries(query: Whole, hits: Whole, points: Floats, candidate_points: Floats) -> Queries:
    """From the query and the candidate of each hit, by query."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(query, minlength=len(points)))])
    return Queries(offsets, hits, points, candidate_points)


def summarise_ranks(ranks: Ranks, queries: Queries) -> dict[str, float]:
    """The measures of all queries, by the names of `_RULES`; those of near candidates where there are any."""
    near = ranks.near[queries.near > 0]
    found: dict[str, Any] = {f"r{k}": (ranks.first <= k).mean() for k in KS}
    found |= {"median_rank": np.median(ranks.first), "map": ranks.average_precision.mean()}
    if len(near):
        found |= {f"near_r{k}": near[:, :k].any(axis=1).mean() for k in KS}
        found[f"near_p{KS[-1]}"] = near.mean()
    return {name: float(value) for name, value in found.items()}


def random_order(queries: Queries) -> dict[str, float]:
    """What `summarise_ranks` would be on average of candidates in random order, but for the median rank.

    Average precision of R hits among N candidates is (H + (R - 1) / (N - 1) (N - H)) / N then, H the N-th harmonic
    number (Bestgen, EPJ Web of Conferences 2015).
    """
    count, hits, near = len(queries.candidate_points), np.diff(queries.offsets), queries.near[queries.near > 0]
    harmonic = (1 / np.arange(1, count + 1)).sum()
    precision = (harmonic + (hits - 1) / max(1, count - 1) * (count - harmonic)) / count
    found = {f"r{k}": _hit_by_chance(hits, count, k) for k in KS} | {"map": float(precision.mean())}
    if len(near):
        found |= {f"near_r{k}": _hit_by_chance(near, count, k) for k in KS}
        found[f"near_p{KS[-1]}"] = float(near.mean() / count)
    return found


def _hit_by_chance(hits: Whole, count: int, k: int) -> float:
    """The mean over queries of the probability that k of `count` candidates hold one of `hits` (Q,)."""
    drawn = np.arange(min(k, count))
    missed = np.clip((count - hits[:, None] - drawn) / (count - drawn), 0, None).prod(axis=1)
    return float((1 - missed).mean())
