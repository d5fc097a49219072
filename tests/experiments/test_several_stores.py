"""Two corpora trained on together, and one corpus by several encoders in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.header import DONE, FAILED
from cache.stores import open_stores
from cache.writer import StoreWriter
from pipeline import EmotionRankCLAP
from pipeline.commands.compare_methods import main as compare_methods
from pipeline.commands.evaluate_heads import main as evaluate_heads
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import UsageError
from pipeline.experiments.compare import compare
from pipeline.extraction.extract import extract
from pipeline.inference.search import search
from pipeline.training.run_folder import open_run
from tests.speech import QUICK, write_corpus
from tests.stage_two import run_command

SETTINGS = ["width=8", "batch_size=8", "epochs=2", "threads=1"]
OPTIONS = [word for setting in SETTINGS for word in ("-o", setting)]
ASKED = ["trials=1", "lists=2", "bootstrap=0"]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One corpus by three encoders (layers of one, which their fingerprints tell apart), another by the first."""
    folder = tmp_path_factory.mktemp("several")
    manifest, other = write_corpus(folder / "c", 64), write_corpus(folder / "d", 64)
    for layer in (0, 1, 2):
        extract(manifest, out=folder / f"layer-{layer}", overrides=[*QUICK, f"audio.layer={layer}"])
    extract(other, out=folder / "other", overrides=[*QUICK, "audio.layer=2"])
    return {path.name: path for path in folder.iterdir()}


def test_three_encoders_and_two_methods_are_six_rows_of_one_table(encoded: dict[str, Path], tmp_path: Path) -> None:
    asked = [word for setting in ASKED for word in ("-e", setting)]
    others = ["--encoders", encoded["layer-1"], "--encoders", encoded["layer-0"]]
    words = ["emotionrankclap", "clap_sce", *others, "--seeds", "2", "--out", tmp_path / "c", *OPTIONS, *asked]
    result = run_command(compare_methods, encoded["layer-2"], *words, "--json")
    assert result.exit_code == 0, result.output
    methods = json.loads(result.stdout)["methods"]
    rows = [f"{method}@layer-{layer}" for layer in (2, 1, 0) for method in ("emotionrankclap", "clap_sce")]
    assert list(methods) == rows
    for layer in (0, 1, 2):
        run = open_run(tmp_path / "c" / f"layer-{layer}" / "clap_sce")
        assert run.about["stores"] == str(encoded[f"layer-{layer}"])
        alone = compare(
            encoded[f"layer-{layer}"], methods=["clap_sce"], seeds=2, overrides=SETTINGS, evaluation=ASKED,
            out=tmp_path / f"alone-{layer}",
        )[0]["methods"]["clap_sce"]  # fmt: skip
        assert alone["ordinality"] == methods[f"clap_sce@layer-{layer}"]["ordinality"]
    table = (tmp_path / "c/comparison.md").read_text()
    assert all(f"| {row} " in table for row in rows)
    assert "ceiling" not in table
    assert (tmp_path / "c/report.html").is_file()


def test_other_utterances_are_no_other_encoder(encoded: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--encoders: given with --zero-shot"):
        compare(encoded["layer-2"], encoders=[encoded["layer-1"]], zero_shot_on=[encoded["other"]], out=tmp_path / "a")
    stores = open_stores(encoded["layer-2"])
    other = stores.with_splits([*stores.manifest.split[1:], stores.manifest.split[0]])
    with pytest.raises(UsageError, match="other utterances, splits or labels"):
        compare(other, encoders=[encoded["layer-1"]], out=tmp_path / "b")
    with pytest.raises(UsageError, match="two folders have the same name"):
        compare(
            encoded["layer-2"], encoders=[shutil.copytree(encoded["layer-1"], tmp_path / "x/layer-2")], out=tmp_path
        )


def test_heads_of_two_corpora_are_scored_on_both(encoded: dict[str, Path], tmp_path: Path) -> None:
    words = ["supcon", "-o", "balance=corpus", *OPTIONS, "--out", tmp_path / "run"]
    result = run_command(train_heads, encoded["layer-2"], encoded["other"], *words)
    assert result.exit_code == 0, result.output
    counts = []
    for stores in ("layer-2", "other"):
        options = [word for setting in ASKED for word in ("-o", setting)]
        result = run_command(evaluate_heads, encoded[stores], tmp_path / "run", *options, "--json", "--no-report")
        assert result.exit_code == 0, result.output
        counts.append(json.loads(result.stdout)["utterances"])
    assert counts == [16, 16]
    run = open_run(tmp_path / "run")
    with pytest.raises(UsageError, match="one folder of stores to search"):
        search(run, "calm")
    for stores in ("layer-2", "other"):
        hits = search(run, "calm", stores=encoded[stores], split="all", top=64)[0]
        assert [hit["trained_on"] for hit in hits] == [hit["split"] == "train" for hit in hits]
        assert {hit["split"] for hit in search(run, "calm", stores=encoded[stores], top=64)[0]} == {"dev", "test"}


def test_several_stores_are_compared_on_as_one_corpus(encoded: dict[str, Path], tmp_path: Path) -> None:
    both = [encoded["layer-2"], encoded["other"]]
    summary, _ = compare(both, methods=["supcon"], seeds=1, overrides=SETTINGS, evaluation=ASKED, out=tmp_path / "c")
    assert summary["methods"]["supcon"]["utterances"] == 32
    asked = [word for setting in ASKED for word in ("-e", setting)]
    words = ["supcon", "--folds", "3", "--seeds", "1", "--out", tmp_path / "folds", *OPTIONS, *asked, "--json"]
    result = run_command(compare_methods, *both, *words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["utterances"] == 128


def test_two_methods_for_one_run_are_refused(encoded: dict[str, Path], tmp_path: Path) -> None:
    result = run_command(train_heads, encoded["layer-2"], "supcon", "clap_sce", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "2 methods; expected one" in result.stderr


def test_vectors_of_two_encoders_lie_side_by_side(encoded: dict[str, Path], tmp_path: Path) -> None:
    named = f"{encoded['layer-2']},{encoded['layer-0']}"
    result = run_command(train_heads, named, "supcon", *OPTIONS, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    run = open_run(tmp_path / "run")
    assert run.about["stores"] == named
    both, rows = run.stores(), np.array([7, 0, 50])
    parts = [open_stores(folder).audio.read(rows)[0] for folder in named.split(",")]
    assert (both.audio.read(rows)[0] == np.concatenate(parts, 1)).all()
    assert both.audio.scan().all()
    assert run.heads().input_dims == (768, 384)
    evaluate = [*(word for setting in ASKED for word in ("-o", setting)), "--json", "--no-report"]
    result = run_command(evaluate_heads, named, run.folder, *evaluate)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["stores"] == named
    for stores in (encoded["layer-2"], f"{encoded['layer-0']},{encoded['layer-2']}"):
        assert run_command(evaluate_heads, stores, run.folder, *evaluate).exit_code == 4
    assert len(search(run, "calm", top=3)[0]) == 3
    with pytest.raises(UsageError, match="side by side"):
        EmotionRankCLAP.from_pretrained(run.folder)


def test_a_row_that_one_encoder_failed_is_not_done(encoded: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(encoded["layer-1"], tmp_path / "failed")
    with StoreWriter(open_stores(folder).audio) as writer:
        writer.fail(3, "too long")
    both, rows = open_stores(f"{encoded['layer-2']},{folder}"), np.arange(5)
    vectors, done = both.audio.read(rows)
    assert both.audio.done(rows).tolist() == done.tolist() == [True, True, True, False, True]
    assert not vectors[3].any()  # also the part that the other encoder has
    assert both.audio.scan()[:5].tolist() == [DONE, DONE, DONE, FAILED, DONE]
