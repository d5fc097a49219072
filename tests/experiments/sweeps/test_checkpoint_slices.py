"""Heads cut out of a stack train on as if the others had never been there."""

from __future__ import annotations

import pytest
import torch

from pipeline.experiments.sweeps.bracket import join_checkpoints, slice_checkpoint
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads_config import HeadsConfig, Schedule
from tests.training.test_batched_heads import batches, double, heads_of, objectives, some_pairs

pytestmark = pytest.mark.usefixtures(double.__name__)
STEPS = 12


def some_configs() -> list[HeadsConfig]:
    made = objectives(some_pairs())
    names = ("emotionrankclap", "clap_sce", "symmetric", "emotionrankclap")
    decaying = Schedule(STEPS, "cosine", 0.1)
    return [
        HeadsConfig(
            heads_of(seed), made[name], 10.0 ** -(2 + seed % 2), weight_decay=0.1 * (seed % 2), schedule=decaying
        )
        for seed, name in enumerate(names)
    ]


def trained(stack: BatchedHeads, first: int, last: int) -> BatchedHeads:
    pairs = some_pairs()
    for step, (rows, speech, text) in enumerate(batches(pairs, last)):
        if step >= first:
            stack.step(speech, text, [objective.prepare(pairs, rows, rows) for objective in stack.objectives])
    return stack


def test_a_slice_is_the_part_of_its_heads_to_the_bit() -> None:
    stack = trained(BatchedHeads(some_configs()), 0, 5)
    checkpoint = {name: tensor.clone() for name, tensor in stack.checkpoint().items()}
    parts = [slice_checkpoint(checkpoint, c) for c in range(4)]
    for c, part in enumerate(parts):
        assert part["steps"].shape == (1, 5)
        assert (part["steps"] == 5).all()
        for name, tensor in stack.state(c).items():
            assert torch.equal(part[f"heads.{name}"].view(tensor.shape), tensor)
    again = join_checkpoints(parts)
    assert again.keys() == checkpoint.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in checkpoint.items())


def test_a_slice_no_longer_changes_with_the_stack() -> None:
    stack = trained(BatchedHeads(some_configs()), 0, 2)
    part = slice_checkpoint(stack.checkpoint(), 1)
    before = {name: tensor.clone() for name, tensor in part.items()}
    trained(stack, 2, 4)
    assert all(torch.equal(part[name], tensor) for name, tensor in before.items())


def test_heads_that_are_kept_train_on_as_if_they_had_always_been_alone() -> None:
    configs = some_configs()
    whole = trained(BatchedHeads(configs), 0, 7)
    kept = [2, 0]
    fewer = BatchedHeads([configs[c] for c in kept])
    fewer.restore(join_checkpoints([slice_checkpoint(whole.checkpoint(), c) for c in kept]))
    trained(fewer, 7, STEPS)
    for place, c in enumerate(kept):
        alone = trained(BatchedHeads([configs[c]]), 0, STEPS)
        for name, tensor in alone.checkpoint().items():
            mine = slice_checkpoint(fewer.checkpoint(), place)[name]
            assert torch.allclose(mine, tensor, rtol=0, atol=1e-10), (c, name)


def test_heads_of_two_stacks_train_on_in_one() -> None:
    configs = some_configs()
    first, second = trained(BatchedHeads(configs[:2]), 0, 7), trained(BatchedHeads(configs[2:]), 0, 7)
    both = BatchedHeads([configs[1], configs[3]])
    both.restore(join_checkpoints([slice_checkpoint(first.checkpoint(), 1), slice_checkpoint(second.checkpoint(), 1)]))
    trained(both, 7, STEPS)
    for place, c in enumerate((1, 3)):
        alone = trained(BatchedHeads([configs[c]]), 0, STEPS)
        for name, tensor in alone.state(0).items():
            assert torch.allclose(both.state(place)[name], tensor, rtol=0, atol=1e-10), (c, name)
