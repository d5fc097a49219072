"""Objectives of one's own: a function and a decorator train, resume, compare and sweep as the built-in ones do."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.functional import cross_entropy

import pipeline.training.training_data
from pipeline import register_objective
from pipeline.commands import evaluate_heads, train_heads
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import Interrupted, ManyProblems, StoreMismatch
from pipeline.core.objective_config import CustomObjectiveConfig
from pipeline.core.plugins import load_plugins
from pipeline.evaluation.evaluate import evaluate
from pipeline.experiments.compare import compare
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.inference.description import of_run
from pipeline.inference.model_card import card_of
from pipeline.objectives.base import Batch, objective_of
from pipeline.objectives.soft_targets import soft_target_loss, targets_of
from pipeline.objectives.space import SharedSpace
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads, load_tensors
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.run_folder import open_run
from pipeline.training.train import Trainer, resolve_training, train
from pipeline.training.training_data import TrainingData
from tests.own_code import commands, forget, objective, plugin, some_space, write_files
from tests.own_code import forgotten as forgotten
from tests.stage_two import EVALUATION, SETTINGS, TRAINING, run_command, tree
from tests.training.test_batched_heads import Plain, heads_of, some_pairs

CLAP = """
from torch import arange
from torch.nn.functional import cross_entropy
from pipeline import register_objective

@register_objective("clap", version={version})
def clap(logits, batch, share: float = 0.5):
    own = arange(len(batch))
    return share * cross_entropy(logits, own) + (1 - share) * cross_entropy(logits.T, own)
"""


def clap(folder: Path, version: int = 1) -> Path:
    path = plugin(folder, CLAP.format(version=version), "clap.py")
    load_plugins([path])
    return path


def weights(folder: Path, seed: int = 0) -> dict[str, Tensor]:
    return load_tensors(folder / f"seeds/{seed}/heads.safetensors")[0]


def assert_close(ours: Path, theirs: Path) -> None:
    for seed in (0, 1):
        found, expected = weights(ours, seed), weights(theirs, seed)
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5), name
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (ours, theirs)]
    for mine, other in zip(*lines, strict=True):
        assert json.loads(mine) == pytest.approx(json.loads(other), abs=1e-5)


def test_claps_cross_entropy_of_ones_own_trains_to_the_heads_of_clap_sce(small: Path, tmp_path: Path) -> None:
    clap(tmp_path)
    train(small, method="clap_sce", seeds=2, overrides=SETTINGS, out=tmp_path / "theirs")
    name = ["objective.name=clap"]
    train(small, method="emotionrankclap", seeds=2, overrides=[*SETTINGS, *name], out=tmp_path / "ours")
    assert_close(tmp_path / "ours", tmp_path / "theirs")


def test_a_naive_loop_of_rank_n_contrast_trains_to_the_heads_of_emotionrankclap(small: Path, tmp_path: Path) -> None:
    @register_objective("loop", labels=("valence", "arousal"))
    def loop(logits: Tensor, batch: Batch) -> Tensor:
        labels, terms = batch.labels[:, :2], []
        for i in range(len(batch)):
            far = (labels - labels[i]).square().sum(1)
            for j in range(len(batch)):
                terms += [logits[i, far >= far[j] - 1e-9].logsumexp(0) - logits[i, j]]
        return torch.stack(terms).mean()

    short = [*SETTINGS, "batch_size=8"]
    train(small, seeds=2, overrides=short, out=tmp_path / "theirs")
    train(small, seeds=2, overrides=[*short, "objective.name=loop"], out=tmp_path / "ours")
    assert_close(tmp_path / "ours", tmp_path / "theirs")


def test_a_target_matrix_of_ones_own_is_supcons() -> None:
    def supcon(logits: Tensor, batch: Batch) -> Tensor:
        same = (batch.emotion[:, None] == batch.emotion) & (batch.emotion[:, None] >= 0)
        matches = (same | torch.eye(len(batch), dtype=torch.bool)).float()
        return soft_target_loss(logits, targets_of(matches / matches.sum(1, keepdim=True)), divergence="kl")

    pairs, rows = some_pairs(), torch.arange(6)
    theirs = objective_of(resolve_training("supcon", overrides=["objective.divergence=kl"]), pairs)
    space, own = some_space(2, 6), objective(supcon)
    found, slopes = own.space_gradient(space, own.prepare(pairs, rows, rows))
    expected, others = theirs.space_gradient(space, theirs.prepare(pairs, rows, rows))
    for mine, other in zip((found, *vars(slopes).values()), (expected, *vars(others).values()), strict=True):
        assert torch.allclose(mine, other.float(), atol=1e-6)


def _tanh(logits: Tensor, batch: Batch, power: float = 2.0) -> Tensor:
    weight = batch.labels[:, :1] * batch.text[:, :1] + len(batch)
    return (weight * logits.tanh().abs() ** power).mean()


def test_the_gradient_is_that_of_differences_and_development_losses_are_batch_by_batch() -> None:
    pairs, own = some_pairs(), objective(_tanh, power=3.0)
    rows, space = torch.arange(5), some_space(3, 5, dtype=torch.float64)
    losses, slopes = own.space_gradient(space, own.prepare(pairs, rows, rows.flip(-1)))
    for c in range(3):
        one, batch = space.of_batch(c), Batch(pairs, rows, rows.flip(-1))
        assert losses[c].item() == pytest.approx(_tanh(one.logits(), batch, 3.0).item(), abs=1e-12)

        def loss(speech: Tensor, text: Tensor, log_scale: Tensor, batch: Batch = batch) -> Tensor:
            return _tanh(SharedSpace.of(speech, text, log_scale).logits(), batch, 3.0)

        lengths = one.speech_length, one.text_length
        leaves = [one.speech * lengths[0], one.text * lengths[1], one.log_scale.clone()]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        assert torch.autograd.gradcheck(loss, leaves)
        expected = torch.autograd.grad(loss(*leaves), leaves)
        for slope, theirs in zip(vars(slopes).values(), expected, strict=True):
            assert torch.allclose(slope[c], theirs)
    several = torch.arange(15).view(3, 5)
    one_scale = replace(space, log_scale=space.log_scale[0], states=[{}])
    by_batch = own.space_losses(one_scale, own.prepare(pairs, several, several))
    for s in range(3):
        expected_loss = _tanh(one_scale.of_batch(s).logits(), Batch(pairs, several[s], several[s]), 3.0)
        assert by_batch[s].item() == pytest.approx(expected_loss.item())


def test_a_loss_may_do_as_it_likes_with_the_logits_it_is_given() -> None:
    def careless(logits: Tensor, batch: Batch) -> Tensor:
        copied = logits * 1
        copied.fill_diagonal_(0)
        with torch.no_grad():
            logits.data.zero_()
        return copied.square().mean()

    own, space = objective(careless), some_space(1, 4)
    before = space.speech.clone()
    own.space_gradient(space, own.prepare(some_pairs(), torch.arange(4), torch.arange(4)))
    assert torch.equal(space.speech, before)


def test_a_stack_of_own_and_built_in_objectives_is_each_alone(tmp_path: Path) -> None:
    pairs, rows = some_pairs(), torch.arange(10)
    made = [objective(_tanh), objective_of(resolve_training("clap_sce"), pairs), objective(_tanh, power=1.5)]
    members = [HeadsConfig(heads_of(seed), each, 1e-2) for seed, each in enumerate(made)]
    speech, text = pairs.speech[rows].float(), pairs.text[rows].float()
    stack, plain = BatchedHeads(members), [Plain(copy.deepcopy(member)) for member in members]
    for _ in range(5):
        losses = stack.step(speech, text, [each.prepare(pairs, rows, rows) for each in stack.objectives])
        for c, one in enumerate(plain):
            alone = one.step(speech, text, made[c].prepare(pairs, rows, rows))
            assert losses[c].item() == pytest.approx(alone, abs=1e-5)


# Resuming, and what needs no code


def test_a_run_that_was_stopped_goes_on_with_the_same_bits_and_refuses_another_version(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clap(tmp_path)
    settings = [*SETTINGS, "objective.name=clap", "epochs=4"]
    train(small, overrides=settings, out=tmp_path / "whole")
    end = Trainer._end_epoch

    def stop(self: Trainer, progress: Any, *losses: float) -> None:
        end(self, progress, *losses)
        self._checkpoint(progress)
        if progress.epoch == 2:
            raise Interrupted("training", 2)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", stop)
        with pytest.raises(Interrupted):
            train(small, overrides=settings, out=tmp_path / "parts")
    shutil.copytree(tmp_path / "parts", tmp_path / "stopped")
    train(small, overrides=settings, out=tmp_path / "parts")
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    forget()
    clap(tmp_path, version=2)
    for run in ("stopped", "whole"):
        with pytest.raises(StoreMismatch, match=r"objective\.version: the run has 1, now 2"):
            train(small, overrides=settings, out=tmp_path / run)
    forget()
    clap(tmp_path)
    with pytest.raises(StoreMismatch, match=r"objective\.settings\.share: the run has 0\.5, now 0\.25"):
        train(small, overrides=[*settings, "objective.settings.share=0.25"], out=tmp_path / "whole")


def test_heads_are_read_evaluated_and_exported_without_the_code(small: Path, tmp_path: Path) -> None:
    clap(tmp_path)
    train(small, overrides=[*SETTINGS, "objective.name=clap"], out=tmp_path / "run")
    forget()
    run = open_run(tmp_path / "run")
    assert run.config.objective == CustomObjectiveConfig(name="clap", version=1, settings={"share": 0.5})
    assert evaluate(run, overrides=EVALUATION[2::2])["method"] == "emotionrankclap"
    assert run_command(evaluate_heads.main, small, run.folder, *EVALUATION).exit_code == 0
    assert run_command(train_heads.main, small, run.folder / "config.yaml", "--out", tmp_path / "x").exit_code == 2
    config = run.folder / "config.yaml"
    options = ["--plugin", tmp_path / "clap.py", "--out", tmp_path / "again"]
    assert run_command(train_heads.main, small, config, *options).exit_code == 0
    assert tree(tmp_path / "again", "run.json").keys() <= tree(run.folder, "run.json").keys()
    assert (tmp_path / "again/heads.safetensors").read_bytes() == (run.folder / "heads.safetensors").read_bytes()


def test_a_model_card_says_the_objective_and_its_settings(all_styles: Path, tmp_path: Path) -> None:
    clap(tmp_path)
    run = train(all_styles, overrides=[*SETTINGS, "objective.name=clap"], out=tmp_path / "run")
    forget()
    assert "- Objective: clap, version 1, settings.share 0.5\n" in card_of(of_run(run)[1], "x")


# Comparing and sweeping


def test_a_sweep_varies_a_setting_among_built_in_methods_and_a_diverging_trial_fails_alone(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @register_objective("own")
    def own(logits: Tensor, batch: Batch, share: float = 0.5) -> Tensor:
        loss = share * cross_entropy(logits, torch.arange(len(batch)))
        return loss * float("nan") if share == 3 else loss

    plugin(tmp_path, "method: mine\nobjective: {name: own}\n", "mine.yaml")
    space = {"method": ["mine.yaml", "clap_sce"], "objective.settings.share": [0.5, 1, 3]}
    settings = {"batch_size": 16, "width": 4, "epochs": 1, "standardise": "always", "threads": 1}
    config = {
        "sampler": "random",
        "trials": 24,
        "score": "dev_loss",
        "halving": None,
        "fixed": settings,
        "space": space,
    }
    plugin(tmp_path, yaml.safe_dump(config), "s.yaml")
    result, _ = sweep(small, "s.yaml", out="sweep")
    trials = result["trials"]
    by = {share: {row["state"] for row in trials if row["params"].get("objective.settings.share") == share}
          for share in (None, 0.5, 1, 3)}  # fmt: skip
    assert by == {None: {"complete"}, 0.5: {"complete"}, 1: {"complete"}, 3: {"fail"}}
    assert {row["params"]["method"] for row in trials if "objective.settings.share" not in row["params"]} == {
        "clap_sce"
    }
    scores = {share: {row["score"] for row in trials if row["params"].get("objective.settings.share") == share}
              for share in (0.5, 1)}  # fmt: skip
    assert scores[1] != scores[0.5]
    best = load_config(TrainConfig, "sweep/best.yaml", kind="methods")
    assert best.objective.settings["share"] == 0.5
    wrong = ["space.objective.settings.shar=[1]"]
    with pytest.raises(ManyProblems, match="no such setting: 'shar'; did you mean share"):
        sweep(small, "s.yaml", overrides=wrong, out="other")


def test_the_page_is_enough(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are written as they stand there, and its commands run as they stand there, on a small store."""
    monkeypatch.chdir(tmp_path)
    files = write_files("objectives.md", tmp_path, "python", "yaml")
    assert files.keys() == {"my_loss.py", "my_space.py", "my_targets.py", "my_method.yaml", "my_sweep.yaml"}
    assert all(len(block.splitlines()) <= 20 for name, block in files.items() if name != "my_space.py")
    shutil.copytree(small, tmp_path / "stores/mine")
    said = [*commands("objectives.md", "Your own objective"), *commands("objectives.md", "Targets of your own")]
    assert [words[0] for words in said].count("train-heads") == 3
    fixed = [word for setting in SETTINGS for word in ("-o", f"fixed.{setting}")]
    more = {"sweep-heads": fixed, "evaluate-heads": EVALUATION, "train-heads": TRAINING}
    more["compare-methods"] = [*TRAINING, "-e", "trials=2", "-e", "lists=14", "-e", "projections=2", "--no-report"]
    for name, *words in said:
        forget()
        command = import_module(f"pipeline.commands.{name.replace('-', '_')}")
        result = run_command(command.main, *words, *more[name])
        assert result.exit_code == 0, result.stderr
    assert open_run("runs/comparison/my_method").config.objective.settings == {"margin": 0.3}
    names = {
        row["params"]["objective.settings.margin"]
        for row in json.loads(Path("sweeps/margin/sweep.json").read_text())["trials"]
    }
    assert names == {0.1, 0.3, 1.0}


def test_comparing_names_the_method_of_ones_own_by_its_file(small: Path, tmp_path: Path) -> None:
    clap(tmp_path)
    method = plugin(tmp_path, "method: m\nobjective: {name: clap}\n", "ours.yaml")
    result, text = compare(
        small, methods=[str(method), "clap_sce"], seeds=1, overrides=SETTINGS,
        evaluation=["trials=2", "lists=14", "projections=2", "pairs=8"], out=tmp_path / "c",
    )  # fmt: skip
    ours, theirs = (result["methods"][name]["seeds"]["0"]["ordinality"]["aoc"]["taus"] for name in ("ours", "clap_sce"))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert re.search(r"\| ours +\|", text)


def test_a_step_of_ones_own_is_never_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would replay whatever Python decided the first time; the built-in ones have none of it."""
    pairs, recorded = some_pairs(), []
    monkeypatch.setattr(TrainingData, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(
        pipeline.training.training_data,
        "replayed_step",
        lambda stack, *_: (recorded.append(stack.objectives), stack.step)[1],
    )
    for name, loss in (("clap_sce", None), ("own", _tanh)):
        made = objective(loss) if loss else objective_of(resolve_training(name), pairs)
        stack = BatchedHeads([HeadsConfig(heads_of(0), made, 1e-2)])
        material = TrainingData(pairs, pairs, 8, Heads(20, 12, dim=16))
        rows = torch.arange(8)[None]
        batches = pipeline.training.training_data.TrainingBatches(rows, rows, [made.prepare(pairs, rows, rows)])
        material.step(stack, batches, 0)
    assert len(recorded) == 1
    assert recorded[0][0].recordable
