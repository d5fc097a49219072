"""The lists, the retrieval and the taus of F13."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch import Tensor

from cache.captions import Prompt
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.evaluation.ordinality import NULL_STD, VALUES, kendall_tau, ordinality, prompt_lists
from tests.evaluation.oracles import nearest_of, slow_retrieve


def grid(variants: int = 1) -> list[Prompt]:
    return [
        Prompt("dimensional", f"{v} {a} {k}", float(v), float(a), k)
        for v, a, k in itertools.product(VALUES, VALUES, range(variants))
    ]


def on_sphere(points: np.ndarray) -> Tensor:
    """(valence, arousal) as unit vectors: nearest by cosine is nearest in the plane, nearly (a small flat cap)."""
    centred = (torch.as_tensor(np.asarray(points)) - 4) / 100
    lifted = torch.cat([centred, torch.ones(len(centred), 1)], dim=1)
    return lifted / lifted.norm(dim=1, keepdim=True)


def prompt_points(prompts: list[Prompt]) -> np.ndarray:
    return np.array([[p.valence, p.arousal] for p in prompts])


def test_the_lists_are_those_of_the_text():
    voc, aoc = prompt_lists("valence", 100), prompt_lists("arousal", 100)
    assert voc.shape == aoc.shape == (100, 14, 2)
    assert voc[0, :, 0].tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7]
    assert (voc[:, :, 0] == voc[0, :, 0]).all()
    fixed = voc[:, :, 1]
    assert (fixed == fixed[:, :1]).all()
    assert fixed[[0, 1, 2, 12, 13, 14, 15, 27, 28, 99], 0].tolist() == [0.5, 1, 1.5, 6.5, 7, 0.5, 1, 7, 0.5, 1]
    assert (aoc == voc[:, :, ::-1]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 20), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_retrieval_equals_the_loop_and_takes_no_utterance_twice(prompts, more, levels, seed):
    similarity = np.random.default_rng(seed).integers(-levels, levels, (prompts, prompts + more)) / levels
    before = similarity.copy()
    expected = slow_retrieve(similarity)
    for depth in (1, 5, 256):
        assert nearest_of(similarity, depth).retrieve(np.arange(prompts)).tolist() == expected
    assert len(set(expected)) == prompts
    assert (similarity == before).all()


def test_the_first_of_a_list_takes_its_nearest_and_the_next_takes_what_is_left():
    nearest = nearest_of(np.array([[0.1, 0.9, 0.5], [0.2, 0.8, 0.7], [0.3, 0.9, 0.8]]))
    assert nearest.retrieve(np.arange(3)).tolist() == [1, 2, 0]


def dense_labels() -> np.ndarray:
    steps = np.linspace(0.5, 7, 53)
    return np.array(list(itertools.product(steps, steps)))


def test_embeddings_in_order_score_one():
    labels = dense_labels()
    result = ordinality(on_sphere(labels), labels, prompts=grid(), vectors=on_sphere(prompt_points(grid())), lists=20)
    for name in ("aoc", "voc"):
        assert result[name]["taus"] == [pytest.approx(1)] * 20
        assert result[name]["mean"] == pytest.approx(1)
        assert result[name]["std"] == pytest.approx(0)
        assert result[name]["undefined"] == 0


def test_valence_reversed_scores_minus_one_in_voc_alone():
    labels = dense_labels()
    speech = on_sphere(np.stack([8 - labels[:, 0] - 0.5, labels[:, 1]], axis=1))
    result = ordinality(speech, labels, prompts=grid(), vectors=on_sphere(prompt_points(grid())), lists=14)
    assert result["voc"]["mean"] == pytest.approx(-1)
    assert result["aoc"]["mean"] == pytest.approx(1)


def test_random_retrieval_has_the_mean_and_spread_of_the_null():
    generator = np.random.default_rng(0)
    taus = []
    for _ in range(1500):  # each list on data of its own: independent
        labels = generator.normal(size=40)
        taus.append(kendall_tau(VALUES, labels[slow_retrieve(generator.normal(size=(14, 40)))]))
    assert abs(np.mean(taus)) < 4 * NULL_STD / math.sqrt(1500)
    assert abs(np.std(taus, ddof=1) / NULL_STD - 1) < 4 / math.sqrt(2 * 1500)


def test_the_null_is_the_published_one():
    assert round(NULL_STD, 4) == 0.2007


def test_the_null_is_that_of_all_orders():
    orders = [kendalltau(range(5), order).statistic for order in itertools.permutations(range(5))]
    assert np.std(orders) == pytest.approx(math.sqrt(2 * (2 * 5 + 5) / (9 * 5 * 4)))


def test_tau_counts_ties_as_tau_b():
    # 1 pair tied of 6 on one side, 5 concordant: 5 / sqrt(6 * 5)
    assert kendall_tau(np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 2, 3])) == pytest.approx(5 / math.sqrt(30))


def test_a_list_that_finds_one_value_only_counts_zero_and_is_counted():
    labels = np.full((20, 2), 3.0)
    labels[:, 1] = np.arange(20) / 3
    result = ordinality(on_sphere(labels), labels, prompts=grid(), vectors=on_sphere(prompt_points(grid())), lists=3)
    assert result["voc"]["taus"] == [0, 0, 0]
    assert result["voc"]["undefined"] == 3
    assert result["aoc"]["undefined"] == 0
    json.dumps(result, allow_nan=False)


def test_utterances_without_labels_are_never_retrieved():
    labels = np.concatenate([dense_labels()[::30], [[np.nan, 4.0], [4.0, np.nan]]])
    places = labels.copy()
    places[-2:] = 4  # where prompts would find them
    vectors = on_sphere(prompt_points(grid()))
    result = ordinality(on_sphere(places), labels, prompts=grid(), vectors=vectors, lists=14)
    without = ordinality(on_sphere(places[:-2]), labels[:-2], prompts=grid(), vectors=vectors, lists=14)
    assert result == without


def test_each_round_of_fourteen_lists_asks_in_the_next_paraphrase():
    prompts = grid(variants=3)
    vectors = on_sphere(prompt_points(prompts))
    vectors[[p.variant == 1 for p in prompts]] *= -1  # the second paraphrase asks for the opposite
    labels = dense_labels()
    taus = ordinality(on_sphere(labels), labels, prompts=prompts, vectors=vectors, lists=70)["voc"]["taus"]
    assert np.sign(taus).tolist() == [1] * 14 + [-1] * 14 + [1] * 14 + [1] * 14 + [-1] * 14


def test_the_order_of_the_prompts_does_not_matter():
    labels, prompts = dense_labels()[::30], grid(variants=2)
    vectors = on_sphere(prompt_points(prompts))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0))
    shuffled = [prompts[i] for i in order]
    first = ordinality(on_sphere(labels), labels, prompts=prompts, vectors=vectors, lists=20)
    assert first == ordinality(on_sphere(labels), labels, prompts=shuffled, vectors=vectors[order], lists=20)


def test_fewer_than_fourteen_labelled_utterances_are_refused():
    labels = np.full((20, 2), np.nan)
    labels[:13] = 4
    with pytest.raises(
        UsageError, match="ordinality: the split has 13 utterances with valence and arousal; expected at least 14"
    ):
        ordinality(
            on_sphere(np.zeros((20, 2))), labels, prompts=grid(), vectors=on_sphere(prompt_points(grid())), lists=1
        )


def test_missing_prompts_are_refused_by_name():
    labels = dense_labels()[:20]
    prompts = [p for p in grid(variants=2) if (p.valence, p.arousal, p.variant) != (3.5, 2.0, 1)]
    vectors = on_sphere(prompt_points(prompts))
    with pytest.raises(UsageError, match=r"1 prompts are missing \(valence 3.5 arousal 2.0 variant 1\)"):
        ordinality(on_sphere(labels), labels, prompts=prompts, vectors=vectors, lists=28)
    assert ordinality(on_sphere(labels), labels, prompts=prompts, vectors=vectors, lists=14)["voc"]["taus"]


def test_no_prompts_at_all_are_refused():
    labels = dense_labels()[:20]
    with pytest.raises(UsageError, match="14 prompts are missing"):
        ordinality(on_sphere(labels), labels, prompts=[], vectors=torch.empty(0, 3, dtype=torch.float64), lists=1)


def test_similarities_that_are_not_finite_are_refused():
    labels = dense_labels()[:20]
    speech = on_sphere(labels)
    speech[2] = math.nan
    with pytest.raises(EmotionRankError, match="not finite"):
        ordinality(speech, labels, prompts=grid(), vectors=on_sphere(prompt_points(grid())), lists=1)
