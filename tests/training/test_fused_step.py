"""The fused step is the readable step with its products' inputs rounded to bfloat16, or a line that says why not."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.config import TrainConfig
from pipeline.core.resources import threads_restored
from pipeline.experiments.sweeps.bracket import slice_checkpoint
from pipeline.objectives.base import objective_of
from pipeline.objectives.grid import WithGrid
from pipeline.objectives.space import Objective, SharedSpace
from pipeline.training import fused_step
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.fused_library import Unavailable, load_library
from pipeline.training.fused_step import FusedHeads, FusedStack, fused_heads
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig, Schedule, Temperature
from pipeline.training.train import train
from tests.training.test_batched_heads import AUDIO, ROWS, TEXT, WIDTH, objectives, some_pairs, with_grid

PAIRS = some_pairs()
BY_NAME = objectives(PAIRS)
BEYOND = {"objective": {"name": "rank_n_contrast", "denominator": "beyond"}}
BY_NAME["beyond"] = objective_of(TrainConfig.model_validate(BEYOND), PAIRS)
SHOWN = ("emotionrankclap", "clap_sce", "supcon", "sl_gemo_clap", "beyond_and_self", "beyond", "symmetric")


@pytest.fixture(autouse=True)
def usable() -> Iterator[None]:
    try:
        load_library()
        FusedHeads([described(BY_NAME["clap_sce"])])
    except Unavailable as error:
        pytest.skip(str(error))
    with threads_restored():
        yield


def described(objective: Objective, seed: int = 0, activation: str = "relu", **more: Any) -> HeadsConfig:
    heads = Heads(AUDIO, TEXT, dim=WIDTH, activation=activation)
    heads.initialise(seed, temperature=0.5)
    return HeadsConfig(heads, objective, more.pop("rate", 1e-2), **more)


def batches(count: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        rows = torch.randperm(ROWS, generator=draw)[:size]
        yield rows, PAIRS.speech[rows].float(), PAIRS.text[rows].float()


class Rounded(torch.autograd.Function):
    """x W' of what bfloat16 holds of both; its slope is rounded too."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(vectors)
        return vectors.bfloat16().double() @ weight.bfloat16().double().mT

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        return None, slope.bfloat16().double().mT @ ctx.saved_tensors[0].bfloat16().double()


class RoundedReference:
    """The readable step in float64, with weights that are float32 and products as the fused step has them."""

    def __init__(self, config: HeadsConfig) -> None:
        self.config, self.parameters = config, {}
        for name, parameter in config.heads.named_parameters():
            self.parameters[name] = nn.Parameter(parameter.detach().double())
        self.adam = torch.optim.Adam(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def step(self, speech: Tensor, text: Tensor, prepared: Any) -> float:
        projected = []
        for side, vectors in (("audio", speech), ("text", text)):
            units = Rounded.apply(vectors, self.parameters[f"{side}.weight"]) + self.parameters[f"{side}.bias"]
            projected.append(units.relu() if self.config.heads.activation == "relu" else units)
        loss = self.config.objective.space_loss(SharedSpace.of(*projected, self.parameters["log_scale"]), prepared)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float().double()
        return loss.detach().item()


def gradients(heads: BatchedHeads) -> dict[str, Tensor]:
    """Of the first step: Adam's first moments are a tenth of them."""
    return {name: 10 * heads.checkpoint()[f"first.{name}"] for name in heads.trained}


@pytest.mark.parametrize("size", [10, 7])
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("name", SHOWN)
def test_loss_and_gradients_are_those_of_rounded_products(name: str, activation: str, size: int) -> None:
    config = described(BY_NAME[name], activation=activation, weight_decay=0.1)
    fused, reference = FusedHeads([config]), RoundedReference(config)
    for place, (rows, speech, text) in enumerate(batches(4, size)):
        prepared = config.objective.prepare(PAIRS, rows, rows)
        assert float(fused.step(speech, text, [prepared])) == pytest.approx(
            reference.step(speech, text, prepared), 1e-4
        )
        if place == 0:
            for key, gradient in gradients(fused).items():
                expected = reference.parameters[key].grad + 0.1 * config.heads.state_dict()[key].double()
                assert (gradient.view_as(expected) - expected).norm() <= 2e-4 * expected.norm(), key
    for key, parameter in reference.parameters.items():  # Adam divides small gradients by themselves
        assert torch.allclose(fused.stacked[key].view_as(parameter).double(), parameter, atol=2e-3), key


def test_extra_texts_make_a_side_longer() -> None:
    pairs = with_grid(PAIRS)
    objective = objectives(pairs)["emotionrankclap"]
    config = TrainConfig.model_validate({"grid": {"texts": 5}})
    described_grid = described(WithGrid(objective, config.grid))
    fused, reference = FusedHeads([described_grid]), RoundedReference(described_grid)
    rows = torch.arange(10)
    captions = torch.cat([rows, ROWS + torch.arange(5)])
    prepared = described_grid.objective.prepare(pairs, rows, captions)
    speech, text = pairs.speech[rows].float(), pairs.text[captions].float()
    for _ in range(3):
        loss = float(fused.step(speech, text, [prepared]))
        assert loss == pytest.approx(reference.step(speech, text, prepared), 1e-4)


def test_two_hundred_steps_stay_beside_those_in_float32() -> None:
    config = described(BY_NAME["emotionrankclap"], rate=1e-3)
    forms = FusedHeads([config]), BatchedHeads([config])
    losses = []
    for rows, speech, text in batches(200, 10):
        prepared = [config.objective.prepare(PAIRS, rows, rows)]
        losses.append([float(form.step(speech, text, prepared)) for form in forms])
    fused, plain = torch.tensor(losses).T
    assert plain[-20:].mean() < plain[:20].mean() - 0.03  # it learns
    assert (fused - plain).abs().max() < 0.01
    assert (fused - plain)[-50:].mean().abs() < 0.002


def prepared(form: BatchedHeads, rows: Tensor) -> list[Any]:
    return [objective.prepare(PAIRS, rows, rows) for objective in form.objectives]


def trained(forms: list[BatchedHeads], steps: int = 5) -> list[dict[str, Tensor]]:
    for rows, speech, text in batches(steps, 9):
        for form in forms:
            form.step(speech, text, prepared(form, rows))
    return [{name: tensor.clone() for name, tensor in form.checkpoint().items()} for form in forms]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_bits_depend_on_no_number_of_threads() -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found += trained([FusedHeads([described(BY_NAME["emotionrankclap"])])])
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["emotionrankclap", "supcon"])
def test_a_stacks_members_are_their_single_selves_to_the_bit(name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    configs = [
        described(BY_NAME[name], 0, rate=1e-2),
        described(BY_NAME[name], 1, rate=1e-3, weight_decay=0.1, schedule=Schedule(5, "cosine", 0.4)),
        described(BY_NAME["clap_sce"], 2, temperature=Temperature(0.3, "fixed")),
    ]
    stack, singles = fused_heads(configs), [FusedHeads([config]) for config in configs]
    assert isinstance(stack, FusedStack)
    assert threads == torch.get_num_threads()
    kept = trained([stack, *singles], 3)[0]
    losses = stack.steps([(speech, text, prepared(stack, rows)) for rows, speech, text in batches(5, 9)])
    alone = [
        [single.step(speech, text, prepared(single, rows)) for rows, speech, text in batches(5, 9)]
        for single in singles
    ]
    assert torch.equal(torch.stack(losses).mT, torch.tensor(alone))
    again = fused_heads(configs)
    again.restore(kept)
    for rows, speech, text in batches(5, 9):
        again.step(speech, text, prepared(again, rows))
    for form in (stack, again):
        assert form.steps_done == 8
        for c, single in enumerate(singles):
            assert equal(form.state(c), single.state(0))
            assert equal(slice_checkpoint(form.checkpoint(), c), single.checkpoint())
            assert form.temperatures()[c] == single.temperatures()[0]


def test_a_training_is_resumed_to_the_same_bits() -> None:
    config = described(BY_NAME["emotionrankclap"])
    whole, first = FusedHeads([config]), FusedHeads([config])
    (expected,) = trained([whole], 6)
    (kept,) = trained([first], 3)
    resumed = FusedHeads([config])
    resumed.restore(kept)
    assert resumed.steps_done == 3
    for place, (rows, speech, text) in enumerate(batches(6, 9)):
        if place >= 3:
            resumed.step(speech, text, [config.objective.prepare(PAIRS, rows, rows)])
    assert equal(resumed.checkpoint(), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["emotionrankclap", "clap_sce"])
def test_what_is_not_finite_is_not_hidden(name: str, value: float) -> None:
    config = described(BY_NAME[name])
    fused = FusedHeads([config])
    rows, speech, text = next(batches(1, 10))
    speech[3, 2] = value
    prepared = [config.objective.prepare(PAIRS, rows, rows)]
    fused.step(speech, text, prepared)
    assert not fused.step(speech, text, prepared).isfinite().any()
    assert fused.stacked["audio.weight"].isnan().any()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"norm": "batch"}, "neither norm nor weighted layers"),
        ({"heads": Heads(AUDIO, TEXT, dim=WIDTH, audio_layers=2)}, "neither norm nor weighted layers"),
        ({"heads": Heads(AUDIO, TEXT, dim=24)}, "a width that 16 divides"),
        ({"heads": Heads(AUDIO + 1, TEXT, dim=WIDTH)}, "an even number of dimensions"),
    ],
)
def test_what_it_does_not_compute_is_trained_in_float32_and_said(
    changed: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = described(BY_NAME["clap_sce"])
    config = HeadsConfig(**{**vars(config), **changed})
    with caplog.at_level("WARNING"):
        assert type(fused_heads([config])) is BatchedHeads
    assert f"step=fused: it {'is for' if 'divides' in reason or 'even' in reason else 'has'}" in caplog.text
    assert reason in caplog.text
    assert "trained in float32 instead" in caplog.text


def test_a_product_that_is_wrong_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    library = load_library()

    class Wrong:
        """Its `pack` exchanges the first two vectors of a batch."""

        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        def pack(self, side: Any, vectors: ctypes.c_void_p) -> int:
            done: int = library.pack(side, vectors)
            down = ctypes.cast(side._obj.down, ctypes.POINTER(ctypes.c_uint16))
            down[0], down[1] = down[1] + 5000, down[0]
            return done

    wrong = Wrong()
    monkeypatch.setattr(fused_step, "load_library", lambda: wrong)
    with pytest.raises(Unavailable, match=r"its products are wrong on this CPU \(the gradient of audio\.weight is \d"):
        FusedHeads([described(BY_NAME["clap_sce"])])


def test_a_run_is_trained_by_it_and_resumes(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"seeds": 1, "device": "cpu"}
    overrides = ["epochs=4", "batch_size=6", "width=32", "threads=1", "step=fused"]
    whole = train(stores, out=tmp_path / "whole", overrides=overrides, **options)
    update, steps = FusedHeads.update, []

    def counted(self: FusedHeads, *batch: Any) -> Tensor:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return update(self, *batch)

    monkeypatch.setattr(FusedHeads, "update", counted)
    with pytest.raises(KeyboardInterrupt):
        train(stores, out=tmp_path / "killed", overrides=overrides, **options)
    again = train(stores, out=tmp_path / "killed", overrides=overrides, **options)
    assert len(steps) > 6
    name = "heads.safetensors"
    assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    plain = train(stores, out=tmp_path / "plain", overrides=overrides[:-1], **options)
    assert (plain.folder / name).read_bytes() != (whole.folder / name).read_bytes()
    for key, tensor in plain.heads().state_dict().items():
        assert torch.allclose(tensor, whole.heads().state_dict()[key], atol=2e-3), key


def test_seeds_train_a_core_each_to_the_bits_of_one_alone(stores: Path, tmp_path: Path) -> None:
    overrides = ["epochs=3", "batch_size=6", "width=32", "step=fused"]
    together = train(stores, out=tmp_path / "together", seeds=3, overrides=overrides, device="cpu")
    for seed in range(3):
        alone = train(stores, out=tmp_path / f"{seed}", seeds=[seed], overrides=overrides, device="cpu")
        assert equal(together.heads(seed).state_dict(), alone.heads(seed).state_dict())
        assert together.metrics_text(seed) == alone.metrics_text(seed)
    assert together.seeds == [0, 1, 2]


def test_small_odd_shapes_are_not_called_wrong() -> None:
    draw = random.Random(0)
    for seed in range(12):
        audio, text, width = 2 * draw.randint(1, 40), 2 * draw.randint(1, 40), 16 * draw.randint(1, 4)
        heads = Heads(audio, text, dim=width)
        heads.initialise(seed)
        config = HeadsConfig(heads, BY_NAME[draw.choice(("emotionrankclap", "beyond", "beyond_and_self"))], 1e-3)
        fused, reference = FusedHeads([config]), RoundedReference(config)
        for size in (1, 2, 17):
            rows = torch.arange(size)
            speech, words = torch.randn(size, audio), torch.randn(size, text)
            of_batch = config.objective.prepare(PAIRS, rows, rows)
            expected = reference.step(speech, words, of_batch)
            assert float(fused.step(speech, words, [of_batch])) == pytest.approx(expected, 1e-4, abs=1e-6)
