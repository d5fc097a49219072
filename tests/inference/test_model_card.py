"""The card of an exported model: what the run says, as the hub reads it, and no markup of strangers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline import EmotionRankCLAP
from pipeline.core.errors import StoreCorrupt
from pipeline.inference.model_card import card_of
from pipeline.training.run_folder import open_run


def test_the_card_says_what_the_run_says(planted_run: Path, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    _, body = card.removeprefix("---\n").split("---\n", 1)
    assert "| train | 48 |\n| dev | 16 |\n| test | 15 |" in body
    assert "| text | transformers | owner/roberta | v1 |" in body
    assert 'from_pretrained("erc", audio_model="' in body
    assert "exp(-gamma \\|x - y\\|^2)" in body  # a bar in a table's cell
    measured = json.loads((planted_run / "evaluation.json").read_text())
    own = measured["seeds"][str(json.loads((planted_run / "run.json").read_text())["best_seed"])]
    for test, names in {"ordinality": ("aoc", "voc"), "alignment": ("mmd", "wasserstein")}.items():
        for name in names:
            figures = [each[test][name] for each in (own, measured)]
            cells = " | ".join(f"{figure['mean']:.3f} ± {figure['std']:.3f}" for figure in figures)
            assert f"| {name} | {cells} |" in body
    for part in ("Intended use and limits", "MIT licence", "Interspeech 2025", "rank_n_contrast", "[0, 1]"):
        assert part in body


def test_the_metadata_of_the_card_is_what_the_hub_reads(planted_run: Path, exported: Path) -> None:
    data = ModelCard.load(exported / "README.md").data
    named = data.to_dict()
    assert [named[key] for key in ("library_name", "license")] == ["emotionrankclap", "other"]
    assert data.model_name == "erc"
    assert data.base_model == ["owner/roberta"]  # the other encoder lies in a folder, whose path stays here
    assert data.metrics == ["aoc", "voc", "mmd", "wasserstein", "sliced_wasserstein"]
    assert (data.language, data.datasets) == (None, None)  # a manifest may hold anything
    best = str(json.loads((planted_run / "run.json").read_text())["best_seed"])
    measured = json.loads((planted_run / "evaluation.json").read_text())["seeds"][best]
    for result in data.eval_results:
        test = "ordinality" if result.metric_type in ("aoc", "voc") else "alignment"
        assert result.metric_value == measured[test][result.metric_type]["mean"]
        assert (result.dataset_name, result.dataset_split) == ("custom corpus", "test")


def test_a_known_corpus_is_in_the_metadata(planted_model: EmotionRankCLAP) -> None:
    described = planted_model.config.model_copy(
        update={"data": planted_model.config.data.model_copy(update={"corpus": "emodb"})}
    )
    data = ModelCard(card_of(described, "me/erc")).data
    assert (data.language, data.datasets, data.eval_results[0].dataset_name) == ("de", ["emodb"], "EmoDB")


HOSTILE = "a`|<b>[x](http://evil.invalid)\n---\ntags: [evil]\n# {{ 7 * 7 }} {% raw %}"


def test_text_of_a_stranger_is_no_markup_and_no_metadata(planted_model: EmotionRankCLAP) -> None:
    """config.json of a downloaded model is exported again."""
    plain = planted_model.config
    assert plain.evaluation is not None
    figure = plain.evaluation.heads["aoc"].model_copy(update={"convention": HOSTILE})
    evaluation = plain.evaluation.model_copy(
        update={"split": HOSTILE, "style": HOSTILE, "heads": {HOSTILE: figure, "aoc": figure}}
    )
    data = plain.data.model_copy(update={"corpus": HOSTILE, "utterances": {HOSTILE: 1}})
    training = plain.training.model_copy(update={"method": HOSTILE})
    described = plain.model_copy(update={"evaluation": evaluation, "data": data, "training": training})
    card = ModelCard(card_of(described, "erc"))
    assert card.data.tags == ModelCard(card_of(plain, "erc")).data.tags
    assert card.data.datasets is None
    for markup in ("<b>", "](http", "\n# {{", "\ntags:", "`|"):
        assert markup not in card.text
    rows = [line for line in card.text.splitlines() if line.startswith("| a\\|")]
    assert len(rows) == 2  # the split and the metric
    assert "{{ 7 * 7 }}" in card.text


def test_figures_of_other_heads_are_left_out(
    planted_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(planted_run, tmp_path / "run"))
    for edit in (lambda found: found["trained"].pop("0"), lambda found: found.pop("ordinality")):
        found = open_run(planted_run).evaluation()
        edit(found)
        open_run(run).write_evaluation(found)
        assert EmotionRankCLAP.from_pretrained(run).config.evaluation is None
        assert "evaluation.json: left out" in capsys.readouterr().err
    (run / "evaluation.json").write_text((run / "evaluation.json").read_text().replace("0.", "1.", 1))
    with pytest.raises(StoreCorrupt, match=r"evaluation\.json: corrupt \(its digest is another\)"):
        EmotionRankCLAP.from_pretrained(run)
    (run / "evaluation.json").unlink()
    EmotionRankCLAP.from_pretrained(run).save_pretrained(tmp_path / "erc")
    assert "None yet" in (tmp_path / "erc/README.md").read_text()
