"""What stage one would do: nothing is written, and encoders that are not at hand are named last."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands.extract_features import main as extract_features
from pipeline.core.errors import MissingEncoder
from pipeline.extraction.extract import (
    extract,
)
from pipeline.extraction.plan import plan_extraction
from tests.stage_two import run_command


def test_a_dry_run_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    plan = plan_extraction(corpus, out=tmp_path / "stores")
    assert plan["utterances"] == {"train": 12, "dev": 6, "test": 6}
    assert plan["batches"] == 24
    assert not (tmp_path / "stores").exists()


def test_a_dry_run_says_all_that_it_can_without_the_encoders(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plan_extraction(corpus, out=tmp_path / "stores")
    assert whole["missing_encoders"] == []
    needs = {"batches", "audio_encoder", "text_encoder", "bytes", "missing_encoders"}
    common = {name: value for name, value in whole.items() if name not in needs}
    assert len(common["captions"]) == 3
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, hub = tmp_path / "gone", "nobody/of-this-name"
    models = [f"audio.model={folder}", f"text.model={hub}", "audio.encoder=transformers", "text.encoder=transformers"]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.extraction.encoders.embedded.find_spec", lambda _: None)
        for overrides, subjects in (
            (models, [f"{folder}: no such folder", f"{hub}: not found"]),
            ([], 2 * ["encoder embedded: "]),
        ):
            plan = plan_extraction(corpus, out=tmp_path / "stores", overrides=overrides)
            assert {name: value for name, value in plan.items() if name not in needs} == common
            assert [plan[name] for name in sorted(needs - {"missing_encoders"})] == 4 * [None]
            starts = zip(plan["missing_encoders"], subjects, strict=True)
            assert all(said.startswith(subject) for said, subject in starts)
    with pytest.raises(MissingEncoder):
        extract(corpus, out=tmp_path / "stores", overrides=models)
    assert not (tmp_path / "stores").exists()


def test_a_dry_run_names_missing_encoders_last_and_is_0_unless_strict(corpus: Path, tmp_path: Path) -> None:
    options = [corpus, "--out", tmp_path / "s", "--dry-run", "-o", "audio.encoder=transformers"]
    options += ["-o", f"audio.model={tmp_path / 'gone'}"]
    result = run_command(extract_features, *options)
    assert result.exit_code == 0
    last = result.stderr.splitlines()[-1]
    assert last == (
        f"WARNING: an encoder is not at hand, all else was checked: {tmp_path / 'gone'}: no such folder; expected "
        "a folder with config.json and weights. Check the path."
    )
    assert "utterances.train: 12" in result.stdout
    strict = run_command(extract_features, *options, "--strict")
    assert (strict.exit_code, strict.stdout) == (2, result.stdout)
