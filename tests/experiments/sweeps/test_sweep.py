"""What a sweep trains, keeps, stops and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from cache.pairs import cached_pairs
from cache.stores import open_stores
from pipeline.commands.sweep_heads import main
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import EmotionRankError, StoreMismatch, UsageError
from pipeline.evaluation.evaluate import evaluate
from pipeline.experiments.sweeps.bracket import HeadsProgress
from pipeline.experiments.sweeps.successive_halving import DevOrdinality
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from pipeline.training.training_data import TrainingData, load_training_data
from tests.experiments.sweeps.conftest import FIXED, a_sweep
from tests.stage_two import small_stores
from tests.unseen import with_rubbish_in_the_test_splits

MIXED = {
    "method": ["emotionrankclap", "clap_sce"],
    "batch_size": [16, 20],
    "standardise": ["always", "never"],
}
pytestmark = pytest.mark.usefixtures("undrawn")
Ended = dict[tuple[int, int], HeadsProgress]


def of_state(result: dict[str, Any], state: str) -> list[dict[str, Any]]:
    return [row for row in result["trials"] if row["state"] == state]


def on_dev(run: Run) -> tuple[float, float]:
    """AOC and VOC as evaluate-heads finds them on the development split."""
    found = evaluate(run, overrides=["split=dev", "trials=1", "pairs=10", "projections=2"])["ordinality"]
    return found["aoc"]["mean"], found["voc"]["mean"]


@pytest.mark.parametrize(
    ("score", "halving", "ends", "step"),
    [
        ("ordinality", None, 8, "auto"),
        ("dev_loss", {"factor": 2, "rungs": 2}, 2, "auto"),
        ("dev_loss", {"factor": 2, "rungs": 2}, 2, "fused"),
    ],
)
def test_every_member_is_its_single_training_and_scored_as_that(
    planted: Path, tmp_path: Path, ended: Ended, score: str, halving: dict[str, int] | None, ends: int, step: str
) -> None:
    """Two seeds each of a mixed grid: some share a stack, some do not; rungs end in the middle of an epoch."""
    fixed = FIXED | {"epochs": 5, "learning_rate": 1e-2, "step": step}
    config = a_sweep(space=MIXED, fixed=fixed, repeats=2, halving=halving, slots=6, score=score)
    result, _ = sweep(planted, config, out=tmp_path / "sweep")
    complete = of_state(result, "complete")
    assert len(complete) == ends
    for row in complete:
        point = row["params"]
        overrides = [f"{key}={value}" for key, value in (fixed | point).items() if key != "method"]
        single = load_config(TrainConfig, point["method"], [*overrides, "shuffle_seed=0"], kind="methods")
        run = train(planted, method=single, seeds=2, out=tmp_path / str(row["number"]))
        found = run.about["seeds"]
        for seed in (0, 1):
            member = ended[row["number"], seed]
            assert member.best_epoch == found[str(seed)]["epoch"]
            assert member.best_loss == pytest.approx(found[str(seed)]["dev_loss"], abs=1e-5)
            learnt = run.heads(seed).state_dict()
            for name, tensor in member.best.items():
                assert torch.allclose(tensor, learnt[name], rtol=0, atol=1e-5), name
            lines = [json.loads(line) for line in (run.seed_folder(seed) / "metrics.jsonl").read_text().splitlines()]
            for line, mine in zip(lines, member.metrics, strict=True):
                assert {"seed": seed, **mine, "threads": 1} == pytest.approx(line, abs=1e-5)
        losses = [found[str(seed)]["dev_loss"] for seed in (0, 1)]
        assert row["dev_loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)
        assert row["epoch"] == " ".join(str(found[str(seed)]["epoch"]) for seed in (0, 1))
        if score == "dev_loss":
            assert row["score"] == row["dev_loss"]
            continue
        assert (row["aoc"], row["voc"]) == pytest.approx(on_dev(run), abs=1e-3)
        assert row["score"] == pytest.approx((row["aoc"] + row["voc"]) / 2)


def test_halving_stops_the_worst_of_each_rung_at_its_steps(planted: Path, tmp_path: Path) -> None:
    rates = [1e-5, 1e-4, 1e-3, 1e-2, 3e-5, 3e-4, 3e-3, 3e-2]
    config = a_sweep(space={"learning_rate": rates}, halving={"factor": 2, "rungs": 3}, score="dev_loss")
    result, _ = sweep(planted, config, out=tmp_path)
    rows = result["trials"]
    assert sorted(row["number"] for row in rows) == list(range(8))
    assert [row["steps"] for row in rows] == [72, 36, 18, 18, 18, 18, 18, 18]  # no rung before an epoch's end
    assert [row["state"] for row in rows] == ["complete"] + ["pruned"] * 7
    for rung in (1, 2, 3):
        scores = {row["number"]: row["rungs"][str(rung)] for row in rows if str(rung) in row["rungs"]}
        on = [row["number"] for row in rows if row["rung"] > rung]
        assert set(on) == set(sorted(scores, key=lambda number: scores[number])[: len(scores) // 2])


def test_without_halving_every_trial_ends(planted: Path, tmp_path: Path) -> None:
    result, _ = sweep(planted, a_sweep(halving=None, slots=3), out=tmp_path)
    assert [row["state"] for row in result["trials"]] == ["complete"] * 4
    assert [row["score"] for row in result["trials"]] == sorted(
        (row["score"] for row in result["trials"]), reverse=True
    )
    assert len(list((tmp_path / "brackets").iterdir())) == 2


def test_the_winners_config_gives_its_score_again(planted: Path, tmp_path: Path) -> None:
    result, text = sweep(planted, a_sweep(), out=tmp_path / "sweep")
    best = result["best"]
    run = train(planted, method=tmp_path / "sweep/best.yaml", out=tmp_path / "run")
    assert run.about["seeds"]["0"]["dev_loss"] == pytest.approx(best["dev_loss"], abs=1e-5)
    assert str(run.about["seeds"]["0"]["epoch"]) == best["epoch"]
    assert (best["aoc"], best["voc"]) == pytest.approx(on_dev(run), abs=1e-3)
    assert f"best: trial {best['number']}" in text


def test_a_trial_that_blows_up_fails_and_the_others_train_on(
    planted: Path, tmp_path: Path, ended: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"learning_rate": [1e-3, 1e38, 1e-2]}
    result, text = sweep(planted, a_sweep(space=space, halving=None), out=tmp_path / "sweep")
    (failed,) = of_state(result, "fail")
    assert failed["params"] == {"learning_rate": 1e38}
    assert f"trial {failed['number']} failed: its loss or its score is not finite" in capsys.readouterr().err
    assert "1 failed" in text
    for row in of_state(result, "complete"):
        rate = f"learning_rate={row['params']['learning_rate']}"
        config = load_config(TrainConfig, None, [*(f"{k}={v}" for k, v in FIXED.items()), rate], kind="methods")
        run = train(planted, method=config, out=tmp_path / str(row["number"]))
        for name, tensor in ended[row["number"], 0].best.items():
            assert torch.allclose(tensor, run.heads().state_dict()[name], rtol=0, atol=1e-5)
    with pytest.raises(EmotionRankError, match="every trial failed"):
        sweep(planted, a_sweep(space={"learning_rate": [1e38]}), out=tmp_path / "all")


def test_a_trial_that_blows_up_on_its_way_to_a_rung_fails_there(planted: Path, tmp_path: Path) -> None:
    config = a_sweep(space={"learning_rate": [1e38, 1e-2, 1e-3, 1e-4]})
    result, _ = sweep(planted, config, out=tmp_path)
    assert [row["state"] for row in result["trials"]] == ["complete", "pruned", "pruned", "fail"]
    (failed,) = of_state(result, "fail")
    assert (failed["params"], failed["steps"], failed["score"]) == ({"learning_rate": 1e38}, 18, None)


def test_ties_are_said(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that changes nothing: the earlier of two equals goes on, and nobody is told that it is better."""
    space = {"temperature_end": [0.1, 0.2, 0.3, 0.4]}  # of another schedule
    result, text = sweep(planted, a_sweep(space=space), out=tmp_path / "halved")
    assert "rung 1: tie with a promoted trial: trials 2, 3 are not promoted" in capsys.readouterr().err
    assert result["best"]["number"] == 0
    _, text = sweep(planted, a_sweep(space=space, halving=None), out=tmp_path / "whole")
    assert "Tie: trials 1, 2, 3 have the score of trial 0, the earliest." in text


def test_vectors_are_read_once_for_all_batch_sizes_and_widths(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    once = TrainingData.__init__
    monkeypatch.setattr(TrainingData, "__init__", lambda self, *of: (made.append(self), once(self, *of))[1])
    space = {"batch_size": [16, 20], "width": [8, 16], "activation": ["relu", "identity"]}
    result, _ = sweep(planted, a_sweep(space=space, halving={"factor": 2, "rungs": 1}), out=tmp_path)
    assert len(of_state(result, "complete")) == 4
    assert len(made) == 1


def test_no_row_of_the_test_split_is_read(planted: Path, tmp_path: Path) -> None:
    """Every vector, caption's vector and label that only test utterances have is replaced by rubbish."""
    before, _ = sweep(planted, a_sweep(), out=tmp_path / "before")
    stores = with_rubbish_in_the_test_splits(planted, tmp_path / "stores")
    after, _ = sweep(stores, a_sweep(), out=tmp_path / "after")
    times = {"seconds": None}
    assert [row | times for row in before["trials"]] == [row | times for row in after["trials"]]


def test_stores_that_lack_what_a_trial_needs_are_refused_before_anything_trains(planted: Path, tmp_path: Path) -> None:
    config = a_sweep(sampler="random", space={"method": ["emotionrankclap", "paraclap"]})
    with pytest.raises(UsageError, match="paraclap: the stores have no captions of style acoustic"):
        sweep(planted, config, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_database_of_optunas_serves_as_well(planted: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    result, _ = sweep(planted, a_sweep(), out=tmp_path / "one", storage=url)
    assert not (tmp_path / "one/journal.log").exists()
    again, _ = sweep(planted, a_sweep(), out=tmp_path / "other", storage=url)  # another folder, the same study
    assert again["trials"] == result["trials"]
    assert not (tmp_path / "other/brackets").exists()
    assert (tmp_path / "other/best.yaml").is_file()
    with pytest.raises(UsageError, match="--storage"):
        sweep(planted, a_sweep(), out=tmp_path / "none", storage="nosuch://host/study")


def test_exit_codes_and_json_of_the_command(planted: Path, tmp_path: Path) -> None:
    tree = {"sampler": "grid", "halving": None, "fixed": FIXED, "space": {"learning_rate": [1e-3, 1e-2]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    command = [str(planted), str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    run = CliRunner().invoke
    done = run(main, [*command, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["best"]["state"] == "complete"
    again = run(main, command)
    assert again.exit_code == 0
    assert again.stdout.startswith("| trial |")
    assert "train-heads" in again.stdout
    assert run(main, [*command, "-o", "space.learning_rat=[1]"]).exit_code == 2
    assert run(main, [*command, "--trials", "9"]).exit_code == 2
    refused = run(main, [*command, "-o", "repeats=2"])
    assert refused.exit_code == StoreMismatch.exit_code == 4
    assert "config.repeats: the study has 1, now 2" in refused.stderr
    assert run(main, [*command, "-o", "repeats=2", "--fresh"]).exit_code == 0


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import pipeline.commands.sweep_heads\n"
            "print([name for name in ('torch', 'optuna', 'pydantic') if name in sys.modules])",
            "[]",
        ),
        (
            "sys.modules['optuna'] = None\n"
            "try:\n    import pipeline.experiments.sweeps.study\n"
            "except Exception as error: print(error)",
            "sweep-heads: optuna is not installed; expected the extra sweep. Run pip install 'emotionrankclap[sweep]'.",
        ),
    ],
)  # fmt: skip
def test_optuna_is_needed_when_a_sweep_begins_and_not_before(program: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{program}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_order_is_scored_on_the_development_utterances_that_have_its_captions(tmp_path: Path) -> None:
    """Not on those that are trained with: the vectors of these are shared where both are the same utterances."""
    stores = open_stores(small_stores(tmp_path / "stores"))
    score, config = DevOrdinality(stores, torch.device("cpu")), TrainConfig(**FIXED)
    data = load_training_data(stores, config, torch.device("cpu"))
    parameters = {name: tensor.clone() for name, tensor in data.standard.named_parameters()}
    shared = score(data, config, parameters, final=False)
    assert score._speech is data.dev.speech
    other = replace(data, dev=cached_pairs(stores, "test", style="dimensional"))
    alone = DevOrdinality(stores, torch.device("cpu"))
    assert alone(other, config, parameters, final=False) == shared
    assert torch.equal(alone._speech, data.dev.speech)


def test_fused_trials_take_every_core_however_busy(planted: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{sweep.__module__}.cores", lambda: 3)
    monkeypatch.setattr(f"{sweep.__module__}.choose_threads", lambda _step: 1)
    for step, threads in (("fused", 3), ("auto", 1)):
        sweep(planted, a_sweep(fixed=FIXED | {"step": step, "threads": "auto"}, halving=None), out=tmp_path / step)
        [bracket] = [json.loads(path.read_text()) for path in (tmp_path / step).glob("brackets/*/bracket.json")]
        assert bracket["threads"] == threads
