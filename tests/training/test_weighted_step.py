"""The weighted sum of layers in the step by hand: losses, gradients and steps are autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.objectives.base import objective_of
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.reference_step import ReferenceHeads
from pipeline.training.train import resolve_training
from tests.training.test_batched_heads import AUDIO, BATCH, ROWS, TEXT, WIDTH, Plain, double, some_pairs
from tests.training.test_layers import by_hand

LAYERS = 3
pytestmark = pytest.mark.usefixtures(double.__name__)


class PlainSum(Plain):
    """The reference step with the sum of layers by hand."""

    def step(self, speech: Tensor, text: Tensor, prepared: object) -> float:
        whole, inputs = self.heads, [by_hand(self.heads, "audio", speech), by_hand(self.heads, "text", text)]
        audio, words = whole._normalise(whole.audio(inputs[0])), whole._normalise(whole.text(inputs[1]))
        loss = self.objective.loss(audio @ words.mT * whole.log_scale.exp(), prepared)  # type: ignore[attr-defined]
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        whole.clamp_scale()
        return loss.item()


def weighted_heads(seed: int, sides: str, activation: str = "relu") -> Heads:
    layers = {f"{side}_layers": LAYERS for side in ("audio", "text") if side in sides}
    sizes = [size * (LAYERS if side in sides else 1) for side, size in (("audio", AUDIO), ("text", TEXT))]
    heads = Heads(*sizes, dim=WIDTH, activation=activation, **layers)  # type: ignore[arg-type]
    heads.initialise(seed, temperature=0.5)
    return heads


def wide_batches(steps: int, sides: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    sizes = [size * (LAYERS if side in sides else 1) for side, size in (("audio", AUDIO), ("text", TEXT))]
    rows = [torch.randperm(ROWS, generator=draw)[:BATCH] for _ in range(steps)]
    return [(each, *(torch.randn(BATCH, size, generator=draw) for size in sizes)) for each in rows]


@pytest.mark.parametrize("sides", ["audio", "text", "audio and text"])
@pytest.mark.parametrize(("activation", "threads"), [("relu", 1), ("identity", 1), ("relu", 2)])
@pytest.mark.parametrize("count", [1, 3])
def test_losses_gradients_and_steps_of_weighted_layers_are_those_of_autograd_to_1e_10(
    sides: str, activation: str, threads: int, count: int
) -> None:
    torch.set_num_threads(threads)
    pairs = some_pairs()
    objective = objective_of(resolve_training("emotionrankclap"), pairs)
    members = [
        HeadsConfig(weighted_heads(seed, sides, activation), objective, 10.0 ** -(2 + seed), weight_decay=0.01)
        for seed in range(count)
    ]
    stack, plain = BatchedHeads(members), [PlainSum(member) for member in members]
    for rows, speech, text in wide_batches(30, sides):
        prepared = [objective.prepare(pairs, rows, rows)]
        losses = stack.step(speech, text, prepared).tolist()
        for c, each in enumerate(plain):
            assert losses[c] == pytest.approx(each.step(speech, text, prepared[0]), abs=1e-10)
            parameters = dict(each.heads.named_parameters())
            for name, gradient in stack._rows(stack._gradients, c).items():
                expected = parameters[name].grad
                assert expected is not None
                decayed = gradient.view(expected.shape)
                assert torch.allclose(decayed, expected, rtol=0, atol=1e-10), (name, c)
    for c, each in enumerate(plain):
        learnt = each.heads.state_dict()
        for name, tensor in stack.state(c).items():
            assert torch.allclose(tensor, learnt[name], rtol=0, atol=1e-10), name
        for side, vectors in (("audio", speech), ("text", text)):
            found, _ = stack.project(c, side, vectors)
            wanted = each.heads._normalise(getattr(each.heads, side)(by_hand(each.heads, side, vectors)))
            assert torch.allclose(found, wanted, rtol=0, atol=1e-10)
    assert all(abs(each.heads.audio_sum.scale.item() - 1) > 1e-3 for each in plain[:1] if each.heads.audio_sum)


def test_the_readable_step_and_a_restored_stack_go_on_alike() -> None:
    pairs = some_pairs()
    objective = objective_of(resolve_training("emotionrankclap"), pairs)
    member = HeadsConfig(weighted_heads(0, "audio"), objective, 1e-2)
    stack, reference, half = BatchedHeads([member]), ReferenceHeads([member]), BatchedHeads([member])
    for step, (rows, speech, text) in enumerate(wide_batches(20, "audio")):
        prepared = [objective.prepare(pairs, rows, rows)]
        if step == 10:
            half.restore({name: tensor.clone() for name, tensor in stack.checkpoint().items()})
        loss = stack.step(speech, text, prepared).item()
        assert loss == pytest.approx(reference.step(speech, text, prepared).item(), abs=1e-10)
        if step >= 10:
            half.step(speech, text, prepared)
    for name, tensor in stack.checkpoint().items():
        assert torch.allclose(tensor, reference.checkpoint()[name], rtol=0, atol=1e-10), name
        assert torch.equal(tensor, half.checkpoint()[name]), name
