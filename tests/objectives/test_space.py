"""Losses that see the shared space: three plugins of a few lines, each equal to naive autograd over the same heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.core.errors import Interrupted
from pipeline.core.plugins import load_plugins
from pipeline.objectives.base import objective_of
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads, load_tensors
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.train import Trainer, resolve_training, train
from tests.own_code import blocks, plugin
from tests.own_code import forgotten as forgotten
from tests.stage_two import SETTINGS
from tests.training.test_batched_heads import heads_of, some_pairs

SPACE = next(block for block in blocks("objectives.md", "python") if block.startswith("# my_space.py"))


def naive_joint(heads: Heads, pairs: CachedPairs, rows: Tensor, _: dict[str, Tensor]) -> Tensor:
    """Rank-N-Contrast by loops over all 2N points as anchors and candidates."""
    audio, words = heads.project(pairs.speech[rows].float(), pairs.text[rows].float())
    points, labels = torch.cat([audio, words]), pairs.labels[rows][:, :2].repeat(2, 1)
    logits, terms = points @ points.T * heads.log_scale.exp(), []
    for i in range(len(points)):
        far = (labels - labels[i]).square().sum(1)
        for j in range(len(points)):
            terms += [logits[i][far >= far[j] - 1e-4].logsumexp(0) - logits[i, j]]
    return torch.stack(terms).mean()


def naive_gap(heads: Heads, pairs: CachedPairs, rows: Tensor, _: dict[str, Tensor]) -> Tensor:
    audio, words = heads.project(pairs.speech[rows].float(), pairs.text[rows].float())
    logits, own = audio @ words.T * heads.log_scale.exp(), torch.arange(len(rows))
    ce = torch.nn.functional.cross_entropy
    centroids = sum((audio[:, d].mean() - words[:, d].mean()) ** 2 for d in range(audio.shape[1]))
    return (ce(logits, own) + ce(logits.T, own)) / 2 + 10 * centroids


def naive_bank(heads: Heads, pairs: CachedPairs, rows: Tensor, state: dict[str, Tensor]) -> Tensor:
    audio, words = heads.project(pairs.speech[rows].float(), pairs.text[rows].float())
    bank = state.get("bank", words[:0].detach())
    state["bank"] = torch.cat([bank, words.detach()])[-16:]
    scores = torch.cat([audio @ words.T, audio @ bank.T], 1) * heads.log_scale.exp()
    return -torch.stack([scores[i].log_softmax(0)[i] for i in range(len(rows))]).mean()


NAIVE: dict[str, Callable[..., Tensor]] = {"joint": naive_joint, "gap": naive_gap, "bank": naive_bank}


@pytest.mark.parametrize("name", NAIVE)
def test_a_plugin_of_a_few_lines_steps_as_naive_autograd(name: str, tmp_path: Path) -> None:
    load_plugins([plugin(tmp_path, SPACE, "my_space.py")])
    pairs, made = some_pairs(), resolve_training("emotionrankclap", overrides=[f"objective.name={name}"])
    objective, naive = objective_of(made, pairs), NAIVE[name]
    members = [HeadsConfig(heads_of(seed).float(), objective, 1e-2) for seed in range(2)]
    stack, plain = BatchedHeads(members), [heads_of(seed).float() for seed in range(2)]
    adams, states = [torch.optim.Adam(heads.parameters(), lr=1e-2) for heads in plain], [{}, {}]
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        rows = torch.randperm(len(pairs), generator=draw)[:10]
        losses = stack.step(
            pairs.speech[rows].float(), pairs.text[rows].float(), [objective.prepare(pairs, rows, rows)]
        )
        for c, (heads, adam, state) in enumerate(zip(plain, adams, states, strict=True)):
            loss = naive(heads, pairs, rows, state)
            adam.zero_grad()
            loss.backward()
            adam.step()
            assert losses[c].item() == pytest.approx(loss.item(), abs=1e-5)
    for c, heads in enumerate(plain):
        for key, tensor in stack.state(c).items():
            assert torch.allclose(tensor, heads.state_dict()[key], rtol=0, atol=1e-5), key


def test_each_takes_at_most_25_lines() -> None:
    functions = SPACE.split("@register_objective")[1:]
    assert len(functions) == len(NAIVE)
    assert all(len(function.strip().splitlines()) <= 25 for function in functions)


def test_a_training_with_a_state_that_was_stopped_goes_on_with_the_same_bits(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_plugins([plugin(tmp_path, SPACE, "my_space.py")])
    settings = [*SETTINGS, "objective.name=bank", "epochs=4"]
    train(small, overrides=settings, out=tmp_path / "whole")
    end = Trainer._checkpoint

    def stop(self: Trainer, progress: Any) -> None:
        end(self, progress)
        if progress.epoch == 2:
            raise Interrupted("test", 2)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_checkpoint", stop)
        with pytest.raises(Interrupted):
            train(small, overrides=settings, out=tmp_path / "parts")
    kept = load_tensors(tmp_path / "parts/seeds/0/checkpoint.safetensors")[0]
    assert kept["state.0.bank"].shape == (16, 4)
    train(small, overrides=settings, out=tmp_path / "parts")
    whole, parts = ((tmp_path / name / "seeds/0/heads.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_state_that_is_no_tensor_is_one_line(small: Path, tmp_path: Path) -> None:
    text = SPACE.split("@register_objective")[0] + (
        '@register_objective("count")\ndef count(logits, batch):\n    batch.state["n"] = 1\n    return logits.mean()\n'
    )
    load_plugins([plugin(tmp_path, text, "count.py")])
    with pytest.raises(Exception, match=r"a int as batch.state\[.n.\]; expected tensors"):
        train(small, overrides=[*SETTINGS, "objective.name=count"], out=tmp_path / "run")
