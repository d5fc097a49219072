"""The arithmetic of successive halving (Jamieson & Talwalkar 2016): how far to a rung, and who goes on."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.sweeps.config import Halving


def last_rung(halving: Halving | None) -> int:
    """Rungs are counted from 1; the last is the end of the training."""
    return 1 if halving is None else halving.rungs + 1


def steps_to(rung: int, halving: Halving | None, total: int) -> int:
    """Steps of a training of `total` at `rung`: total / factor^rungs at the first, factor times more at each next."""
    if halving is None:
        return total
    parts: int = halving.factor ** (last_rung(halving) - rung)
    return max(1, total // parts)


def bracket_size(halving: Halving | None, slots: int) -> int:
    """Trials that start together; without halving, those that fit side by side."""
    return slots if halving is None else halving.factor**halving.rungs


def survivors(scores: Mapping[int, float], halving: Halving, *, highest: bool) -> list[int]:
    """The best 1 / factor of the trials, at least one, in order of their numbers; of equals the earlier one."""
    ranked = sorted(scores, key=lambda number: (-scores[number] if highest else scores[number], number))
    return sorted(ranked[: max(1, len(ranked) // halving.factor)])
