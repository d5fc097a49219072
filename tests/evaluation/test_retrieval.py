"""Retrieval by loops and scikit-learn: the oracles rank every candidate of every query, one by one."""

from __future__ import annotations

from itertools import chain, permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, top_k_accuracy_score

from cache.pairs import CachedPairs
from pipeline.evaluation import retrieval
from pipeline.evaluation.retrieval import KS, Ranks, RetrievalTest, random_order, summarise_ranks

DIM = 6


def pairs_of(captions: list[list[int]], labels: np.ndarray) -> CachedPairs:
    """Utterances with these captions (rows of the texts) and these (n, 2) labels."""
    count = len(captions)
    nothing = torch.full((count,), -1)
    return CachedPairs(
        rows=np.arange(count), speech=torch.empty(count, 0), text=torch.empty(0, 0),
        offsets=torch.tensor(np.cumsum([0, *map(len, captions)])), caption=torch.tensor([*chain(*captions)]),
        labels=torch.tensor(np.c_[labels, np.full(count, np.nan)]), emotion=nothing, gender=nothing, acoustic=None,
        notes=[],
    )  # fmt: skip


def whole_vectors(draw: np.random.Generator, count: int) -> torch.Tensor:
    """Of whole numbers, so that products are exact and many are equal."""
    return torch.from_numpy(draw.integers(-1, 2, (count, DIM)).astype(np.float32))


def by_hand(similarity: np.ndarray, hit: np.ndarray, near: np.ndarray) -> dict[str, float]:
    """Every measure of (Q, N) similarities, hits and near candidates, query by query."""
    first, precision, of_near = [], [], []
    for scores, hits, close in zip(similarity.tolist(), hit.tolist(), near.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda each: (-scores[each], hits[each]))
        first.append(1 + [hits[each] for each in order].index(True))
        found = [[hit for hit, other in zip(hits, scores, strict=True) if other >= score] for score in scores]
        shares = [sum(each) / len(each) for each, hit in zip(found, hits, strict=True) if hit]
        precision.append(sum(shares) / len(shares))
        assert precision[-1] == pytest.approx(average_precision_score(hits, scores), abs=1e-6)  # float32 with numpy 2.5
        if any(close):
            order = sorted(range(len(scores)), key=lambda each: (-scores[each], close[each]))
            of_near.append([close[each] for each in order])
    expected = {f"r{k}": float(np.mean([rank <= k for rank in first])) for k in KS}
    expected |= {f"near_r{k}": float(np.mean([any(close[:k]) for close in of_near])) for k in KS}
    top = float(np.mean([np.mean(close[:10]) for close in of_near]))
    return {**expected, "median_rank": float(np.median(first)), "map": float(np.mean(precision)), "near_p10": top}


def drawn(seed: int, utterances: int = 60, texts: int = 25) -> tuple[CachedPairs, np.ndarray]:
    """Pairs with up to three captions each, some labels unknown, and whether text t describes utterance u (u, t)."""
    draw = np.random.default_rng(seed)
    captions = [draw.choice(texts, 1 + row % 3, replace=False).tolist() for row in range(utterances)]
    captions[0] *= 2  # linked twice
    labels = np.round(draw.uniform(1, 7, (utterances, 2)) * 5) / 5
    labels[::7] = np.nan
    described = np.array([[text in each for text in range(texts)] for each in captions])
    return pairs_of(captions, labels), described


def near_by_hand(pairs: CachedPairs, described: np.ndarray) -> np.ndarray:
    """(u, t) whether utterance and text are near; the point of a text is the mean label of what it describes."""
    labels = pairs.labels[:, :2].numpy()
    near = np.zeros_like(described)
    for text in range(described.shape[1]):
        known = [point for point, of in zip(labels, described[:, text], strict=True) if of and np.isfinite(point).all()]
        point = np.mean(known, axis=0) if known else np.full(2, np.nan)
        for row, label in enumerate(labels):
            near[row, text] = bool((np.abs(label - point).round(6) <= 0.5).all())
    return near


@pytest.mark.parametrize("seed", range(4))
def test_every_measure_is_that_of_a_loop_with_ties_against_the_heads(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, (pairs, described) = np.random.default_rng(seed), drawn(seed)
    used = described.any(axis=0)
    speech, text = whole_vectors(draw, len(described)), whole_vectors(draw, described.shape[1])
    near, similarity = near_by_hand(pairs, described)[:, used], (speech @ text.T).numpy()[:, used]
    expected = {f"speech_to_text_{key}": of for key, of in by_hand(similarity, described[:, used], near).items()}
    expected |= {f"text_to_speech_{key}": of for key, of in by_hand(similarity.T, described[:, used].T, near.T).items()}
    test = RetrievalTest(pairs)
    found = test.measure(speech, text)
    assert found == pytest.approx(expected, abs=1e-10)
    assert found["speech_to_text_map"] == pytest.approx(
        label_ranking_average_precision_score(described[:, used], similarity.astype(np.float64)), abs=1e-10
    )
    assert test.conventions().keys() == found.keys()
    assert test.chance().keys() == {key for key in found if "median" not in key}
    monkeypatch.setattr(retrieval, "_BLOCK_VALUES", 100)
    assert RetrievalTest(pairs).measure(speech, text) == found


def test_recall_of_one_caption_each_is_scikit_learns_top_k_accuracy() -> None:
    draw = np.random.default_rng(0)
    pairs = pairs_of([[text] for text in range(40)], draw.uniform(1, 7, (40, 2)))
    speech, text = (torch.from_numpy(draw.standard_normal((40, DIM)).astype(np.float32)) for _ in range(2))
    found = RetrievalTest(pairs).measure(speech, text)
    for k in KS:
        scores = (speech @ text.T).numpy()
        assert found[f"speech_to_text_r{k}"] == pytest.approx(top_k_accuracy_score(np.arange(40), scores, k=k))
        assert found[f"text_to_speech_r{k}"] == pytest.approx(top_k_accuracy_score(np.arange(40), scores.T, k=k))


def test_chance_is_the_mean_over_every_order_of_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "KS", (1, 2, 10))
    labels = np.array([[2, 2], [2.4, 2], [6, 6], [6, 5.6], [4, 4], [4, 1.0]])
    queries = RetrievalTest(pairs_of([[0, 1], [1], [2], [0, 2], [3], [3]], labels)).directions["text_to_speech"]
    found = []
    for order in permutations(range(6)):
        similarity = np.tile(np.array(order, dtype=np.float32), (len(queries), 1))
        found.append(summarise_ranks(retrieval.find_ranks(similarity, queries, slice(0, len(queries))), queries))
    expected = {name: np.mean([of[name] for of in found]) for name in found[0] if name != "median_rank"}
    assert random_order(queries) == pytest.approx(expected, abs=1e-12)


def test_a_space_of_one_point_finds_nothing() -> None:
    pairs, described = drawn(5)
    found = RetrievalTest(pairs).measure(torch.ones(len(described), DIM), torch.ones(described.shape[1], DIM))
    assert (found["speech_to_text_r10"], found["text_to_speech_r10"]) == (0, 0)
    assert (found["speech_to_text_near_p10"], found["text_to_speech_near_r10"]) == (0, 0)
    assert found["text_to_speech_median_rank"] == np.median(len(described) + 1 - described.sum(axis=0))


def test_without_labels_nothing_is_near_and_those_measures_are_left_out() -> None:
    test = RetrievalTest(pairs_of([[0], [1], [1]], np.full((3, 2), np.nan)))
    found = test.measure(torch.eye(3), torch.eye(3))
    assert {key for key in found if "near" in key} == set()
    assert found["text_to_speech_r1"] == 1
    assert found["text_to_speech_map"] == pytest.approx(np.mean([1, (1 + 2 / 3) / 2]))


def test_fewer_than_ten_candidates_are_all_among_the_first_ten() -> None:
    ranks = Ranks(np.array([1, 2]), np.array([1, 0.5]), np.array([[True, False], [False, True]]))
    queries = RetrievalTest(pairs_of([[0], [1]], np.array([[2, 2], [6, 6.0]]))).directions["speech_to_text"]
    assert summarise_ranks(ranks, queries)["near_p10"] == 0.5
    assert random_order(queries)["r10"] == 1
