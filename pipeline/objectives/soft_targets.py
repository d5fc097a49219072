"""The soft-target family (F23-F27): row- and column-softmax of one similarity matrix against one target matrix.

    targets = identity(64)                                    # CLAP
    targets = same_class(emotions)                            # SupCon across modalities
    targets = gemo(emotions, genders, alpha=0.8, mix="targets")
    targets = smooth(acoustics, texts, beta=0.5, gamma=0.1, temperature=0.07)
    loss = soft_target_loss(cosines / tau, targets, divergence="cross_entropy")

Codes are integers; a row whose category is unknown has code -1 and is a match for nothing but itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Divergence = Literal["cross_entropy", "kl"]
UNKNOWN = -1


@dataclass(frozen=True)
class Targets:
    """What the softmaxes are compared with: one distribution a row, the same for either direction.

    `entropy` is what a KL divergence has less than the cross-entropy: the mean over rows of the targets' own entropy.
    """

    rows: Tensor  # (..., N, N), each row sums to 1
    entropy: Tensor  # (...)

    def __getitem__(self, batch: int) -> Targets:
        """The targets of one batch of the leading dimension."""
        return Targets(self.rows[batch], self.entropy[batch])


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
    turned = targets.rows.mT
    losses = -(targets.rows * toward_text + turned * toward_audio).sum((-2, -1)) / (2 * size)
    if divergence == "kl":
        losses = losses - targets.entropy
    if not with_gradient:
        return losses, logits.new_empty(0)
    gradient = (toward_text.exp_() + toward_audio.exp_()).sub_(targets.rows).sub_(turned).div_(2 * size)
    return losses, gradient


def identity(size: int, *, batches: tuple[int, ...] = (), device: torch.device | str = "cpu") -> Targets:
    """Each audio's own text, and nothing else (F24)."""
    return targets_of(torch.eye(size, device=device).expand(*batches, size, size))


def same_class(codes: Tensor) -> Targets:
    """(..., N) codes: every pair of one category, alike: `1[c_i = c_j] / |P(i)|` (F25, UniCL's form)."""
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
    parts = targets_of(same_emotion.softmax(-1)), targets_of(same_gender.softmax(-1))
    return Targets(
        alpha * parts[0].rows + (1 - alpha) * parts[1].rows, alpha * parts[0].entropy + (1 - alpha) * parts[1].entropy
    )


def smooth(acoustic: Tensor, text: Tensor, *, beta: float, gamma: float, temperature: float) -> Targets:
    """SmoothCLAP's targets (F27): `(1 - b) I + b q`, `q = (1 - g) softmax(A A^T / t) + g softmax(T T^T / t)`.

    Args:
        acoustic: (..., N, F) frozen paralinguistic features, standardised over the training split.
        text: (..., N, D) frozen text embeddings. Both are normalised here.
    """
    by_audio, by_text = (
        (unit @ unit.mT / temperature).softmax(-1) for unit in (normalize(acoustic, dim=-1), normalize(text, dim=-1))
    )
    own = torch.eye(acoustic.shape[-2], device=acoustic.device, dtype=acoustic.dtype)
    return targets_of((1 - beta) * own + beta * ((1 - gamma) * by_audio + gamma * by_text))


def targets_of(rows: Tensor) -> Targets:
    """(..., N, N) distributions as targets: row i says how alike each text is to audio i, and sums to 1."""
    return Targets(rows, torch.special.entr(rows).sum((-2, -1)) / rows.shape[-1])


def _matches(codes: Tensor) -> Tensor:
    """(..., N) codes -> (..., N, N) of 0 and 1; a row of unknown category matches itself alone."""
    same = (codes[..., :, None] == codes[..., None, :]) & (codes[..., :, None] != UNKNOWN)
    own = torch.eye(codes.shape[-1], dtype=torch.bool, device=codes.device)
    return (same | own).to(torch.get_default_dtype())
