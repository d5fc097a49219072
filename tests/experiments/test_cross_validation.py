"""Folds that give recognition alone: each utterance is predicted once, by heads whose training never saw it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from cache.reader import Store
from cache.stores import Stores, open_stores
from cache.writer import StoreWriter
from pipeline.commands.compare_methods import main
from pipeline.core.errors import StoreMismatch, UsageError
from pipeline.evaluation.folds import session_folds, speaker_folds
from pipeline.evaluation.recognition import zero_shot
from pipeline.experiments import cross_validation
from pipeline.experiments.cross_validation import cross_validate
from pipeline.extraction.extract import extract
from pipeline.training.heads import load_heads
from tests.data.corpora.miniature_iemocap import write_miniature_iemocap
from tests.planted import plant
from tests.speech import QUICK

FOUR = ["angry", "happy", "neutral", "sad"]
SESSIONS = ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05"]
SHORT = ["width=16", "batch_size=8", "epochs=4", "learning_rate=3e-3", "threads=1"]
METHOD = "sl_gemo_clap"


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The four-class stores of a small IEMOCAP, and the label of every turn of the release."""
    folder = tmp_path_factory.mktemp("iemocap")
    labels = write_miniature_iemocap(folder / "IEMOCAP")
    extract(
        "iemocap_4class", audio_root=folder / "IEMOCAP", encoders="embedded", out=folder / "stores", overrides=QUICK
    )
    return folder / "stores", labels


@pytest.fixture(scope="module")
def iemocap(turns: tuple[Path, dict[str, str]]) -> Path:
    return turns[0]


@pytest.fixture(scope="module")
def crossed(iemocap: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the printed result of the command, with two seeds."""
    out = tmp_path_factory.mktemp("crossed")
    return out, command(iemocap, METHOD, "--out", out, "--folds", "session", "--seeds", "2")


def command(*words: object) -> dict[str, Any]:
    options = [word for override in SHORT for word in ("-o", override)]
    result = CliRunner().invoke(main, [*map(str, words), *options, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*words: object) -> str:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    return result.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def predicted(stores: Stores, heads: Path, rows: np.ndarray) -> list[str]:
    """What the heads in a file call each of `rows`, by plain loops over the class prompts."""
    trained = load_heads(heads)[0]
    texts = stores.captions.texts()
    asked = [texts.index(f"this person is feeling {name}.") for name in FOUR]
    speech = trained.embed_speech(torch.tensor(stores.audio.read(rows)[0])).detach().numpy()
    prompts = trained.embed_text(torch.tensor(stores.text.read(np.array(asked))[0])).detach().numpy()
    return [max(range(4), key=lambda k: float(vector @ prompts[k])) for vector in speech]  # type: ignore[misc]


def test_excited_turns_are_happy_in_labels_and_captions_and_frustrated_ones_are_left_out(
    turns: tuple[Path, dict[str, str]],
) -> None:
    folder, labels = turns
    stores, names = (
        open_stores(folder),
        {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"},
    )
    kept = {turn: names[label] for turn, label in labels.items() if label != "fru"}
    assert dict(zip(stores.manifest.id, stores.manifest.emotion, strict=True)) == kept
    assert len(kept) < len(labels)
    said = {row: c.text for c in stores.captions.captions if c.style == "template" for row in c.rows}
    assert [said[row] for row in range(len(kept))] == [f"speech has {name} emotion" for name in stores.manifest.emotion]
    assert "exc" in labels.values()


def test_five_sessions_are_left_out_in_turn_and_pooled_figures_are_scikit_learns(
    iemocap: Path, crossed: tuple[Path, dict[str, Any]]
) -> None:
    out, result = crossed
    stores, method = open_stores(iemocap), result["methods"][METHOD]
    manifest, found = stores.manifest, method["recognition"]
    assert found["classes"] == FOUR
    assert list(method["folds"]) == list(result["folds"]) == SESSIONS
    assert sorted(path.name for path in (out / METHOD).iterdir()) == SESSIONS
    pooled, of_folds, total = [], [], np.zeros((4, 4), dtype=int)
    for seed in ("0", "1"):
        truth, said, per_fold = [], [], []
        for session in SESSIONS:
            rows = np.array([row for row, name in enumerate(manifest.id) if name.startswith(session)])
            right = [FOUR.index(manifest.emotion[row]) for row in rows]
            guess = predicted(stores, out / METHOD / session / "seeds" / seed / "heads.safetensors", rows)
            fold = method["folds"][session]["recognition"]
            assert fold["n"] == result["folds"][session]["test"] == len(rows)
            per_fold.append((accuracy_score(right, guess), balanced_accuracy_score(right, guess)))
            assert [fold[name]["seed_values"][int(seed)] for name in ("war", "uar")] == pytest.approx(per_fold[-1])
            truth, said = truth + right, said + guess
        assert len(truth) == len(manifest) == found["n"]  # every utterance once
        assert found["left_out"] == 0
        pooled.append((accuracy_score(truth, said), balanced_accuracy_score(truth, said)))
        of_folds.append(per_fold)
        total += confusion_matrix(truth, said, labels=range(4))
    values = np.array(of_folds)  # (seeds, folds, measures)
    for place, name in enumerate(("war", "uar")):
        of = [each[place] for each in pooled]
        assert found["pooled"][name]["mean"] == pytest.approx(np.mean(of), abs=1e-12)
        assert found["pooled"][name]["seed_std"] == pytest.approx(np.std(of, ddof=1), abs=1e-12)
        over = values[:, :, place]
        assert found[name]["mean"] == pytest.approx(over.mean(), abs=1e-12)
        assert found[name]["seed_std"] == pytest.approx(over.mean(1).std(ddof=1), abs=1e-12)
        assert found[name]["fold_std"] == pytest.approx(over.mean(0).std(ddof=1), abs=1e-12)
        assert found[name]["low"] < found[name]["mean"] < found[name]["high"]
    assert found["confusion"] == total.tolist()
    assert found["chance"] == 0.25
    assert found["majority"] == pytest.approx(max(map(manifest.emotion.count, FOUR)) / len(manifest))
    assert found["pooled"]["uar"]["mean"] > 0.3
    assert found["pooled"]["war"]["mean"] != pytest.approx(found["war"]["mean"], abs=1e-6)


def test_the_report_names_every_convention(crossed: tuple[Path, dict[str, Any]]) -> None:
    out, result = crossed
    text = re.sub(" +", " ", (out / "cross_validation.md").read_text())  # columns are aligned
    for words in (
        "| method | WAR ↑ | UAR ↑ | WAR, pooled ↑ | UAR, pooled ↑ |",
        f"| {METHOD} |",
        "UAR 0.250",
        "5 folds, one session left out at a time",
        "the fold after it (after the last the first), its development set",
        "this person is feeling EMOTION.",
        "confusions of 5 summed",
        "mean ± std over 5 folds of each fold's mean over seeds (std over 2 seeds of each seed's mean over folds)",
        "not tested over seeds below 5" if len(result["methods"]) > 1 else "bold: best mean",
        f"n = {result['utterances']} utterances, each is tested once",
        "| angry | happy | neutral | sad |",
        "| **Ses03** |",
    ):
        assert words in text
    assert json.loads((out / "cross_validation.json").read_text()) == result


def test_stores_without_the_grammars_texts_give_recognition_alone_and_say_why_and_what_to_do(
    iemocap: Path, crossed: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = crossed[1]
    assert list(result["tables"]) == ["recognition"]
    assert not {"ordinality", "word_norms", "alignment"} & result["methods"][METHOD].keys()
    assert result["settings"] is None
    assert any("recognition alone" in note and "captions.grid" in note for note in result["notes"])
    shutil.copytree(crossed[0], tmp_path / "out")
    options = {"folds": "session", "methods": [METHOD], "seeds": 2, "overrides": SHORT, "device": "cpu"}
    cross_validate(iemocap, out=tmp_path / "out", evaluation=["trials=2"], **options)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "recognition alone" in line]
    assert "not among the texts; expected every training sentence (captions.grid)" in warning
    assert "Run extract-features again with both" in warning
    assert not list((tmp_path / "out").rglob("evaluation.json"))


def test_doing_it_again_trains_nothing_and_a_lost_fold_is_trained_again_alone(
    iemocap: Path, crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(crossed[0], tmp_path / "out")
    folds = tmp_path / "out" / METHOD
    words = (iemocap, METHOD, "--out", tmp_path / "out", "--folds", "session", "--seeds", "2")
    heads = sorted(folds.rglob("heads.safetensors"))
    before, times = files(folds), {path: path.stat().st_mtime_ns for path in heads}
    assert command(*words) == crossed[1]
    assert {path: path.stat().st_mtime_ns for path in heads} == times
    shutil.rmtree(folds / "Ses03")
    assert command(*words) == crossed[1]
    assert files(folds) == before
    assert {path for path in heads if path.stat().st_mtime_ns != times[path]} == set((folds / "Ses03").rglob("heads.*"))


def test_fewer_seeds_than_trained_are_reported_alone(
    iemocap: Path, crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(crossed[0], tmp_path / "out")
    found = command(iemocap, METHOD, "--out", tmp_path / "out", "--folds", "session", "--seeds", "1")
    one, two = (result["methods"][METHOD] for result in (found, crossed[1]))
    assert one["seeds"] == [0]
    for name in ("war", "uar"):
        assert one["recognition"][name]["seed_values"] == two["recognition"][name]["seed_values"][:1]
        assert (
            one["recognition"]["pooled"][name]["seed_values"] == two["recognition"]["pooled"][name]["seed_values"][:1]
        )
    assert np.sum(one["recognition"]["confusion"]) == one["recognition"]["n"]


def test_no_test_row_is_read_before_its_folds_training_has_ended(
    iemocap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[int]] = []
    plain_read, plain_train, plain_zero_shot = Store.read, cross_validation.train, cross_validation.zero_shot
    monkeypatch.setattr(
        Store,
        "read",
        lambda self, rows: (
            read[-1].update(rows.tolist()) if self.path.name == "audio.h5" else None,
            plain_read(self, rows),
        )[1],
    )
    monkeypatch.setattr(cross_validation, "train", lambda *a, **k: (read.append(set()), plain_train(*a, **k))[1])
    monkeypatch.setattr(
        cross_validation, "zero_shot", lambda *a, **k: (read.append(set()), plain_zero_shot(*a, **k))[1]
    )
    cross_validate(iemocap, out=tmp_path, folds="session", methods=[METHOD], seeds=1, overrides=SHORT, device="cpu")
    folds = session_folds(open_stores(iemocap).manifest)
    assert read[0::2] == [{*fold.train.tolist(), *fold.dev.tolist()} for fold in folds]
    assert read[1::2] == [set(fold.test.tolist()) for fold in folds]


def test_other_vectors_and_labels_of_the_test_rows_leave_a_folds_heads_the_same_to_the_bit(
    iemocap: Path, crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(iemocap, tmp_path / "stores")
    changed = open_stores(tmp_path / "stores")
    fold = session_folds(changed.manifest)[0]
    rows = Store.open(changed.audio.path)  # with all layers
    with StoreWriter(rows) as writer:
        for row, vector in zip(fold.test.tolist(), rows.read(fold.test)[0][::-1] * 3 + 1, strict=True):
            writer.commit(row, vector, bytes(16))
    for row in fold.test.tolist():
        changed.manifest.emotion[row] = FOUR[(FOUR.index(changed.manifest.emotion[row]) + 1) % 4]
        changed.manifest.gender[row] = "female"
        changed.manifest.valence[row] = 7.0
    other, _ = cross_validate(
        changed, out=tmp_path / "out", folds="session", methods=[METHOD], seeds=2, overrides=SHORT, device="cpu"
    )
    one, two = (folder / METHOD for folder in (crossed[0], tmp_path / "out"))
    assert files(one / "Ses01") == files(two / "Ses01")
    assert files(one / "Ses02") != files(two / "Ses02")  # which trains on them
    now, was = (each["methods"][METHOD]["folds"]["Ses01"]["recognition"] for each in (other, crossed[1]))
    assert now["confusion"] != was["confusion"]


def test_any_corpus_is_folded_by_speaker(all_styles: Path, tmp_path: Path) -> None:
    words = (all_styles, "clap_template", METHOD, "--out", tmp_path, "--folds", "3", "--seeds", "1")
    found, manifest = command(*words), open_stores(all_styles).manifest
    folds = speaker_folds(manifest, folds=3)
    assert found["methods"].keys() == {"clap_template", METHOD}
    for method in found["methods"].values():
        assert list(method["folds"]) == [fold.name for fold in folds] == ["fold1", "fold2", "fold3"]
        result = method["recognition"]
        assert result["classes"] == sorted(set(manifest.emotion) - {""})
        assert result["n"] == len(manifest) - manifest.emotion.count("")
        counts = [manifest.emotion.count(name) for name in result["classes"]]
        assert np.sum(result["confusion"], axis=1).tolist() == counts
    assert (
        f"left out: {manifest.emotion.count('')} without an emotion" in (tmp_path / "cross_validation.md").read_text()
    )
    with pytest.raises(StoreMismatch, match="the training data changed"):
        cross_validate(all_styles, out=tmp_path, folds=4, methods=[METHOD], seeds=1, overrides=SHORT, device="cpu")


def test_a_class_that_a_fold_lacks_is_asked_for_in_it_all_the_same(all_styles: Path, tmp_path: Path) -> None:
    stores = open_stores(all_styles)
    manifest = stores.manifest
    for row, speaker in enumerate(manifest.speaker):
        if manifest.emotion[row] == "happy" and speaker != "s0":
            manifest.emotion[row] = "sad"
    found, _ = cross_validate(
        stores, out=tmp_path, folds=3, methods=["clap_template"], seeds=1, overrides=SHORT, device="cpu"
    )
    result = found["methods"]["clap_template"]["recognition"]
    folds = {name: fold["recognition"] for name, fold in found["methods"]["clap_template"]["folds"].items()}
    happy = [np.sum(fold["confusion"], axis=1)[2] for fold in folds.values()]
    assert sorted(count > 0 for count in happy) == [False, False, True]
    for fold, count in zip(folds.values(), happy, strict=True):  # UAR is of the classes that are there
        recall = np.diag(fold["confusion"]) / np.maximum(1, np.sum(fold["confusion"], axis=1))
        assert fold["uar"]["mean"] == pytest.approx(recall.sum() / (4 if count else 3))
    assert result["classes"] == ["angry", "calm", "happy", "sad"]
    assert np.sum([fold["confusion"] for fold in folds.values()], axis=0).tolist() == result["confusion"]


def test_utterances_that_could_not_be_encoded_are_counted_apart(iemocap: Path, tmp_path: Path) -> None:
    shutil.copytree(iemocap, tmp_path / "stores")
    with StoreWriter(open_stores(tmp_path / "stores").audio) as writer:
        writer.fail(0, "an empty file")
    found, text = cross_validate(
        tmp_path / "stores", out=tmp_path, folds="session", methods=[METHOD], seeds=1, overrides=SHORT, device="cpu"
    )
    assert found["methods"][METHOD]["recognition"]["n"] == found["utterances"] - 1
    assert "left out: 1 not done" in text


def test_a_view_has_other_splits_and_leaves_the_stores_as_they_are(iemocap: Path) -> None:
    stores = open_stores(iemocap)
    before = list(stores.manifest.split)
    view = stores.with_splits(["test", *["train"] * (len(before) - 1)])
    assert view.manifest.rows("test").tolist() == [0]
    assert (view.audio, view.text, view.captions) == (stores.audio, stores.text, stores.captions)
    assert stores.manifest.split == before == open_stores(iemocap).manifest.split
    with pytest.raises(UsageError, match=rf"1 splits; expected {len(before)}"):
        stores.with_splits(["train"])


def test_a_view_of_other_encoders_is_refused_like_its_stores(
    crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    other = plant(tmp_path, {"train": 4}, audio_width=8, text_width=8)
    with pytest.raises(StoreMismatch, match="encoder"):
        zero_shot(crossed[0] / METHOD / "Ses01", other.with_splits(["test"] * 4), split="test")


def test_what_cannot_be_folded_is_refused_in_one_line_before_any_training(
    iemocap: Path, all_styles: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    assert "-e split=dev: given with --folds; expected no split" in refused(
        iemocap, "--folds", "session", "-e", "split=dev", *out
    )
    for wrong in ("sessions", "speakers", "-1", "0", "2.5", ""):
        assert "expected session, speaker, or a number of folds" in refused(iemocap, f"--folds={wrong}", *out)
    assert "--folds 2: too few folds; expected at least 3" in refused(iemocap, "--folds", "2", *out)
    assert "utterances have no session" in refused(all_styles, "--folds", "session", *out)
    assert "--folds 9: the corpus has 8 speakers; expected at most 8 folds" in refused(all_styles, "--folds", "9", *out)
    assert "the stores have no captions of style acoustic" in refused(iemocap, "paraclap", "--folds", "5", *out)
    with pytest.raises(UsageError, match=r"no class prompt 'a \{emotion\} voice' for angry, happy, neutral, sad"):
        cross_validate(iemocap, out=tmp_path / "out", folds="session", template="a {emotion} voice")
    assert not (tmp_path / "out").exists()
