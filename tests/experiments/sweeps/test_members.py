"""Members taken out of a stack go on as if the others had never been there."""

from __future__ import annotations

import pytest
import torch

from pipeline.experiments.sweeps.bracket import joined, taken_out
from pipeline.training.batched_heads import BatchedHeads, HeadsConfig, Schedule
from tests.training.test_batched_heads import WIDTH, batches, double, heads_of, objectives, some_pairs

pytestmark = pytest.mark.usefixtures(double.__name__)
STEPS = 12


def some_members() -> list[HeadsConfig]:
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


def test_what_is_taken_out_is_the_members_own_to_the_bit() -> None:
    stack = trained(BatchedHeads(some_members()), 0, 5)
    checkpoint = {name: tensor.clone() for name, tensor in stack.checkpoint().items()}
    parts = [taken_out(checkpoint, c, WIDTH) for c in range(4)]
    for c, part in enumerate(parts):
        assert part["steps"].shape == (1, 5)
        assert (part["steps"] == 5).all()
        for name, tensor in stack.state(c).items():
            assert torch.equal(part[f"heads.{name}"].view(tensor.shape), tensor)
    again = joined(parts)
    assert again.keys() == checkpoint.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in checkpoint.items())


def test_what_is_taken_out_no_longer_changes_with_the_stack() -> None:
    stack = trained(BatchedHeads(some_members()), 0, 2)
    part = taken_out(stack.checkpoint(), 1, WIDTH)
    before = {name: tensor.clone() for name, tensor in part.items()}
    trained(stack, 2, 4)
    assert all(torch.equal(part[name], tensor) for name, tensor in before.items())


def test_members_that_stay_go_on_as_if_they_had_always_been_alone() -> None:
    members = some_members()
    whole = trained(BatchedHeads(members), 0, 7)
    kept = [2, 0]
    fewer = BatchedHeads([members[c] for c in kept])
    fewer.restore(joined([taken_out(whole.checkpoint(), c, WIDTH) for c in kept]))
    trained(fewer, 7, STEPS)
    for place, c in enumerate(kept):
        alone = trained(BatchedHeads([members[c]]), 0, STEPS)
        for name, tensor in alone.checkpoint().items():
            mine = taken_out(fewer.checkpoint(), place, WIDTH)[name]
            assert torch.allclose(mine, tensor, rtol=0, atol=1e-10), (c, name)


def test_members_of_two_stacks_go_on_in_one() -> None:
    members = some_members()
    first, second = trained(BatchedHeads(members[:2]), 0, 7), trained(BatchedHeads(members[2:]), 0, 7)
    both = BatchedHeads([members[1], members[3]])
    both.restore(joined([taken_out(first.checkpoint(), 1, WIDTH), taken_out(second.checkpoint(), 1, WIDTH)]))
    trained(both, 7, STEPS)
    for place, c in enumerate((1, 3)):
        alone = trained(BatchedHeads([members[c]]), 0, STEPS)
        for name, tensor in alone.state(0).items():
            assert torch.allclose(both.state(place)[name], tensor, rtol=0, atol=1e-10), (c, name)
