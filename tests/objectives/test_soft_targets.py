"""The soft-target family against plain loops over the formulas of the papers (F23-F27)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.objectives.label_order import rank_order
from pipeline.objectives.rank_n_contrast import rank_n_contrast
from pipeline.objectives.soft_targets import (
    Divergence,
    Targets,
    gemo,
    identity,
    kernel,
    same_class,
    smooth,
    soft_target_gradient,
    soft_target_loss,
)

N = 7
EMOTION = [0, 1, 0, -1, 2, 1, -1]
GENDER = [0, 0, 1, 1, -1, 0, 1]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def logits(seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(N, N, generator=torch.Generator().manual_seed(seed)) * scale


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    exps = [math.exp(v - top) for v in values]
    return [e / sum(exps) for e in exps]


def loop_loss(matrix: Tensor, target: list[list[float]], kl: bool) -> float:
    """Half of each direction, row by row, term by term."""
    total = 0.0
    for direction in (matrix.tolist(), matrix.T.tolist()):
        for row, wanted in zip(direction, target, strict=True):
            for p, y in zip(softmax(row), wanted, strict=True):
                if y > 0:
                    total += y * ((math.log(y) if kl else 0.0) - math.log(p))
    return total / (2 * len(target))


def matches(codes: list[int]) -> list[list[float]]:
    return [[float(i == j or (a == b and a >= 0)) for j, b in enumerate(codes)] for i, a in enumerate(codes)]


def loop_smooth(acoustic: Tensor, text: Tensor, beta: float, gamma: float, t: float) -> list[list[float]]:
    def soft(x: Tensor) -> list[list[float]]:
        unit = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in x.tolist()]
        return [softmax([sum(p * q for p, q in zip(a, b, strict=True)) / t for b in unit]) for a in unit]

    a, b = soft(acoustic), soft(text)
    return [
        [(1 - beta) * (i == j) + beta * ((1 - gamma) * a[i][j] + gamma * b[i][j]) for j in range(len(a))]
        for i in range(len(a))
    ]


def features(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 4, generator=generator), torch.randn(N, 6, generator=generator)


def cases() -> dict[str, tuple[Targets, list[list[float]]]]:
    emotion, gender = torch.tensor(EMOTION), torch.tensor(GENDER)
    same, alike = matches(EMOTION), matches(GENDER)
    mixed = [[0.8 * e + 0.2 * g for e, g in zip(*rows, strict=True)] for rows in zip(same, alike, strict=True)]
    acoustic, text = features(1)
    return {
        "identity": (identity(N), [[float(i == j) for j in range(N)] for i in range(N)]),
        "same emotion": (same_class(emotion), [[m / sum(row) for m in row] for row in same]),
        "Emo-CLAP": (gemo(emotion, gender, alpha=1.0, mix="losses"), [softmax(row) for row in same]),
        "SL-GEmo-CLAP": (gemo(emotion, gender, alpha=0.8, mix="targets"), [softmax(row) for row in mixed]),
        "SmoothCLAP": (
            smooth(acoustic, text, beta=0.5, gamma=0.1, temperature=0.07),
            loop_smooth(acoustic, text, 0.5, 0.1, 0.07),
        ),
    }


NAMES = ["identity", "same emotion", "Emo-CLAP", "SL-GEmo-CLAP", "SmoothCLAP"]


@pytest.mark.parametrize("divergence", ["cross_entropy", "kl"])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_equals_the_loops_of_its_paper(name: str, divergence: str) -> None:
    targets, plain = cases()[name]
    assert torch.allclose(targets.rows.sum(-1), torch.ones(N))
    for seed in range(3):
        found = soft_target_loss(logits(seed), targets, divergence=divergence).item()
        assert found == pytest.approx(loop_loss(logits(seed), plain, divergence == "kl"), abs=1e-10)


def test_the_mixed_losses_of_ml_gemo_are_the_mixture_of_two_losses() -> None:
    emotion, gender = torch.tensor(EMOTION), torch.tensor(GENDER)
    expected = 0.9 * loop_loss(logits(), [softmax(row) for row in matches(EMOTION)], True)
    expected += 0.1 * loop_loss(logits(), [softmax(row) for row in matches(GENDER)], True)
    targets = gemo(emotion, gender, alpha=0.9, mix="losses")
    assert soft_target_loss(logits(), targets, divergence="kl").item() == pytest.approx(expected, abs=1e-10)


VOTES = [[3, 1, 0], [0, 2, 2], [0, 0, 0], [4, 0, 0], [1, 1, 1], [0, 5, 0], [0, 0, 2]]  # raters by category
RATERS = [5, 4, 3, 4, 3, 5, 2]  # of utterance 0 one, of 2 all three named no category


def matches_by_chance() -> list[list[float]]:
    """How likely a rater of i and a rater of j name the same category, pair of raters by pair of raters."""
    named = [[k for k, count in enumerate(votes) for _ in range(count)] for votes in VOTES]
    return [
        [1.0 if i == j else sum(a == b for a in named[i] for b in named[j]) / (RATERS[i] * RATERS[j]) for j in range(N)]
        for i in range(N)
    ]


def vote_shares() -> Tensor:
    return torch.tensor(VOTES) / torch.tensor(RATERS)[:, None]


def test_votes_match_as_often_as_two_raters_agree() -> None:
    plain, gender = matches_by_chance(), matches(GENDER)
    mixed = [[0.8 * e + 0.2 * g for e, g in zip(*rows, strict=True)] for rows in zip(plain, gender, strict=True)]
    codes = torch.tensor(GENDER)
    for targets, expected in (
        (same_class(vote_shares()), [[m / sum(row) for m in row] for row in plain]),
        (gemo(vote_shares(), codes, alpha=1.0, mix="losses"), [softmax(row) for row in plain]),
        (gemo(vote_shares(), codes, alpha=0.8, mix="targets"), [softmax(row) for row in mixed]),
    ):
        found = soft_target_loss(logits(), targets, divergence="kl").item()
        assert found == pytest.approx(loop_loss(logits(), expected, True), abs=1e-10)


def test_votes_of_one_voice_are_the_categories_and_batches_are_independent() -> None:
    codes = torch.tensor([EMOTION, GENDER])
    shares = torch.nn.functional.one_hot(codes.clamp_min(0), 3) * (codes >= 0)[..., None]
    assert torch.equal(same_class(shares.double()).rows, same_class(codes).rows)
    points = torch.rand(2, N, 2)
    assert torch.equal(kernel(points, shares.double(), 0.7, 0.3).rows, kernel(points, codes, 0.7, 0.3).rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_passes_gradcheck(name: str) -> None:
    targets, _ = cases()[name]
    for divergence in ("cross_entropy", "kl"):
        z = logits(5).requires_grad_()
        assert torch.autograd.gradcheck(lambda z, d=divergence: soft_target_loss(z, targets, divergence=d), z)


def test_a_kl_divergence_is_zero_where_both_softmaxes_are_the_targets() -> None:
    targets = gemo(torch.tensor(EMOTION), torch.tensor(GENDER), alpha=0.8, mix="targets")
    even = gemo(torch.zeros(N, dtype=torch.long), torch.zeros(N, dtype=torch.long), alpha=1.0, mix="losses")
    assert soft_target_loss(torch.zeros(N, N), even, divergence="kl").item() == pytest.approx(0, abs=1e-12)
    assert soft_target_loss(torch.zeros(N, N), targets, divergence="kl").item() > 0.01


def test_symmetric_cross_entropy_is_clips() -> None:
    z, own = logits(2), torch.arange(N)
    clip = (torch.nn.functional.cross_entropy(z, own) + torch.nn.functional.cross_entropy(z.T, own)) / 2
    assert torch.allclose(soft_target_loss(z, identity(N), divergence="cross_entropy"), clip, atol=1e-12)


def test_supcon_of_unique_labels_and_smoothclap_at_beta_0_are_symmetric_cross_entropy() -> None:
    z = logits(3)
    expected = soft_target_loss(z, identity(N), divergence="cross_entropy")
    for targets in (
        same_class(torch.arange(N)),
        same_class(torch.full((N,), -1)),
        smooth(*features(0), beta=0.0, gamma=0.3, temperature=0.07),
    ):
        for divergence in ("cross_entropy", "kl"):
            assert torch.allclose(soft_target_loss(z, targets, divergence=divergence), expected, atol=1e-12)


def test_clap_is_the_diagonal_of_rank_n_contrast() -> None:
    z, labels = logits(4), torch.randint(5, 36, (N, 2), generator=torch.Generator().manual_seed(0)) / 5
    own = torch.arange(N)
    audio_to_text = torch.nn.functional.cross_entropy(z, own)
    farther = torch.zeros(())
    for i in range(N):
        for j in range(N):
            if i != j:
                far = (labels - labels[i]).square().sum(1)
                farther = farther + torch.logsumexp(z[i, far >= far[j] - 1e-9], 0) - z[i, j]
    ranked = rank_n_contrast(z, rank_order(labels)) * N * N
    assert torch.allclose(ranked - farther, audio_to_text * N, atol=1e-9)


def test_an_unknown_category_matches_nothing_but_itself() -> None:
    rows = same_class(torch.tensor([-1, -1, 3, 3])).rows
    assert rows[0].tolist() == [1, 0, 0, 0]
    assert rows[1].tolist() == [0, 1, 0, 0]
    assert rows[2].tolist() == [0, 0, 0.5, 0.5]


def test_batches_of_targets_are_independent_and_their_losses_averaged() -> None:
    codes = torch.tensor([EMOTION, GENDER, [0] * N])
    targets = same_class(codes)
    z = torch.stack([logits(seed) for seed in range(3)])
    each = [soft_target_loss(z[i], targets[i], divergence="kl") for i in range(3)]
    assert torch.allclose(soft_target_loss(z, targets, divergence="kl"), torch.stack(each).mean())
    for i in range(3):
        assert torch.equal(targets[i].rows, same_class(codes[i]).rows)
    assert identity(N, batches=(3,))[1].rows.tolist() == torch.eye(N).tolist()


@pytest.mark.parametrize("codes", [[0, 1, 0, 2, 2, 1, 0], list(range(N))])
def test_supcon_equals_pytorch_metric_learnings_in_each_direction(codes: list[int]) -> None:
    """Their loss takes anchors of one modality and references of the other; ours is half of either direction."""
    generator, temperature = torch.Generator().manual_seed(3), 0.3
    speech, text = (normalize(torch.randn(N, 5, generator=generator)) for _ in range(2))
    labels = torch.tensor(codes)
    theirs = SupConLoss(temperature=temperature)
    expected = sum(theirs(one, labels, ref_emb=other, ref_labels=labels.clone()) for one, other in
                   ((speech, text), (text, speech))) / 2  # fmt: skip
    ours = soft_target_loss(speech @ text.T / temperature, same_class(labels), divergence="cross_entropy")
    assert ours.item() == pytest.approx(expected.item(), abs=1e-10)


@pytest.mark.parametrize("divergence", ["cross_entropy", "kl"])
def test_the_gradient_without_autograd_is_autograds(divergence: Divergence) -> None:
    batches = torch.stack([logits(seed) for seed in range(3)]).requires_grad_()
    targets = smooth(torch.randn(3, N, 4), torch.randn(3, N, 4), beta=0.5, gamma=0.1, temperature=0.07)
    soft_target_loss(batches, targets, divergence=divergence).backward()
    losses, gradient = soft_target_gradient(batches.detach(), targets, divergence=divergence)
    assert batches.grad is not None
    assert torch.allclose(gradient / 3, batches.grad, rtol=0, atol=1e-12)
    alone = [soft_target_loss(batches[s], targets[s], divergence=divergence).item() for s in range(3)]
    assert losses.tolist() == pytest.approx(alone, abs=1e-12)
    assert losses.equal(soft_target_gradient(batches.detach(), targets, divergence=divergence, with_gradient=False)[0])
