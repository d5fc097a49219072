"""Folds for everything: order, distances and recognition of each fold, with captions planned anew."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import special
from scipy.stats import kendalltau

from cache.manifest import write_manifest
from cache.reader import Store
from cache.stores import Stores, open_stores
from pipeline.commands.compare_methods import main
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions.folds import captions_for_splits
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.folds import leave_one_speaker_out, speaker_folds
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.references import reference_results
from pipeline.experiments import cross_validation
from pipeline.experiments.cross_validation import cross_validate
from pipeline.training.heads import load_heads
from tests.data.captions.test_word_norms import made_up, norms_file
from tests.planted import EVERY_STYLE, plant
from tests.stage_two import unlisted

SPEAKERS = 5
METHODS = ["emotionrankclap", "clap4emo", "ridge"]
SHORT = ["width=16", "batch_size=16", "epochs=3", "learning_rate=3e-3", "threads=1"]
EVALUATION = ["trials=2", "lists=14", "projections=4", "pairs=12"]
COMMON = {"template", "acoustic"}  # worded alike in every split, by design
OPTIONS: dict[str, Any] = {"overrides": SHORT, "evaluation": EVALUATION, "device": "cpu"}


def write_stores(folder: Path, count: int = 110, **settings: Any) -> Path:
    """Planted stores of all caption styles and `SPEAKERS` speakers, who are in every split of the manifest."""
    splits = {"train": count // 2, "dev": count // 4, "test1": count - count // 2 - count // 4}
    options = {"audio_width": 8, "text_width": 8, "noise": 0.1, "styles": EVERY_STYLE, "grid": True, **settings}
    stores = plant(folder, splits, **options)
    stores.manifest.speaker[:] = [f"s{row % SPEAKERS}" for row in range(count)]
    write_manifest(stores.manifest, folder / "manifest.csv")
    unlisted(folder)
    return folder


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    return write_stores(folder / "stores", word_norms=norms_file(folder, *made_up(80)))


@pytest.fixture(scope="module")
def crossed(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the printed result of the command, with two seeds in three folds."""
    out = tmp_path_factory.mktemp("crossed")
    return out, command(spoken, out)


def words_of(stores: Path, out: Path, *more: object) -> list[str]:
    options = [word for override in SHORT for word in ("-o", override)]
    options += [word for override in EVALUATION for word in ("-e", override)]
    words = (stores, *METHODS, "--folds", 3, "--seeds", 2, "--out", out, "--no-report", "--device", "cpu")
    return [*map(str, words), *options, *map(str, more), "--json"]


def command(stores: Path, out: Path, *more: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, words_of(stores, out, *more), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def runs(out: Path, method: str) -> list[Path]:
    return sorted(path.parent for path in (out / method).glob("*/evaluation.json"))


def texts_by_row(stores: Stores, style: str) -> list[set[str]]:
    found: list[set[str]] = [set() for _ in range(len(stores.manifest))]
    for caption in stores.captions.captions:
        if caption.style == style:
            for row in caption.rows:
                found[row].add(caption.text)
    return found


def test_in_no_fold_a_text_of_a_test_utterance_or_a_prompt_is_trained_on(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training and evaluation are given: captions and whole-grammar texts, text by text."""
    trained: list[Stores] = []
    plain = cross_validation.train
    monkeypatch.setattr(cross_validation, "train", lambda view, **k: (trained.append(view), plain(view, **k))[1])
    cross_validate(spoken, out=tmp_path, folds=3, methods=["emotionrankclap", "clap4emo"], seeds=1, **OPTIONS)
    stores = open_stores(spoken)
    folds = speaker_folds(stores.manifest, folds=3)
    assert len(trained) == 2 * len(folds)
    changed = 0
    for view, fold in zip(trained, folds * 2, strict=True):
        assert [view.manifest.split[row] for row in fold.test] == ["test"] * len(fold.test)
        held_back = {prompt.text for prompt in view.captions.prompts}
        assert {prompt.style for prompt in view.captions.prompts} == {"dimensional", "word_norms"}
        of = {style: texts_by_row(view, style) for style in EVERY_STYLE}
        for style in EVERY_STYLE:
            held_back |= {text for row in fold.test for text in of[style][row]}
        for style in set(EVERY_STYLE) - COMMON:
            for row in (*fold.train, *fold.dev):
                assert of[style][row]
                assert not of[style][row] & held_back, style
        assert view.captions.grid
        assert not {text.text for text in view.captions.grid} & held_back
        before = texts_by_row(stores, "dimensional")
        changed += sum(before[row] != of["dimensional"][row] for row in range(len(before)))
    assert changed > 100  # the stores' own captions would not do


def test_no_test_row_is_read_before_its_folds_training_has_ended(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[int]] = [set()]  # before the first training, then in each
    plain_read, plain_train = Store.read, cross_validation.train

    def noted(store: Store, rows: np.ndarray) -> Any:
        if store.path.name in ("audio.h5", "acoustic.h5"):
            read[-1].update(rows.tolist())
        return plain_read(store, rows)

    def train_alone(view: Stores, **options: Any) -> Any:
        read.append(set())
        run = plain_train(view, **options)
        read.append(set())
        return run

    monkeypatch.setattr(Store, "read", noted)
    monkeypatch.setattr(cross_validation, "train", train_alone)
    cross_validate(spoken, out=tmp_path, folds=3, methods=["ridge"], seeds=1, **OPTIONS)
    folds = speaker_folds(open_stores(spoken).manifest, folds=3)
    assert read[0] == set()
    assert read[1::2] == [{*fold.train.tolist(), *fold.dev.tolist()} for fold in folds]
    assert read[2] == {*folds[0].test.tolist(), *read[1]}  # read-outs are fitted on what was trained on


def test_every_figure_is_the_folds_own_and_spread_over_folds_and_seeds_is_kept_apart(
    crossed: tuple[Path, dict[str, Any]],
) -> None:
    out, result = crossed
    ratio = sum(about["test"] for about in result["folds"].values()) / sum(
        about["train"] for about in result["folds"].values()
    )
    assert result["resampling_ratio"] == pytest.approx(ratio)
    for method in METHODS:
        found = result["methods"][method]
        evaluations = [json.loads((run / "evaluation.json").read_text()) for run in runs(out, method)]
        assert len(evaluations) == 3
        for test, names in {
            "ordinality": ["aoc", "voc"],
            "word_norms": ["aoc", "voc"],
            "alignment": ["mmd", "wasserstein", "sliced_wasserstein"],
        }.items():
            for name in names:
                values = [
                    [of["seeds"][seed][test][name]["mean"] for seed in ("0", "1")] for of in evaluations
                ]  # (folds, seeds)
                entry = found[test][name]
                of_folds = [statistics.fmean(row) for row in values]
                of_seeds = [statistics.fmean(column) for column in zip(*values, strict=True)]
                assert entry["fold_values"] == pytest.approx(of_folds, abs=1e-12)
                assert entry["seed_values"] == pytest.approx(of_seeds, abs=1e-12)
                assert entry["mean"] == pytest.approx(statistics.fmean(of_folds), abs=1e-12)
                assert entry["fold_std"] == pytest.approx(statistics.stdev(of_folds), abs=1e-12)
                assert entry["seed_std"] == pytest.approx(statistics.stdev(of_seeds), abs=1e-12)
                reach = statistics.stdev(of_folds) * (1 / 3 + ratio) ** 0.5 * special.stdtrit(2, 0.975)
                interval = entry["mean"] - reach, entry["mean"] + reach
                assert (entry["low"], entry["high"]) == pytest.approx(interval, abs=1e-9)
                for fold, row in zip(found["folds"].values(), values, strict=True):
                    assert fold[test][name]["seed_values"] == pytest.approx(row, abs=1e-12)
        for name in ("aoc", "voc"):
            lost = np.subtract(found["ordinality"][name]["fold_values"], found["word_norms"][name]["fold_values"])
            assert found["word_norms"][f"{name}_loss"]["fold_values"] == pytest.approx(lost.tolist(), abs=1e-12)
    assert result["methods"]["ridge"]["ordinality"]["aoc"]["seed_std"] == 0.0  # a closed form draws nothing
    assert result["methods"]["emotionrankclap"]["ordinality"]["aoc"]["seed_std"] > 0


def test_order_is_asked_of_the_folds_own_utterances(spoken: Path, crossed: tuple[Path, dict[str, Any]]) -> None:
    """AOC of one fold and seed by plain loops over prompts and utterances."""
    out, result = crossed
    stores = open_stores(spoken)
    fold = speaker_folds(stores.manifest, folds=3)[1]
    heads = load_heads(out / "emotionrankclap" / fold.name / "seeds/1/heads.safetensors")[0]
    with torch.no_grad():
        speech = heads.embed_speech(torch.tensor(stores.audio.read(fold.test)[0])).numpy()
        rows = {text: row for row, text in enumerate(stores.captions.texts())}
        words = {
            (prompt.valence, prompt.arousal): rows[prompt.text]
            for prompt in stores.captions.prompts
            if (prompt.style, prompt.variant) == ("dimensional", 0)
        }
        text = heads.embed_text(torch.tensor(stores.text.read(np.array(list(words.values())))[0])).numpy()
    vector = dict(zip(words, text, strict=True))
    steps = [0.5 * step for step in range(1, 15)]
    taus = []
    for fixed in steps:
        free, asked, heard = list(range(len(fold.test))), [], []
        for step in steps:
            nearest = max(free, key=lambda place: float(vector[fixed, step] @ speech[place]))
            free.remove(nearest)
            asked.append(step)
            heard.append(stores.manifest.arousal[fold.test[nearest]])
        tau = kendalltau(asked, heard).statistic
        taus.append(0.0 if np.isnan(tau) else tau)
    found = result["methods"]["emotionrankclap"]["folds"][fold.name]["ordinality"]["aoc"]
    assert found["seed_values"][1] == pytest.approx(statistics.fmean(taus), abs=1e-9)


def test_tables_of_order_distances_and_recognition(crossed: tuple[Path, dict[str, Any]]) -> None:
    out, result = crossed
    text = re.sub(" +", " ", (out / "cross_validation.md").read_text())  # columns are aligned
    assert list(result["tables"]) == ["ordinality", "alignment", "recognition"]
    assert "| method | AOC ↑ | VOC ↑ | AOC, rated words ↑ | VOC, rated words ↑ | AOC lost, rated words" in text
    entry = result["methods"]["clap4emo"]["ordinality"]["voc"]
    cell = f"{entry['mean']:.3f} ± {entry['fold_std']:.3f} ({entry['seed_std']:.3f})"
    assert cell in text
    for words in ("n = 110 utterances, each is tested once", "3 folds, whole speakers", "planned anew in each fold"):
        assert words in text
    for method in METHODS:
        assert f"{method}, fold by fold" in text
        assert f"{method}, confusions summed" in text
    assert json.loads((out / "cross_validation.json").read_text()) == result
    assert not [line for line in (out / "cross_validation.json").read_text().splitlines() if '"taus"' in line]


def test_reference_rows_are_those_of_each_fold_and_stand_below_the_methods(
    spoken: Path, crossed: tuple[Path, dict[str, Any]]
) -> None:
    result = crossed[1]
    assert list(result["references"]) == ["ceiling", "labels", "chance"]
    stores = open_stores(spoken)
    config = EvaluateConfig.model_validate(result["settings"])
    for place, fold in enumerate(speaker_folds(stores.manifest, folds=3)):
        split = fold.splits()
        view = stores.with_splits(split, captions_for_splits(stores.captions, stores.manifest, split))
        rows = reference_results(view, split="test", config=config, device="cpu")
        for bound in ("ceiling", "labels"):
            for test in ("ordinality", "word_norms"):
                values = result["references"][bound][test]["voc"]["fold_values"]
                assert values[place] == pytest.approx(rows[bound][test]["voc"]["mean"], abs=1e-12)
        values = result["references"]["ceiling"]["recognition"]["uar"]["fold_values"]
        assert values[place] == pytest.approx(rows["ceiling"]["recognition"]["uar"]["mean"], abs=1e-12)
    for name, bounds in {"ordinality": ["ceiling", "labels", "chance"], "recognition": ["ceiling", "chance"]}.items():
        table = result["tables"][name]["rows"]
        assert list(table) == [*METHODS, *bounds]
        assert not any(cell["best"] or cell["against"] for bound in bounds for cell in table[bound].values())
    assert list(result["tables"]["alignment"]["rows"]) == METHODS


def test_the_same_command_again_measures_nothing_twice_and_what_is_lost_alone(
    spoken: Path, crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(crossed[0], tmp_path / "out"))
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in ("evaluation.json", "run.json")}
    assert command(spoken, out) == crossed[1]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (out / "clap4emo/fold2/evaluation.json").unlink()
    shutil.rmtree(out / "emotionrankclap/fold3")
    assert command(spoken, out) == crossed[1]
    changed = {str(path.parent.relative_to(out)) for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert changed == {"clap4emo/fold2", "emotionrankclap/fold3"}


def test_an_evaluation_of_other_utterances_is_not_taken_for_the_folds(
    spoken: Path, crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """A fold's heads evaluated by hand on splits that hold as many utterances, some of which they were trained on."""
    out = Path(shutil.copytree(crossed[0], tmp_path / "out"))
    stores = open_stores(spoken)
    one, other = speaker_folds(stores.manifest, folds=3)[:2]
    rows = (one.train if len(one.train) >= len(one.test) else other.test)[: len(one.test)]
    split = ["test" if row in set(rows.tolist()) else "train" for row in range(len(stores.manifest))]
    evaluate(out / "ridge/fold1", stores=stores.with_splits(split), overrides=[*EVALUATION, "split=test"], device="cpu")
    assert command(spoken, out) == crossed[1]


def test_one_speaker_is_left_out_at_a_time(spoken: Path, tmp_path: Path) -> None:
    found = command(spoken, tmp_path, "--folds", "speaker", "--seeds", "1")
    folds = leave_one_speaker_out(open_stores(spoken).manifest)
    assert list(found["folds"]) == [fold.name for fold in folds] == [f"fold{k}" for k in range(1, 6)]
    assert [about["speakers"] for about in found["folds"].values()] == [[f"s{k}"] for k in range(5)]
    assert len(found["methods"]["ridge"]["alignment"]["mmd"]["fold_values"]) == SPEAKERS
    assert "5 folds, one speaker left out at a time" in (tmp_path / "cross_validation.md").read_text()


def test_another_corpus_is_asked_by_the_heads_of_every_fold(spoken: Path, tmp_path: Path) -> None:
    other = write_stores(tmp_path / "other", 40, seed=3)
    found = command(spoken, tmp_path / "out", "--zero-shot", other)
    (elsewhere,) = found["methods"]["clap4emo"]["zero_shot"]
    assert elsewhere["stores"] == str(other)
    assert elsewhere["n"] == 40
    uar = [
        [zero_shot(run, other)["seeds"][seed]["uar"] for seed in ("0", "1")]
        for run in runs(tmp_path / "out", "clap4emo")
    ]
    assert elsewhere["uar"]["fold_values"] == pytest.approx(np.mean(uar, axis=1).tolist(), abs=1e-12)
    assert "low" not in elsewhere["uar"]  # the same speech in every fold
    assert np.sum(elsewhere["confusion"]) == 40 * 3 * 2
    table = found["tables"]["recognition_1"]
    assert str(other) in table["title"]
    assert "n = 40 utterances, the heads of every fold are asked about all of it" in table["notes"]


def test_folds_with_too_few_labels_for_a_list_give_recognition_alone(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = open_stores(spoken)
    labelled = [row for row in range(len(stores.manifest)) if stores.manifest.speaker[row] == "s3"]
    stores.manifest.valence[labelled[13:]] = np.nan  # 13 are left
    found, _ = cross_validate(stores, out=tmp_path, folds="speaker", methods=["clap4emo"], seeds=1, **OPTIONS)
    assert list(found["tables"]) == ["recognition"]
    assert "fold4 has 13 utterances with valence and arousal; expected at least 14" in capsys.readouterr().err
    stores.manifest.emotion[:] = [""] * len(stores.manifest)
    with pytest.raises(UsageError, match="fold4 has 13 utterances with valence and arousal"):
        cross_validate(stores, out=tmp_path / "none", folds="speaker", methods=["ridge"], seeds=1, **OPTIONS)
    assert not (tmp_path / "none").exists()


def test_a_corpus_without_emotions_has_order_and_distances(tmp_path: Path) -> None:
    stores = open_stores(write_stores(tmp_path / "stores", 110, styles=("dimensional",)))
    found, text = cross_validate(stores, out=tmp_path / "out", folds=3, methods=["ridge"], seeds=1, **OPTIONS)
    assert list(found["tables"]) == ["ordinality", "alignment"]
    assert "recognition" not in found["methods"]["ridge"]
    assert "confusion" not in text
