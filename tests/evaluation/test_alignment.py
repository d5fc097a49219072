"""The distances agree with slow and with foreign implementations, and the trials are what F12 says."""

from __future__ import annotations

import json
import math

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from torch import Tensor

from cache.captions import Links
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.evaluation import alignment as module
from pipeline.evaluation.alignment import (
    alignment,
    directions,
    distinct,
    draws,
    gap,
    median_distance,
    median_gamma,
    mmd,
    sliced_wasserstein,
    wasserstein,
)


def cloud(seed: int, points: int, width: int = 6) -> Tensor:
    drawn = torch.from_numpy(np.random.default_rng(seed).normal(size=(points, width)))
    return drawn / drawn.norm(dim=1, keepdim=True)


def linked(*captions: list[int]) -> Links:
    offsets = np.cumsum([0, *map(len, captions)])
    return Links(offsets=offsets.astype(np.int64), text=np.array([t for c in captions for t in c], dtype=np.int64))


def slow_mmd(x: Tensor, y: Tensor, gamma: float) -> float:
    def mean_kernel(a, b):
        return np.mean([[math.exp(-gamma * sum((p - q) ** 2)) for q in b] for p in a])

    x, y = x.numpy(), y.numpy()
    return math.sqrt(mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


@pytest.mark.parametrize("gamma", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("block", [1, 5, 1024])
def test_mmd_equals_two_loops(gamma, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    x, y = cloud(0, 13), cloud(1, 9)
    assert abs(mmd(x, y, [gamma])[0] - slow_mmd(x, y, gamma)) < 1e-12


def test_mmd_of_two_points_is_known_in_closed_form():
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.6, 0.8]])  # one apart
    assert abs(mmd(x, y, [1.0])[0] - math.sqrt(2 - 2 * math.exp(-1))) < 1e-7


def test_mmd_of_a_cloud_with_itself_is_zero_in_float32():
    x = cloud(2, 50).float()
    assert mmd(x, x, [1.0])[0] == 0


def test_mmd_in_float32_agrees_with_float64():
    x, y = cloud(3, 300, 64), cloud(4, 300, 64)
    assert abs(mmd(x.float(), y.float(), [1.0])[0] - mmd(x, y, [1.0])[0]) < 1e-6


def test_unit_vectors_bound_mmd_where_the_kernel_is_as_wide_as_the_space():
    # F12: gamma = 1/512 cannot give the paper's numbers, whatever the vectors
    x = torch.zeros(4, 8)
    x[:, 0] = 1
    assert abs(mmd(x, -x, [1 / 512])[0] - math.sqrt(2 - 2 * math.exp(-4 / 512))) < 1e-6
    y = x.roll(1, 1)  # the farthest that non-negative vectors get (F7)
    assert round(mmd(x, y, [1 / 512])[0], 4) == 0.0883


def test_the_median_heuristic_is_half_the_inverse_square_of_the_median_distance():
    x, y = cloud(5, 40), cloud(6, 41)
    both = torch.cat([x, y]).numpy()
    distances = [np.linalg.norm(both[i] - both[j]) for i in range(81) for j in range(i)]
    median = np.sort(distances)[(len(distances) - 1) // 2]
    assert abs(median_distance(x, y, seed=0) - median) < 1e-12
    assert abs(median_gamma(x, y, seed=0) - 1 / (2 * median**2)) < 1e-12


def test_coincident_points_have_no_part_in_the_median_distance():
    line = torch.tensor([[0.0], [0.0], [0.0], [3.0]])  # of six distances three are 0, three are 3
    assert median_distance(line[:2], line[2:], seed=0) == 3


def test_the_median_heuristic_on_a_subsample_is_near_the_whole(monkeypatch):
    x, y = cloud(7, 1500), cloud(8, 1500)
    sampled = median_gamma(x, y, seed=0)
    monkeypatch.setattr(module, "MEDIAN_POINTS", 3000)
    assert 0 < abs(sampled / median_gamma(x, y, seed=0) - 1) < 0.02


def test_the_median_heuristic_survives_a_collapsed_cloud():
    x = cloud(9, 1).expand(5, -1)
    assert median_distance(x, x, seed=0) == 1
    assert mmd(x, x, [1.0])[0] == 0
    assert gap(x, x) == (0, 0, 0)


@pytest.mark.parametrize("points", [1, 2, 17, 60])
def test_wasserstein_equals_the_linear_program_of_pot(points, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)
    x, y = cloud(10, points), cloud(11, points)
    weights = np.full(points, 1 / points)
    costs = ot.dist(x.numpy(), y.numpy(), metric="euclidean")
    assert abs(wasserstein(x, y) - ot.emd2(weights, weights, costs)) < 1e-12


def test_shifting_a_cloud_costs_the_length_of_the_shift():
    x = cloud(12, 40)
    shift = torch.tensor([3.0, 4.0, 0, 0, 0, 0], dtype=torch.float64)
    assert abs(wasserstein(x, (x + shift)[torch.randperm(40)]) - 5) < 1e-9


def test_wasserstein_of_float32_points_with_themselves_is_zero():
    x = cloud(13, 50, 512).float()
    assert wasserstein(x, x.flip(0)) < 1e-7


def bures(x: np.ndarray, y: np.ndarray) -> float:
    """The formula as it is printed, by scipy's matrix root."""
    first, second = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    root = scipy.linalg.sqrtm(first)
    return float(np.trace(first + second - 2 * scipy.linalg.sqrtm(root @ second @ root)).real)


@pytest.mark.parametrize(("points", "width"), [(60, 6), (8, 20), (2, 3)])
def test_the_parts_of_the_gap_are_centroids_bures_distance_and_the_rest_of_pots_w2(points, width):
    x, y = cloud(30, points, width), 1.5 * cloud(31, points, width) + 0.3
    parts = gap(x, y)
    weights = np.full(points, 1 / points)
    squared = ot.emd2(weights, weights, ot.dist(x.numpy(), y.numpy(), metric="sqeuclidean"))
    assert parts.centroid == pytest.approx(float(((x.mean(0) - y.mean(0)) ** 2).sum()), abs=1e-12)
    assert parts.covariance == pytest.approx(bures(x.numpy(), y.numpy()), abs=1e-6)  # of roots of singular matrices
    assert sum(parts) == pytest.approx(squared, abs=1e-12)
    assert parts.rest > -1e-15


def test_a_shift_is_all_centroid_and_a_stretch_about_the_mean_is_all_covariance():
    x = cloud(32, 200)
    stretch = torch.diag(torch.tensor([2.0, 1.0, 0.5, 1.0, 3.0, 1.0], dtype=torch.float64))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shifted, stretched = gap(x, (x + 0.5)[order]), gap(x - x.mean(0), ((x - x.mean(0)) @ stretch)[order])
    assert shifted == pytest.approx((1.5, 0, 0), abs=1e-9)
    moved = ((x - x.mean(0)) @ (stretch - torch.eye(6, dtype=torch.float64))).square().sum(1).mean().item()
    assert stretched == pytest.approx((0, moved, 0), abs=1e-9)  # a symmetric positive map is the optimal one


def test_clouds_of_equal_means_and_covariances_differ_in_the_rest_alone():
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    turned = cross @ torch.tensor([[1.0, 1], [-1, 1]], dtype=torch.float64) / math.sqrt(2)
    assert gap(cross, turned) == pytest.approx((0, 0, 2 - math.sqrt(2)), abs=1e-12)  # an eighth of a turn


def test_sliced_wasserstein_equals_pot_on_the_same_directions():
    x, y = cloud(14, 30), cloud(15, 30)
    onto = directions(6, 50, seed=3).numpy()
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=onto, p=1)
    assert abs(sliced_wasserstein(x, y, 50, seed=3) - theirs) < 1e-12


def test_sliced_wasserstein_of_a_shift_is_its_mean_projected_length():
    x = cloud(16, 20)
    shift = torch.tensor([0, 0, 2.0, 0, 0, 0], dtype=torch.float64)
    expected = 2 * directions(6, 64, seed=0)[2].abs().mean()
    assert abs(sliced_wasserstein(x, x + shift, 64, seed=0) - expected) < 1e-12


def test_directions_are_unit_vectors_spread_over_the_sphere():
    drawn = directions(4, 4000, seed=0)
    assert (drawn.norm(dim=0) - 1).abs().max() < 1e-12
    assert (drawn @ drawn.T / 4000 - torch.eye(4) / 4).abs().max() < 0.02


def test_a_trial_draws_utterances_without_replacement_and_one_of_their_own_captions():
    links = linked([0, 1], [], [2], [3, 4, 5], [5], [])
    config = EvaluateConfig(trials=200, pairs=3)
    drawn = [(rows.tolist(), texts.tolist()) for rows, texts in draws(links, config)]
    for rows, texts in drawn:
        assert len(set(rows)) == len(rows) == 3
        assert all(t in links.text[links.offsets[r] : links.offsets[r + 1]] for r, t in zip(rows, texts, strict=True))
    assert {r for rows, _ in drawn for r in rows} == {0, 2, 3, 4}  # never one without a caption
    assert {t for _, texts in drawn for t in texts} == {0, 1, 2, 3, 4, 5}


def test_a_trial_depends_on_the_seed_and_its_number_alone():
    links = linked(*[[i] for i in range(30)])

    def rows(**config: int) -> list[list[int]]:
        return [rows.tolist() for rows, _ in draws(links, EvaluateConfig(pairs=10, **config))]

    assert rows(trials=2) == rows(trials=5)[:2]
    assert rows(trials=2)[0] != rows(trials=2)[1]
    assert rows(trials=1) != rows(trials=1, seed=1)


def small_problem() -> tuple[Tensor, Tensor, Links]:
    links = linked(*[[i, (i + 1) % 40] for i in range(40)])
    return cloud(17, 40).float(), cloud(18, 40).float(), links


def test_alignment_is_the_mean_and_sample_std_of_its_trials():
    speech, text, links = small_problem()
    config = EvaluateConfig(trials=4, pairs=20, projections=16, mmd_gamma=2.0)
    result = alignment(speech, text, links, config)
    trials = [(speech[rows], text[texts]) for rows, texts in draws(links, config)]
    units = [median_distance(x, y, seed=0) for x, y in trials]
    parts = np.array([gap(x, y) for x, y in trials]) / np.square(units)[:, None]
    expected = {
        "mmd_median": [mmd(x, y, [median_gamma(x, y, seed=0)])[0] for x, y in trials],
        "wasserstein_relative": [wasserstein(x, y) / unit for (x, y), unit in zip(trials, units, strict=True)],
        **dict(zip(("gap_centroid", "gap_covariance", "gap_rest"), parts.T, strict=True)),
        "mmd": [mmd(x, y, [2.0])[0] for x, y in trials],
        "wasserstein": [wasserstein(x, y) for x, y in trials],
        "sliced_wasserstein": [sliced_wasserstein(x, y, 16, 0) for x, y in trials],
    }
    assert list(result) == [*expected, "trials", "pairs"]
    for name, values in expected.items():
        rounding = 1e-8 if name.startswith("mmd") else 1e-12  # of float32 kernels
        assert abs(result[name]["mean"] - np.mean(values)) < rounding
        assert abs(result[name]["std"] - np.std(values, ddof=1)) < rounding
        assert "4 trials of 20 of 40 utterances without replacement" in result[name]["convention"]
    assert (result["trials"], result["pairs"]) == (4, 20)
    assert "gamma 2" in result["mmd"]["convention"]


def test_a_small_split_takes_all_its_pairs_and_says_so():
    speech, text, links = small_problem()
    result = alignment(speech, text, links, EvaluateConfig(trials=2, projections=4))
    assert result["pairs"] == 40
    assert result["mmd"]["std"] > 0
    assert "all 40 utterances, so that only the captions drawn vary" in result["wasserstein"]["convention"]


def test_the_median_width_is_measured_once_and_reported():
    speech, text, links = small_problem()
    config = EvaluateConfig(trials=2, pairs=20, projections=4, mmd_gamma="median")
    result = alignment(speech, text, links, config)
    trials = [(speech[rows], text[texts]) for rows, texts in draws(links, config)]
    gamma = median_gamma(*trials[0], seed=0)
    assert abs(result["mmd"]["mean"] - np.mean([mmd(x, y, [gamma])[0] for x, y in trials])) < 1e-8
    assert f"gamma {gamma:.6g}, 1 / (2 median distance^2) of the first trial" in result["mmd"]["convention"]


def test_one_trial_has_no_spread_and_the_result_is_strict_json():
    speech, text, links = small_problem()
    result = alignment(speech, text, links, EvaluateConfig(trials=1, projections=4))
    assert result["mmd"]["std"] == 0
    json.dumps(result, allow_nan=False)


def test_progress_counts_the_trials():
    speech, text, links = small_problem()
    seen: list[None] = []
    alignment(speech, text, links, EvaluateConfig(trials=3, projections=4), lambda: seen.append(None))
    assert len(seen) == 3


def test_a_split_without_captions_is_refused():
    speech, text, _ = small_problem()
    with pytest.raises(UsageError, match="alignment: 1 utterances with a caption; expected at least 2 in the split"):
        alignment(speech[:3], text, linked([], [0], []), EvaluateConfig())


@pytest.mark.parametrize("broken", ["speech", "text"])
def test_vectors_that_are_not_finite_are_refused_by_name(broken):
    speech, text, links = small_problem()
    {"speech": speech, "text": text}[broken][3, 0] = math.nan
    with pytest.raises(EmotionRankError, match=f"{broken} vectors: 1 of 40 are not finite"):
        alignment(speech, text, links, EvaluateConfig(trials=1))


def test_the_gap_is_split_on_a_subsample_of_each_trial(monkeypatch):
    monkeypatch.setattr(module, "GAP_PAIRS", 12)
    speech, text, links = small_problem()
    config = EvaluateConfig(trials=1, pairs=20, projections=4)
    ((rows, texts),) = draws(links, config)
    unit = median_distance(speech[rows], text[texts], seed=0)
    result = alignment(speech, text, links, config)
    expected = gap(speech[rows[:12]], text[texts[:12]]).rest / unit**2
    assert result["gap_rest"]["mean"] == pytest.approx(expected, abs=1e-12)
    assert "by assignment of 12 pairs of each trial at most" in result["gap_rest"]["convention"]


@pytest.mark.parametrize("block", [1, 4, 512])
@pytest.mark.parametrize("texts", [1, 5, 30])
def test_mmd_of_captions_that_recur_equals_that_of_every_pair(texts, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    x, y = cloud(40, 30), cloud(41, texts)[torch.arange(30) % texts]
    expected = [slow_mmd(x, y, gamma) for gamma in (0.3, 2.0)]
    assert np.abs(np.subtract(mmd(x, y, [0.3, 2.0]), expected)).max() < 1e-12


def test_clouds_that_coincide_in_one_point_are_0_apart_by_every_distance():
    x = cloud(42, 1, 512).float().expand(40, -1)
    found = alignment(x, x, linked(*[[i] for i in range(40)]), EvaluateConfig(trials=1, projections=8))
    assert [found[name]["mean"] for name in found if name not in ("trials", "pairs")] == pytest.approx(
        [0] * 8, abs=1e-7
    )


def test_the_distinct_points_stand_in_the_order_of_their_first_occurrence():
    found = distinct(torch.tensor([[2.0, 1], [0, 1], [2, 1], [0, 0], [0, 1], [2, 1]]))
    assert found.points.tolist() == [[2, 1], [0, 1], [0, 0]]
    assert found.counts.tolist() == [3, 2, 1]


def test_the_values_do_not_depend_on_the_number_of_threads(monkeypatch):
    speech, text, links = small_problem()
    config, found = EvaluateConfig(trials=5, pairs=30, projections=8), []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        monkeypatch.setattr(module, "cores", lambda threads=threads: threads)
        torch.set_num_threads(threads)
        try:
            found.append(json.dumps(alignment(speech, text, links, config)))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
