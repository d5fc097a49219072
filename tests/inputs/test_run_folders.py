"""A RUN folder that is damaged, or comes from a stranger: refused in one line, or mended and said aloud."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commands.compare_methods import main as compare_methods
from pipeline.commands.evaluate_heads import main as evaluate_heads
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import EmotionRankError, Interrupted, StoreCorrupt
from pipeline.training.heads import Heads, load_heads, load_tensors, save_heads, save_tensors
from pipeline.training.run_folder import Run, open_run
from pipeline.training.train import TRAINING_CHECKPOINT, Trainer
from tests.inputs.hostile_runs import ABOUT, CONFIG, EVALUATED, Edit
from tests.stage_two import EVALUATION, TRAINING, run_command, tree, unlisted

SEEDS = ["--seeds", 2]


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of one method: its folder is a run that was trained and evaluated."""
    out = tmp_path_factory.mktemp("finished")
    assert compared(small, out).exit_code == 0
    return out / "emotionrankclap"


def compared(small: Path, out: Path):
    words = [word if word != "-o" else "-e" for word in EVALUATION]
    return run_command(compare_methods, small, "emotionrankclap", "--out", out, *SEEDS, *TRAINING, *words)


def trained(small: Path, run: Path, *words: object):
    return run_command(train_heads, small, "--out", run, *SEEDS, *TRAINING, *words)


def evaluated(small: Path, run: Path):
    return run_command(evaluate_heads, small, run, *EVALUATION)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out" / "emotionrankclap"))


def edited(path: Path, edit: Edit) -> None:
    """`path`'s JSON after `edit`, which changes it or returns another; text is written as it is."""
    about = json.loads(path.read_text())
    after = edit(about)
    text = after if isinstance(after, str) else json.dumps(about if after is None else after)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("case", ABOUT)
def test_a_run_json_that_cannot_be_true_is_refused_and_nothing_is_touched(small: Path, run: Path, case: str) -> None:
    edited(run / "run.json", ABOUT[case])
    before = tree(run.parent.parent)
    for result in (evaluated(small, run), trained(small, run)):
        assert result.exit_code == 5
        assert "run.json" in result.stderr.splitlines()[-1]
    assert tree(run.parent.parent) == before
    with pytest.raises(StoreCorrupt):
        open_run(run)


def test_a_run_json_that_names_other_heads_is_noticed(small: Path, run: Path) -> None:
    edited(run / "run.json", lambda about: about["seeds"]["1"].update(epoch=3 - about["seeds"]["1"]["epoch"]))
    assert "run.json: modified after train-heads wrote it" in evaluated(small, run).stderr
    unlisted(run)
    result = evaluated(small, run)
    assert result.exit_code == 5
    assert "seeds/1/heads.safetensors: other heads than run.json names" in result.stderr


def test_stores_that_are_gone_or_foreign_are_said(small: Path, run: Path, tmp_path: Path) -> None:
    unlisted(run)
    for folder in (tmp_path / "nowhere", tmp_path, Path("\0"), Path("a" * 250)):
        edited(run / "run.json", lambda about, folder=folder: about.update(stores=str(folder)))
        with pytest.raises(EmotionRankError) as caught:
            open_run(run).stores()
        assert caught.value.exit_code == 2
        assert str(folder)[:20].encode("unicode_escape").decode() in str(caught.value)


def test_heads_of_other_widths_than_the_stores_are_a_mismatch(small: Path, run: Path) -> None:
    path = run / "seeds/0/heads.safetensors"
    save_heads(Heads(7, 5, dim=4), path, load_heads(path)[1])
    unlisted(run)
    result = evaluated(small, run)
    assert result.exit_code == 4
    assert "(7, 5)" in result.stderr


@pytest.mark.parametrize("case", CONFIG)
def test_a_config_that_is_none_is_refused(small: Path, run: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    (run / "config.yaml").write_bytes(CONFIG[case].encode("utf-8", "surrogateescape"))
    assert evaluated(small, run).exit_code == 5
    unlisted(run)
    before = tree(run)
    for result in (evaluated(small, run), trained(small, run)):
        assert result.exit_code == 2
        assert "config.yaml" in result.stderr
    assert tree(run) == before


def flipped(path: Path, at: float = 0.9) -> None:
    """One bit of the byte at this part of the file."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 4
    path.write_bytes(data)


SPOILED: dict[str, Callable[[Path], None]] = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]) and None,
    "emptied": lambda path: path.write_bytes(b"") and None,
    "gone": Path.unlink,
}
NAMES = ["heads.safetensors", "seeds/0/heads.safetensors", "seeds/1/metrics.jsonl", "metrics.jsonl", "config.yaml"]
CASES = [(name, spoil) for name in NAMES for spoil in SPOILED]


@pytest.mark.parametrize(("name", "spoil"), CASES)
def test_damaged_results_are_noticed_and_training_again_makes_them_as_they_were(
    small: Path, run: Path, name: str, spoil: str
) -> None:
    before = tree(run)
    SPOILED[spoil](run / name)
    assert evaluated(small, run).exit_code == 5
    result = trained(small, run)
    assert result.exit_code == 0, result.stderr
    assert tree(run) == before
    assert f"{run / name}: " in result.stderr  # a repair is said
    assert ("seed" in result.stderr and "is trained again" in result.stderr) == name.startswith("seeds")


@pytest.mark.parametrize("name", ["run.json", "digests.json"])
@pytest.mark.parametrize("spoil", ["flipped", "cut", "emptied"])
def test_a_damaged_run_json_is_called_so_and_nothing_is_touched(small: Path, run: Path, name: str, spoil: str) -> None:
    SPOILED[spoil](run / name)
    before = tree(run)
    for result in (evaluated(small, run), trained(small, run)):
        assert result.exit_code == 5
        assert re.search(rf"{name}: (corrupt|modified|cannot)", result.stderr)
    assert tree(run) == before
    assert trained(small, run, "--fresh").exit_code == 0


def test_a_run_without_digests_is_read_with_a_note_and_gets_them_by_training_again(small: Path, run: Path) -> None:
    before = tree(run, "evaluation.json")
    unlisted(run)
    result = evaluated(small, run)
    assert result.exit_code == 0
    assert result.stderr.count("written without digests.json") == 1
    assert trained(small, run).exit_code == 0
    assert tree(run, "evaluation.json") == before


def test_a_config_edited_into_another_training_is_not_called_a_change_of_settings(small: Path, run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(re.sub("learning_rate: .*", "learning_rate: 0.5", path.read_text()))
    for result in (evaluated(small, run), trained(small, run, "-o", "learning_rate=0.5")):
        assert result.exit_code == 5, result.stderr
        assert "config.yaml: modified after train-heads wrote it" in result.stderr


def test_metrics_that_are_damaged_are_made_again_from_the_seeds(small: Path, run: Path) -> None:
    before = tree(run)
    (run / "metrics.jsonl").write_text('{"seed": 0, "ep')
    assert trained(small, run).exit_code == 0
    assert tree(run) == before


def test_two_damaged_seeds_are_both_trained_again(small: Path, run: Path) -> None:
    before = tree(run)
    for seed in "01":
        flipped(run / "seeds" / seed / "heads.safetensors")
        (run / "seeds" / seed / "metrics.jsonl").unlink()
    assert trained(small, run).exit_code == 0
    assert tree(run) == before


NAMES = {"run": "", "digest": ""}  # what differs between equal evaluations of two folders


@pytest.mark.parametrize("case", EVALUATED)
def test_an_evaluation_that_cannot_be_true_is_done_again(small: Path, finished: Path, run: Path, case: str) -> None:
    expected = json.loads((finished / "evaluation.json").read_text())
    edited(run / "evaluation.json", EVALUATED[case])
    result = compared(small, run.parent)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"evaluation\.json: corrupt \(.*\); it is recomputed", result.stderr)
    found = json.loads((run / "evaluation.json").read_text())
    assert found | NAMES == expected | NAMES


@pytest.mark.parametrize("case", [name for name in EVALUATED if " that is none" in name or "of words" in name])
def test_a_strangers_evaluation_with_the_right_digest_is_done_again(small: Path, run: Path, case: str) -> None:
    result, expected = open_run(run).evaluation(), compared(small, run.parent).stdout
    EVALUATED[case](result)
    open_run(run).write_evaluation(result)
    assert compared(small, run.parent).stdout == expected


@pytest.fixture(scope="module")
def stopped(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run after the first of two epochs of seed 0."""
    out, write = tmp_path_factory.mktemp("stopped") / "run", Trainer._checkpoint

    def write_and_stop(*arguments: Any) -> None:
        write(*arguments)
        raise Interrupted(out, 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_checkpoint", write_and_stop)
        assert trained(small, out).exit_code == 130
    assert load_tensors(out / "seeds/0" / TRAINING_CHECKPOINT)[1]["epoch"] == 1
    return out


def resumed(small: Path, stopped: Path, finished: Path, out: Path, spoil: Callable[[Path], None]) -> str:
    """What is said of a checkpoint after `spoil`; the run ends as one that was never stopped."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(stopped, out)
    spoil(out / "seeds/0" / TRAINING_CHECKPOINT)
    result = trained(small, out)
    assert result.exit_code == 0, result.stderr
    whole = tree(finished, "evaluation.json")
    assert tree(out) == whole
    return str(result.stderr)


def test_a_checkpoint_that_is_whole_is_gone_on_from(small: Path, stopped: Path, finished: Path, tmp_path: Path) -> None:
    said = resumed(small, stopped, finished, tmp_path / "run", lambda path: None)
    assert "seed 0: resumes after epoch 1" in said


@pytest.mark.parametrize("places", [8, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_a_checkpoint_with_a_flipped_bit_is_never_gone_on_from(
    small: Path, stopped: Path, finished: Path, tmp_path: Path, places: int
) -> None:
    for place in range(places):
        said = resumed(small, stopped, finished, tmp_path / "run", lambda path, at=place / places: flipped(path, at))
        assert "seed 0 starts over" in said


def as_saved(path: Path, **changed: Any) -> None:
    """A checkpoint whose checksum is right and whose progress is not."""
    tensors, said = load_tensors(path)
    save_tensors(tensors, path, said | changed)


def with_tensor(path: Path, name: str, tensor: torch.Tensor) -> None:
    tensors, said = load_tensors(path)
    save_tensors(tensors | {name: tensor}, path, said)


STRANGE: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b"") and None,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]) and None,
    "of heads": lambda path: save_heads(Heads(6, 5, dim=4), path, {}),
    "of another training": lambda path: as_saved(path, training="0" * 32),
    "an epoch beyond the end": lambda path: as_saved(path, epoch=3),
    "an epoch below none": lambda path: as_saved(path, epoch=-1),
    "an epoch in words": lambda path: as_saved(path, epoch="1"),
    "metrics that are none": lambda path: as_saved(path, metrics={"a": 1}),
    "threads without end": lambda path: as_saved(path, threads=10**9),
    "a word too many": lambda path: as_saved(path, best=1),
    "a tensor of another shape": lambda path: with_tensor(path, "heads.audio.weight", torch.zeros(1)),
    "a best of another shape": lambda path: with_tensor(path, "best.audio.weight", torch.zeros(1)),
    "a best in half precision": lambda path: with_tensor(path, "best.log_scale", torch.zeros(()).half()),
    "steps without end": lambda path: with_tensor(path, "steps", torch.full((1, 5), float("inf"))),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_checkpoint_of_something_else_is_never_gone_on_from(
    small: Path, stopped: Path, finished: Path, tmp_path: Path, case: str
) -> None:
    assert "seed 0 starts over" in resumed(small, stopped, finished, tmp_path / "run", STRANGE[case])


def test_a_checkpoint_of_the_same_shapes_and_other_settings_is_never_gone_on_from(
    small: Path, stopped: Path, tmp_path: Path
) -> None:
    """As a --fresh that was killed between run.json and the seeds used to leave it."""
    other = ["-o", "learning_rate=0.01"]
    assert trained(small, tmp_path / "whole", *other).exit_code == 0
    (tmp_path / "cut/seeds/0").mkdir(parents=True)
    shutil.copy(stopped / "seeds/0" / TRAINING_CHECKPOINT, tmp_path / "cut/seeds/0")
    result = trained(small, tmp_path / "cut", *other)
    assert "seed 0 starts over" in result.stderr
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(small: Path, run: Path) -> None:
    for name in ("seeds/0/heads.safetensors", "seeds/0/metrics.jsonl", "evaluation.json"):
        (run / name).unlink()
        os.mkfifo(run / name)
    assert evaluated(small, run).exit_code == 5
    assert compared(small, run.parent).exit_code == 0
    assert Run(run).corruption(0) == ""


@pytest.mark.parametrize("cases", [12, pytest.param(500, marks=pytest.mark.exhaustive)])
def test_any_bytes_of_any_file_may_change_and_the_commands_keep_their_word(
    small: Path, finished: Path, tmp_path: Path, cases: int
) -> None:
    """Whatever the end, results that are reported as done are those that were."""
    names = sorted(tree(finished))
    results = {name: data for name, data in tree(finished).items() if name.endswith("safetensors")}

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(names), st.floats(0, 1), st.integers(0, 9), st.binary(max_size=9))
    def check(name: str, place: float, removed: int, inserted: bytes) -> None:
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(finished, out)
        data = (out / name).read_bytes()
        at = int(place * len(data))
        (out / name).write_bytes(data[:at] + inserted + data[at + removed :])
        before = tree(out, "evaluation.json")
        evaluated(small, out)
        assert tree(out, "evaluation.json") == before  # it writes nothing else
        if trained(small, out).exit_code == 0:
            assert {name: data for name, data in tree(out).items() if name in results} == results
        else:
            assert tree(out, "evaluation.json") == before

    check()
