"""The replayed step is the step: shown on a CPU with a stand-in for CUDA's recorder, which runs the work again."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads_config import HeadsConfig, Schedule
from pipeline.training.kernels import Launch, replayed_step
from tests.training.test_batched_heads import batches, heads_of, objectives, some_pairs


def record(work: Launch) -> Launch:
    for _ in range(3):  # as the warm-up does
        work()
    return work


def some_members() -> list[HeadsConfig]:
    made = objectives(some_pairs())
    names = ("emotionrankclap", "clap_sce", "smoothclap")
    return [
        HeadsConfig(heads_of(seed).float(), made[name], 1e-2, schedule=Schedule(12, "linear", 0.3))
        for seed, name in enumerate(names)
    ]


def test_replayed_steps_are_the_steps_and_recording_leaves_no_trace() -> None:
    pairs, members = some_pairs(), some_members()
    plain, stack = BatchedHeads(members), BatchedHeads(members)
    replayed = None
    for rows, speech, text in batches(pairs, 12):
        prepared = [objective.prepare(pairs, rows, rows) for objective in plain.objectives]
        speech, text = speech.float(), text.float()
        replayed = replayed or replayed_step(stack, (speech, text, prepared), record=record)
        assert torch.equal(plain.step(speech, text, prepared), replayed(speech, text, prepared))
    assert stack.steps_done == plain.steps_done == 12
    for name, tensor in plain.checkpoint().items():
        assert torch.equal(tensor, stack.checkpoint()[name]), name


def test_losses_of_a_replayed_step_are_not_overwritten_by_the_next() -> None:
    pairs, members = some_pairs(), some_members()
    stack, seen, kept, replayed = BatchedHeads(members), [], [], None
    for rows, speech, text in batches(pairs, 3):
        prepared = [objective.prepare(pairs, rows, rows) for objective in stack.objectives]
        replayed = replayed or replayed_step(stack, (speech.float(), text.float(), prepared), record=record)
        kept.append(replayed(speech.float(), text.float(), prepared))
        seen.append(kept[-1].tolist())
    assert [losses.tolist() for losses in kept] == seen
    with pytest.raises(ValueError, match="a batch of"):
        replayed(speech[:4].float(), text[:4].float(), prepared)


def test_where_nothing_can_be_recorded_the_plain_step_runs_and_the_reason_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs, (member, *_) = some_pairs(), some_members()
    stack = BatchedHeads([member])
    before = {name: tensor.clone() for name, tensor in stack.checkpoint().items()}

    def refuses(work: Launch) -> Launch:
        work()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    rows = torch.arange(4)
    batch = pairs.speech[rows].float(), pairs.text[rows].float(), [member.objective.prepare(pairs, rows, rows)]
    assert replayed_step(stack, batch, record=refuses) == stack.step
    assert "CUDA graph: not recorded (operation not permitted when stream" in capsys.readouterr().err
    assert all(torch.equal(tensor, before[name]) for name, tensor in stack.checkpoint().items())


@pytest.mark.parametrize("wrong", ["nothing", "twice", "once"])
def test_a_recording_that_is_not_the_step_is_not_used_and_leaves_no_trace(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, members = some_pairs(), some_members()
    stack = BatchedHeads(members)
    before = {name: tensor.clone() for name, tensor in stack.checkpoint().items()}
    rows = torch.arange(10)
    prepared = [objective.prepare(pairs, rows, rows) for objective in stack.objectives]
    calls = []

    def record(work: Launch) -> Launch:
        def replay() -> None:
            calls.append(1)
            for _ in range({"nothing": 0, "twice": 2, "once": int(len(calls) == 1)}[wrong]):
                work()

        return replay

    batch = pairs.speech[rows].float(), pairs.text[rows].float(), prepared
    assert replayed_step(stack, batch, record=record) == stack.step
    said = capsys.readouterr().err
    assert "differs after 3 replayed steps; every step is launched kernel by kernel" in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in stack.checkpoint().items())
    assert stack.steps_done == 0
