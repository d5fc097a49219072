"""The step by hand is the step of autograd and torch's plain Adam; a stack's members are their single selves."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from cache.pairs import CachedPairs, GridTexts
from pipeline.core.config import TrainConfig
from pipeline.core.presets import preset_names
from pipeline.core.resources import threads_restored
from pipeline.objectives.base import objective_of
from pipeline.objectives.space import LogitsObjective, Objective, SharedSpace
from pipeline.training import batched_heads
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig, Schedule, Temperature
from pipeline.training.reference_step import ReferenceHeads
from pipeline.training.train import resolve_training
from pipeline.training.training_data import TrainingData, draw_extra

METHODS = [name for name in preset_names("methods") if name not in ("ridge", "ridge_own_captions", "plane_clap")]
AUDIO, TEXT, WIDTH, BATCH, ROWS = 20, 12, 16, 10, 64
OTHERS = {
    "beyond_and_self": {"name": "rank_n_contrast", "denominator": "beyond_and_self"},
    "symmetric": {"name": "rank_n_contrast", "symmetric": True},
    "kernel": {"name": "soft_targets", "targets": "kernel", "class_share": 0.3},
    "votes": {"name": "soft_targets", "targets": "same_emotion", "votes": True},
    "arousal alone, L1": {"name": "rank_n_contrast", "labels": ["arousal"], "distance": "l1"},
}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    with threads_restored():
        yield
    torch.set_default_dtype(torch.float32)


def some_pairs() -> CachedPairs:
    draw = torch.Generator().manual_seed(0)

    def codes(count: int) -> Tensor:
        return torch.randint(-1, count, (ROWS,), generator=draw)

    return CachedPairs(
        rows=torch.arange(ROWS).numpy(),
        speech=torch.randn(ROWS, AUDIO, generator=draw),
        text=torch.randn(ROWS, TEXT, generator=draw),
        offsets=torch.arange(ROWS + 1),
        caption=torch.arange(ROWS),
        labels=torch.randint(5, 36, (ROWS, 3), generator=draw) / 5,
        emotion=codes(4),
        gender=codes(2),
        acoustic=torch.randn(ROWS, 7, generator=draw),
        notes=[],
        votes=torch.rand(ROWS, 4, generator=draw, dtype=torch.float64).softmax(-1),
    )


def with_grid(pairs: CachedPairs) -> CachedPairs:
    draw = torch.Generator().manual_seed(5)
    points = torch.randint(1, 15, (40, 2), generator=draw) / 2.0
    return pairs.with_extra(GridTexts(torch.randn(40, TEXT, generator=draw), points, torch.arange(40) % 8))


def objectives(pairs: CachedPairs) -> dict[str, Objective]:
    configs = {name: resolve_training(name) for name in METHODS}
    configs |= {name: TrainConfig.model_validate({"objective": tree}) for name, tree in OTHERS.items()}
    return {name: objective_of(config, pairs) for name, config in configs.items()}


def heads_of(seed: int, activation: str = "relu") -> Heads:
    heads = Heads(AUDIO, TEXT, dim=WIDTH, activation=activation)
    heads.initialise(seed, temperature=0.5)
    return heads


def batches(pairs: CachedPairs, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randperm(ROWS, generator=draw)[:BATCH]
        speech, text = pairs.speech[rows], pairs.text[rows]
        speech[0] = -100.0 * speech[0].abs()  # drives a ReLU row towards all zeros
        yield rows, speech, text


class Plain:
    """The reference: autograd, nothing fused."""

    def __init__(self, member: HeadsConfig) -> None:
        self.heads, self.objective = copy.deepcopy(member.heads), member.objective
        self.adam = torch.optim.Adam(
            self.heads.parameters(), lr=member.learning_rate, weight_decay=member.weight_decay, fused=False
        )

    def step(self, speech: Tensor, text: Tensor, prepared: Any) -> float:
        audio, words = self.heads.project(speech, text)
        if isinstance(self.objective, LogitsObjective):
            loss = self.objective.loss(audio @ words.mT * self.heads.log_scale.exp(), prepared)
        else:
            loss = self.objective.space_loss(SharedSpace.of(audio, words, self.heads.log_scale), prepared)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.heads.clamp_scale()
        return loss.item()


def assert_equal(stack: BatchedHeads, c: int, heads: Heads, tolerance: float) -> None:
    learnt = heads.state_dict()
    for name, tensor in stack.state(c).items():
        assert tensor.shape == learnt[name].shape
        assert torch.allclose(tensor, learnt[name], rtol=0, atol=tolerance), name


@pytest.mark.parametrize("name", [*METHODS, *OTHERS])
@pytest.mark.parametrize(("activation", "threads"), [("relu", 1), ("relu", 2), ("relu", 3), ("identity", 1)])
def test_every_objectives_steps_are_those_of_autograd_to_1e_10(name: str, activation: str, threads: int) -> None:
    torch.set_num_threads(threads)  # 16 rows of weights are shared by two threads, not by three
    pairs = some_pairs()
    objective = objectives(pairs)[name]
    member = HeadsConfig(heads_of(0, activation), objective, 1e-2, weight_decay=0.01)
    stack, reference = BatchedHeads([member]), ReferenceHeads([member])
    for rows, speech, text in batches(pairs, 30):
        prepared = [objective.prepare(pairs, rows, rows)]
        expected = reference.step(speech, text, prepared)
        assert stack.step(speech, text, prepared).item() == pytest.approx(expected.item(), abs=1e-10)
    for name, tensor in stack.checkpoint().items():
        assert torch.allclose(tensor, reference.checkpoint()[name], rtol=0, atol=1e-10), name


@pytest.mark.parametrize("norm", ["none", "centre", "batch"])
@pytest.mark.parametrize("shape", ["learned", "fixed", "cosine"])
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_norms_temperatures_and_the_grid_term_step_as_autograd_to_1e_9(norm: Any, shape: Any, activation: str) -> None:
    pairs = with_grid(some_pairs())
    gap = {"centroid": 3.0, "covariance": 5.0} if norm == "none" else {}
    config = TrainConfig.model_validate({"grid": {"texts": 7, "share": 0.5}, "gap": gap})
    objective = objective_of(config, pairs)
    temperature = Temperature(0.5, shape, 0.1, 30)
    options = {"temperature": temperature, "norm": norm}
    members = [HeadsConfig(heads_of(seed, activation), objective, 1e-2, 0.01, **options) for seed in range(2)]
    stack, references = BatchedHeads(members), [ReferenceHeads([member]) for member in members]
    draw = torch.Generator().manual_seed(2)
    for rows, speech, text in batches(pairs, 30):
        captions = torch.cat([rows, draw_extra(pairs, 7, 1, draw)[0]])
        prepared = [objective.prepare(pairs, rows, captions)]
        texts = torch.cat([text, pairs.text[captions[BATCH:]]])
        losses = stack.step(speech, texts, prepared)
        for c, reference in enumerate(references):
            assert losses[c].item() == pytest.approx(reference.step(speech, texts, prepared).item(), abs=1e-9)
    for c, reference in enumerate(references):
        for name, tensor in reference.state(0).items():
            assert torch.allclose(stack.state(c)[name], tensor, rtol=0, atol=1e-9), name
    expected = {"fixed": 0.5, "cosine": temperature.start - 0.4 * (1 - math.cos(math.pi * 29 / 30)) / 2}
    if shape != "learned":
        assert stack.temperatures() == pytest.approx([expected[shape]] * 2)


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_a_norm_is_folded_into_the_saved_heads(activation: str) -> None:
    """On all training vectors as one batch, the saved heads project as the normalised ones: torch's BatchNorm."""
    pairs = some_pairs()
    standard = heads_of(3, activation)
    data = TrainingData(pairs, pairs, BATCH, standard)
    objective = objectives(pairs)["clap_sce"]
    for norm in ("centre", "batch"):
        stack = BatchedHeads([HeadsConfig(standard, objective, 1e-2, norm=norm, statistics=data.statistics)])
        saved = heads_of(0, activation)
        saved.load_state_dict(stack.state(0), strict=False)
        for layer, vectors, embed in (
            (standard.audio, pairs.speech, saved.embed_speech), (standard.text, pairs.text, saved.embed_text),
        ):  # fmt: skip
            units = vectors @ layer.weight.mT
            if norm == "batch":
                units = torch.nn.functional.batch_norm(units, None, None, training=True)
            expected = units - units.mean(0) + layer.bias
            expected = expected.relu() if activation == "relu" else expected
            assert torch.allclose(embed(vectors), torch.nn.functional.normalize(expected, dim=-1), atol=1e-9)


@pytest.mark.parametrize("name", ["emotionrankclap", "supcon"])
def test_the_reference_step_is_torchs_loop_to_the_bit_and_resumes(name: str) -> None:
    pairs = some_pairs()
    objective = objectives(pairs)[name]
    member = HeadsConfig(heads_of(0), objective, 1e-2, weight_decay=0.01)
    reference, plain = ReferenceHeads([member]), Plain(member)
    for step, (rows, speech, text) in enumerate(batches(pairs, 8)):
        if step == 4:
            saved = {key: tensor.clone() for key, tensor in reference.checkpoint().items()}
            reference = ReferenceHeads([member])
            reference.restore(saved)
        prepared = objective.prepare(pairs, rows, rows)
        assert reference.step(speech, text, [prepared]).item() == plain.step(speech, text, prepared)
    assert_equal(reference, 0, plain.heads, 0)
    assert reference.steps_done == 8


def test_a_row_of_zeros_gets_no_gradient_and_no_nan() -> None:
    pairs = some_pairs()
    objective = objectives(pairs)["emotionrankclap"]
    heads = heads_of(0)
    with torch.no_grad():
        heads.audio.bias.fill_(-1e6)
    stack = BatchedHeads([HeadsConfig(heads, objective, 1e-2)])
    before = stack.state(0)
    rows = torch.arange(BATCH)
    losses = stack.step(pairs.speech[rows], pairs.text[rows], [objective.prepare(pairs, rows, rows)])
    assert losses.isfinite().all()
    assert torch.equal(stack.state(0)["audio.weight"], before["audio.weight"])


def test_float32_losses_stay_within_1e_5_of_the_reference_over_200_steps() -> None:
    pairs = some_pairs()
    objective = objectives(pairs)["emotionrankclap"]
    member = HeadsConfig(heads_of(0).float(), objective, 1e-3)
    stack, plain = BatchedHeads([member]), Plain(member)
    for rows, speech, text in batches(pairs, 200):
        prepared = objective.prepare(pairs, rows, rows)
        (loss,) = stack.step(speech.float(), text.float(), [prepared])
        assert loss.item() == pytest.approx(plain.step(speech.float(), text.float(), prepared), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_without_torchs_own_function_of_adam_have_the_same_bits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = some_pairs()
    made = objectives(pairs)["emotionrankclap"]
    members = [HeadsConfig(heads_of(0).to(dtype), made, rate, weight_decay=0.1) for rate in (1e-2, 3e-3)]
    function, optimiser = BatchedHeads(members), BatchedHeads(members)
    for rows, speech, text in batches(pairs, 20):
        prepared = [made.prepare(pairs, rows, rows)]
        function.step(speech.to(dtype), text.to(dtype), prepared)
        with monkeypatch.context() as patch:
            patch.setattr(batched_heads, "_adam", None)
            optimiser.step(speech.to(dtype), text.to(dtype), prepared)
    for name, tensor in function.checkpoint().items():
        assert torch.equal(optimiser.checkpoint()[name], tensor), name
    assert not torch.equal(function.stacked["audio.weight"], BatchedHeads(members).stacked["audio.weight"])


def test_each_member_of_a_stack_is_its_single_self() -> None:
    pairs = some_pairs()
    made = objectives(pairs)
    names = ["emotionrankclap", "clap_sce", "emotionrankclap", "supcon", "symmetric", "clap_sce"]
    rates = [1e-2, 1e-2, 3e-3, 1e-2, 1e-3, 2e-3]
    members = [
        HeadsConfig(heads_of(seed), made[name], rate, weight_decay=0.1 * (seed % 2))
        for seed, (name, rate) in enumerate(zip(names, rates, strict=True))
    ]
    stack, singles = BatchedHeads(members), [BatchedHeads([member]) for member in members]
    for rows, speech, text in batches(pairs, 40):
        losses = stack.step(speech, text, [objective.prepare(pairs, rows, rows) for objective in stack.objectives])
        for c, (member, single) in enumerate(zip(members, singles, strict=True)):
            (alone,) = single.step(speech, text, [member.objective.prepare(pairs, rows, rows)])
            assert losses[c].item() == pytest.approx(alone.item(), abs=1e-10)
    for c, single in enumerate(singles):
        for name, tensor in single.state(0).items():
            assert torch.allclose(stack.state(c)[name], tensor, rtol=0, atol=1e-10), (c, name)
        assert stack.temperatures()[c] == pytest.approx(single.temperatures()[0])


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_schedule_is_torchs_own_and_goes_on_from_a_checkpoint(shape: Literal["linear", "cosine"]) -> None:
    """torch's warm-up followed by its linear or cosine decay, on a plain Adam."""
    pairs = some_pairs()
    objective = objectives(pairs)["clap_sce"]
    member = HeadsConfig(heads_of(0), objective, 1e-2, schedule=Schedule(20, shape, warmup=0.2))
    constant = HeadsConfig(heads_of(1), objective, 1e-2)
    plain, stack = Plain(member), BatchedHeads([member, constant])
    rising = torch.optim.lr_scheduler.LinearLR(plain.adam, start_factor=1 / 5, end_factor=1, total_iters=4)
    falling = {
        "linear": torch.optim.lr_scheduler.LinearLR(plain.adam, start_factor=1, end_factor=0, total_iters=16),
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(plain.adam, T_max=16),
    }[shape]
    schedule = torch.optim.lr_scheduler.SequentialLR(plain.adam, [rising, falling], milestones=[4])
    for step, (rows, speech, text) in enumerate(batches(pairs, 20)):
        prepared = objective.prepare(pairs, rows, rows)
        if step == 10:
            saved = {name: tensor.clone() for name, tensor in stack.checkpoint().items()}
            stack = BatchedHeads([member, constant])
            stack.restore(saved)
        assert member.learning_rate * member.schedule.factor(step) == pytest.approx(schedule.get_last_lr()[0])
        stack.step(speech, text, [prepared])
        plain.step(speech, text, prepared)
        schedule.step()
    assert_equal(stack, 0, plain.heads, 1e-10)


def test_projections_and_losses_of_a_member_are_those_of_its_heads() -> None:
    pairs = some_pairs()
    made = objectives(pairs)
    members = [
        HeadsConfig(heads_of(seed), made[name], 1e-2)
        for seed, name in enumerate(("clap_sce", "emotionrankclap", "symmetric"))
    ]
    stack = BatchedHeads(members)
    rows = torch.arange(3 * BATCH).view(3, BATCH)
    for c, member in enumerate(members):
        audio, text = stack.project(c, "audio", pairs.speech), stack.project(c, "text", pairs.text)
        expected = member.heads.project(pairs.speech, pairs.text)
        assert torch.allclose(audio[0], expected[0])
        assert torch.allclose(text[0], expected[1])
        prepared = [objective.prepare(pairs, rows, rows) for objective in stack.objectives]
        by_batch = [tuple(each[rows] for each in side) for side in (audio, text)]
        losses = stack.losses(c, *by_batch, prepared)
        logits = audio[0][rows] @ text[0][rows].mT * member.heads.log_scale.exp()
        for s in range(3):
            alone = member.objective.loss(logits[s], member.objective.prepare(pairs, rows[s], rows[s]))
            assert losses[s].item() == pytest.approx(alone.item(), abs=1e-10)


def test_a_stack_goes_on_from_its_checkpoint_with_the_same_bits() -> None:
    pairs = some_pairs()
    objective = objectives(pairs)["clap_sce"]
    members = [HeadsConfig(heads_of(seed), objective, 10.0 ** -(seed + 1)) for seed in range(2)]
    first, second, third = BatchedHeads(members), BatchedHeads(members), BatchedHeads(members)
    for step, (rows, speech, text) in enumerate(batches(pairs, 12)):
        prepared = [objective.prepare(pairs, rows, rows)]
        first.step(speech, text, prepared)
        (second if step < 6 else third).step(speech, text, prepared)
        if step == 5:
            third.restore({name: tensor.clone() for name, tensor in second.checkpoint().items()})
    for name, tensor in first.checkpoint().items():
        assert torch.equal(tensor, third.checkpoint()[name]), name


def test_a_checkpoint_of_other_members_is_refused_and_changes_nothing() -> None:
    objective = objectives(some_pairs())["clap_sce"]
    one, two = (BatchedHeads([HeadsConfig(heads_of(7), objective, 1e-2)] * count) for count in (1, 2))
    before = two.state(0)
    with pytest.raises(ValueError, match="shape"):
        two.restore(one.checkpoint())
    assert all(torch.equal(tensor, before[name]) for name, tensor in two.state(0).items())
