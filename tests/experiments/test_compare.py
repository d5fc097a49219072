"""Every method of the literature runs from one set of stores, and the comparison goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.pairs import cached_pairs
from cache.stores import open_stores
from pipeline.core.errors import StoreMismatch, UsageError
from pipeline.core.presets import preset_names
from pipeline.evaluation.measures import BOUNDS, OF_TRANSCRIPTS
from pipeline.evaluation.recognition import zero_shot
from pipeline.experiments.compare import compare
from pipeline.objectives.base import objective_of
from pipeline.objectives.soft_targets import smooth
from pipeline.training.train import resolve_training, train
from tests.planted import plant

QUICK = ["width=16", "batch_size=8", "epochs=2", "threads=1"]
EVALUATION = ["trials=2", "lists=14", "projections=4"]
TEN = {
    "clap4emo",
    "clap_sce",
    "clap_template",
    "emo_clap",
    "emotionrankclap",
    "ml_gemo_clap",
    "paraclap",
    "sl_gemo_clap",
    "smoothclap",
    "supcon",
}


def test_all_ten_methods_are_compared_in_both_tables_and_on_another_corpus(all_styles: Path, tmp_path: Path) -> None:
    arguments = {
        "out": tmp_path,
        "seeds": 2,
        "overrides": QUICK,
        "evaluation": EVALUATION,
        "zero_shot_on": [all_styles],
    }
    result, text = compare(all_styles, **arguments)
    assert set(preset_names("methods")) == TEN | {"ridge", "ridge_own_captions", "plane_clap"}
    assert result["methods"].keys() == TEN | {"ridge_own_captions"}  # these stores have no whole-grammar texts
    for name in TEN:
        assert f"| {name} " in text
        found = result["methods"][name]
        assert found["settings"]["style"] == "dimensional"  # all are asked with the same captions and prompts
        assert found["recognition"]["split"] == "test"
        assert found["zero_shot"][0]["n"] == 56  # of 64 utterances, an eighth has no emotion
    for suffix in ("md", "tex", "csv", "json"):
        assert (tmp_path / f"comparison.{suffix}").stat().st_size > 500
    tables = result["tables"]
    field = ["retrieval", "readout", "speech_ordinality"]
    assert list(tables) == ["ordinality", "alignment", "recognition", *field, "recognition_1"]  # no rated words here
    supcon = result["methods"]["supcon"]
    for test, measure in (("readout", "arousal_ccc"), ("speech_ordinality", "plane_tau")):
        rows = tables[test]["rows"]
        assert rows["supcon"][measure]["mean"] == supcon[test][measure]["mean"]
        assert rows["ceiling"][measure]["mean"] == result["references"]["ceiling"][test][measure]["mean"]
    found, chance = (tables["retrieval"]["rows"][row]["text_to_speech_map"]["mean"] for row in ("supcon", "chance"))
    assert found == supcon["retrieval"]["text_to_speech_map"]["mean"]
    assert chance == supcon["retrieval"]["text_to_speech_map"]["chance"]
    for name, table in tables.items():
        bounds = [row for row in table["rows"] if row in BOUNDS]
        assert list(table["rows"])[-len(bounds) :] == bounds or not bounds
        assert ("chance" in bounds) == (name != "alignment")
        assert not any(table["rows"][row][key]["best"] for row in bounds for key in table["rows"][row])
    assert list(result["references"]) == [name for name in BOUNDS if name not in OF_TRANSCRIPTS]
    assert result["references"].keys() <= tables["ordinality"]["rows"].keys()
    assert list(tables["recognition"]["rows"])[-2:] == ["ceiling", "chance"]  # labels know themselves
    assert (
        tables["recognition_1"]["rows"]["chance"]["uar"]["mean"]
        == result["methods"]["supcon"]["zero_shot"][0]["chance"]
    )
    heads = {name: (tmp_path / name / "heads.safetensors").stat().st_mtime_ns for name in TEN}
    evaluations = {name: (tmp_path / name / "evaluation.json").stat().st_mtime_ns for name in TEN}
    (tmp_path / "supcon" / "evaluation.json").unlink()
    again, repeated = compare(all_styles, **arguments)
    assert (again, repeated) == (result, text)
    assert heads == {name: (tmp_path / name / "heads.safetensors").stat().st_mtime_ns for name in TEN}
    changed = {name for name in TEN if evaluations[name] != (tmp_path / name / "evaluation.json").stat().st_mtime_ns}
    assert changed == {"supcon"}
    other, _ = compare(all_styles, **arguments | {"evaluation": [*EVALUATION[:1], "lists=7"], "methods": ["supcon"]})
    seeds = other["methods"]["supcon"]["seeds"]
    assert [len(seed["ordinality"]["aoc"]["taus"]) for seed in seeds.values()] == [7, 7]


def test_methods_that_the_stores_cannot_serve_are_left_out_or_refused_by_name(tmp_path: Path) -> None:
    stores = plant(tmp_path / "planted", {"train": 60, "dev": 20, "test1": 30}, audio_width=8, text_width=8)
    result, _ = compare(stores, out=tmp_path, seeds=1, overrides=QUICK, evaluation=EVALUATION)
    assert result["methods"].keys() == {"emotionrankclap", "clap_sce", "supcon", "ridge_own_captions"}
    with pytest.raises(
        UsageError, match=r"paraclap: the stores have no captions of .+styles=\[acoustic,\.{3}\], or leave"
    ):
        compare(stores, methods=["paraclap"], out=tmp_path, seeds=1)


def test_a_method_may_not_go_by_the_name_of_a_bound(all_styles: Path, tmp_path: Path) -> None:
    (tmp_path / "ceiling.yaml").write_text("method: emotionrankclap\n")
    with pytest.raises(UsageError, match="ceiling: the name of a reference row"):
        compare(all_styles, methods=[str(tmp_path / "ceiling.yaml")], out=tmp_path / "out", seeds=1)


def test_zero_shot_figures_are_those_of_the_nearest_prompt(all_styles: Path, tmp_path: Path) -> None:
    run = train(all_styles, method="clap_template", out=tmp_path, overrides=QUICK)
    found = zero_shot(run, split="test")
    opened, heads = open_stores(all_styles), run.heads()
    pairs = cached_pairs(opened, "test", style="template")
    row_of = {text: row for row, text in enumerate(opened.captions.texts())}
    classes = sorted({opened.manifest.emotion[row] for row in pairs.rows})
    vectors = torch.tensor(
        opened.text.read(np.array([row_of[f"this person is feeling {name}."] for name in classes]))[0]
    )
    nearest = (heads.embed_speech(pairs.speech) @ heads.embed_text(vectors).T).argmax(1).tolist()
    truth = [opened.manifest.emotion[row] for row in pairs.rows]
    right = sum(classes[place] == name for place, name in zip(nearest, truth, strict=True))
    assert found["classes"] == classes
    assert found["n"] == len(truth)
    assert found["war"]["mean"] == pytest.approx(right / len(truth))


def test_zero_shot_on_stores_of_other_encoders_is_refused(all_styles: Path, tmp_path: Path) -> None:
    run = train(all_styles, method="clap_template", out=tmp_path / "run", overrides=QUICK)
    other = plant(tmp_path / "planted", {"train": 20}, audio_width=8, text_width=8)
    with pytest.raises(StoreMismatch, match="encoder"):
        zero_shot(run, other)


def test_unknown_categories_are_codes_of_minus_one(all_styles: Path) -> None:
    opened = open_stores(all_styles)
    pairs = cached_pairs(opened, "train", style="dimensional")
    for codes, names in ((pairs.emotion, opened.manifest.emotion), (pairs.gender, opened.manifest.gender)):
        for code, row in zip(codes.tolist(), pairs.rows, strict=True):
            assert (code == -1) == (names[row] == "")
        known = {code: names[row] for code, row in zip(codes.tolist(), pairs.rows, strict=True) if code >= 0}
        assert len(set(known.values())) == len(known) > 1


def test_acoustic_features_are_a_store_like_any_other(all_styles: Path) -> None:
    opened = open_stores(all_styles)
    assert opened.acoustic is not None
    values, done = opened.acoustic.read(np.arange(len(opened.manifest)))
    assert done.all()
    assert values.shape == (64, 7)
    pairs = cached_pairs(opened, "train", style="acoustic")
    assert pairs.acoustic is not None
    assert np.array_equal(pairs.acoustic.numpy(), values[pairs.rows])
    captions = [caption for caption in opened.captions.captions if caption.style == "acoustic"]
    assert sum(len(caption.rows) for caption in captions) == 64
    assert all(" and " in caption.text for caption in captions)
    assert json.loads((all_styles / "captions.jsonl").read_text().splitlines()[-1])["use"] == "class"


def test_smoothclaps_features_are_standardised_over_the_training_split(all_styles: Path) -> None:
    opened = open_stores(all_styles)
    training, dev = (cached_pairs(opened, split, style="acoustic") for split in ("train", "dev"))
    config = resolve_training("smoothclap")
    rows, captions = torch.arange(6)[None], dev.caption[:6][None]
    found = objective_of(config, training).prepare(dev, rows, captions)
    features = opened.acoustic.read(training.rows)[0].astype(np.float64)
    standard = (dev.acoustic[:6].double().numpy() - features.mean(0)) / features.std(0, ddof=1)
    expected = smooth(torch.tensor(standard), dev.text[captions[0]].double(), beta=0.5, gamma=0.1, temperature=0.07)
    assert torch.allclose(found.rows[0].double(), expected.rows, atol=1e-4)
