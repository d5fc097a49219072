"""The soft-target family (F23-F27): row- and column-softmax of one similarity matrix against one target matrix.

    targets = identity(64)                                    # CLAP
    targets = same_class(emotions)                            # SupCon across modalities
    targets = gemo(emotions, genders, alpha=0.8, mix="targets")
    targets = smooth(acoustics, texts, beta=0.5, gamma=0.1, temperature=0.07)
    targets = kernel(labels[:, :2], emotions, width=0.7, class_share=0.3)
    loss = soft_target_loss(cosines / tau, targets, divergence="cross_entropy")

A category is a code, an integer, or K shares of raters' votes for each code. Two utterances match, from 0 to 1, as
likely as a rater of one and a rater of the other name the same category: of codes, 1 where they are equal. One whose
category is unknown (code -1, no shares) is a match for nothing but itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cache.pairs import CachedPairs
from pipeline.core.errors import UsageError
from pipeline.core.objective_config import SoftTargetsConfig
from pipeline.objectives.space import LogitsObjective

Divergence = Literal["cross_entropy", "kl"]
UNKNOWN = -1


@dataclass(frozen=True)
class Targets:
    """What the softmaxes are compared with: one distribution a row, the same for either direction.

    `entropy` is the mean over rows of the targets' entropy: the cross-entropy minus the KL divergence.
    """

    rows: Tensor  # (..., N, N), each row sums to 1
    entropy: Tensor  # (...)

    def __getitem__(self, batch: int) -> Targets:
        """The targets of one batch of the leading dimension."""
        return Targets(self.rows[batch], self.entropy[batch])


@dataclass(frozen=True)
class SoftTargets(LogitsObjective):
    """One of the family as an objective (`pipeline.objectives.space.Objective`).

    SmoothCLAP's features are standardised by `acoustic_mean` and `acoustic_std`, (F,), of the training pairs.
    """

    config: SoftTargetsConfig
    acoustic_mean: Tensor = field(default_factory=lambda: torch.zeros(()), compare=False)
    acoustic_std: Tensor = field(default_factory=lambda: torch.ones(()), compare=False)

    def emotion(self, pairs: CachedPairs) -> Tensor:
        """Each utterance's category: (n,) codes, or (n, K) shares of votes where the config asks for them."""
        return pairs.votes if self.config.votes and pairs.votes is not None else pairs.emotion

    def prepare(self, pairs: CachedPairs, rows: Tensor, captions: Tensor) -> Targets:
        config = self.config
        if config.targets == "identity":
            return identity(rows.shape[-1], batches=tuple(rows.shape[:-1]), device=rows.device)
        if config.targets == "same_emotion":
            return same_class(self.emotion(pairs)[rows])
        if config.targets == "gemo":
            return gemo(self.emotion(pairs)[rows], pairs.gender[rows], alpha=config.alpha, mix=config.mix)
        if config.targets == "kernel":
            emotion = self.emotion(pairs)[rows]
            return kernel(pairs.labels[rows][..., :2], emotion, config.kernel_width, config.class_share)
        assert pairs.acoustic is not None
        acoustic = (pairs.acoustic[rows] - self.acoustic_mean) / self.acoustic_std
        text = pairs.text[captions]
        return smooth(acoustic, text, beta=config.beta, gamma=config.gamma, temperature=config.temperature)

    def loss(self, logits: Tensor, prepared: Targets) -> Tensor:
        return soft_target_loss(logits, prepared, divergence=self.config.divergence)

    def gradient(self, logits: Tensor, prepared: Targets, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
        return soft_target_gradient(logits, prepared, divergence=self.config.divergence, with_gradient=with_gradient)


def fit_soft_targets(config: SoftTargetsConfig, train: CachedPairs) -> SoftTargets:
    """The objective of `config`. Raises UsageError where the training pairs lack acoustic features or votes."""
    if config.votes and train.votes is None:
        raise UsageError(
            "objective.votes", "stores without votes", "raters' votes by category in their manifest",
            "Run extract-features again, where the corpus has them (docs/corpora.md), or leave it out.",
        )  # fmt: skip
    if config.targets != "smooth":
        return SoftTargets(config)
    if train.acoustic is None:
        raise UsageError(
            "targets smooth", "stores without acoustic.h5", "acoustic features",
            "Run extract-features with the style acoustic: -o captions.styles=[dimensional,template,acoustic].",
        )  # fmt: skip
    std, mean = torch.std_mean(train.acoustic, dim=0)
    return SoftTargets(config, mean, std.clamp_min(1e-6))


def soft_target_loss(logits: Tensor, targets: Targets, *, divergence: Divergence) -> Tensor:
    """Half audio -> text, half text -> audio; a scalar, the mean over leading dimensions.

    Args:
        logits: (..., N, N) cosine / tau; row i is audio i, column j is text j.
        targets: of the same N pairs.
        divergence: `cross_entropy`, or `kl` = KL(targets || softmax), which differs by a constant: the gradients are
            the same.

    Relations: `identity` is CLAP's symmetric cross-entropy (F24); `same_class` of unique codes and `smooth` of beta 0
    are `identity`; Rank-N-Contrast's diagonal terms with `>=` are its audio -> text half.
    """
    size = logits.shape[-1]
    toward_text, toward_audio = logits.log_softmax(-1), logits.mT.log_softmax(-1)
    loss = -(targets.rows * (toward_text + toward_audio)).sum((-2, -1)) / (2 * size)
    if divergence == "kl":
        loss = loss - targets.entropy
    return loss.mean()


def soft_target_gradient(
    logits: Tensor, targets: Targets, *, divergence: Divergence, with_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Each batch's own loss (...) and its gradient (..., N, N), without autograd; arguments of `soft_target_loss`.

    The targets' rows sum to 1, so a direction's gradient is its softmax less the targets. Without `with_gradient` it is
    empty.
    """
    size = logits.shape[-1]
    toward_text, toward_audio = logits.log_softmax(-1), logits.log_softmax(-2)
    transposed = targets.rows.mT
    losses = -(targets.rows * toward_text + transposed * toward_audio).sum((-2, -1)) / (2 * size)
    if divergence == "kl":
        losses = losses - targets.entropy
    if not with_gradient:
        return losses, logits.new_empty(0)
    gradient = (toward_text.exp_() + toward_audio.exp_()).sub_(targets.rows).sub_(transposed).div_(2 * size)
    return losses, gradient


def identity(size: int, *, batches: tuple[int, ...] = (), device: torch.device | str = "cpu") -> Targets:
    """Each audio's own text, and nothing else (F24)."""
    return targets_of(torch.eye(size, device=device).expand(*batches, size, size))


def same_class(codes: Tensor) -> Targets:
    """(..., N) codes: every pair of one category, alike: `1[c_i = c_j] / |P(i)|` (F25, UniCL's form).

    (..., N, K) shares of votes: `m_ij / sum_k m_ik`, of the matches `m`.
    """
    matches = _matches(codes)
    return targets_of(matches / matches.sum(-1, keepdim=True))


def gemo(emotion: Tensor, gender: Tensor, *, alpha: float, mix: Literal["losses", "targets"]) -> Targets:
    """GEmo-CLAP's targets (F26): softmax over 0/1 matrices of the same emotion and the same gender.

    `losses` (ML): alpha L_emotion + (1 - alpha) L_gender, which for either divergence is one loss against the mixed
    distributions and the mixed entropies. `targets` (SL): softmax(alpha M_e + (1 - alpha) M_g). Alpha 1 is Emo-CLAP.
    """
    same_emotion, same_gender = _matches(emotion), _matches(gender)
    if mix == "targets":
        return targets_of((alpha * same_emotion + (1 - alpha) * same_gender).softmax(-1))
    by_emotion, by_gender = targets_of(same_emotion.softmax(-1)), targets_of(same_gender.softmax(-1))
    rows = alpha * by_emotion.rows + (1 - alpha) * by_gender.rows
    return Targets(rows, alpha * by_emotion.entropy + (1 - alpha) * by_gender.entropy)


def smooth(acoustic: Tensor, text: Tensor, *, beta: float, gamma: float, temperature: float) -> Targets:
    """SmoothCLAP's targets (F27): `(1 - b) I + b q`, `q = (1 - g) softmax(A A^T / t) + g softmax(T T^T / t)`.

    Args:
        acoustic: (..., N, F) frozen paralinguistic features, standardised over the training split.
        text: (..., N, D) frozen text embeddings. Both are normalised here.
    """
    acoustic, text = normalize(acoustic, dim=-1), normalize(text, dim=-1)
    by_audio = (acoustic @ acoustic.mT / temperature).softmax(-1)
    by_text = (text @ text.mT / temperature).softmax(-1)
    diagonal = torch.eye(acoustic.shape[-2], device=acoustic.device, dtype=acoustic.dtype)
    return targets_of((1 - beta) * diagonal + beta * ((1 - gamma) * by_audio + gamma * by_text))


def kernel(points: Tensor, emotion: Tensor, width: float, class_share: float = 0.0) -> Targets:
    """Gaussian targets (y-Aware InfoNCE): rows of exp(-d_ij^2 / 2 width^2) that sum to 1.

    points: (..., N, 2) valence and arousal. `class_share` of the targets are SupCon's of the (..., N) `emotion` codes.
    Width -> 0 is CLAP where no two labels are equal.
    """
    near = kernel_logits(points, points, width).softmax(-1).to(torch.get_default_dtype())
    if not class_share:
        return targets_of(near)
    return targets_of((1 - class_share) * near + class_share * same_class(emotion).rows)


def kernel_logits(points: Tensor, others: Tensor, width: float) -> Tensor:
    """(..., N, K) and (..., M, K) points -> (..., N, M) float64 logarithms of the Gaussian kernel: -d^2 / 2 width^2."""
    valence, arousal = (
        mine[..., :, None] - theirs[..., None, :]
        for mine, theirs in zip(points.double().unbind(-1), others.double().unbind(-1), strict=True)
    )
    return valence.square_().add_(arousal.square_()).div_(-2 * width**2)


def targets_of(rows: Tensor) -> Targets:
    """(..., N, N) distributions as targets: row i says how alike each text is to audio i, and sums to 1."""
    return Targets(rows, torch.special.entr(rows).sum((-2, -1)) / rows.shape[-1])


def _matches(codes: Tensor) -> Tensor:
    """(..., N) codes -> (..., N, N) of 0 and 1; (..., N, K) shares -> 0 to 1; each row matches itself."""
    if codes.is_floating_point():
        shared = (codes @ codes.mT).to(torch.get_default_dtype())
        return shared.diagonal_scatter(torch.ones_like(shared[..., 0]), dim1=-2, dim2=-1)
    same = (codes[..., :, None] == codes[..., None, :]) & (codes[..., :, None] != UNKNOWN)
    diagonal = torch.eye(codes.shape[-1], dtype=torch.bool, device=codes.device)
    return (same | diagonal).to(torch.get_default_dtype())
