"""The figure by UMAP is UMAP's own layout of the run's vectors, and is nowhere where umap-learn is not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.pairs import cached_pairs
from pipeline.evaluation.report.evaluation_report import evaluation_report
from pipeline.training.run_folder import open_run
from tests.evaluation.report.conftest import Page, result_of, rows_of
from tests.stage_two import tree


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_where_it_is_not_installed_nothing_is_drawn_and_nothing_logged(
    copied: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "report/umap.svg").write_text("of a report before")
    evaluation_report(copied, result_of(copied))
    assert "umap" not in capsys.readouterr().err.lower()
    assert "UMAP" not in (copied / "report.html").read_text(encoding="utf-8")
    assert not list((copied / "report").glob("umap.*"))


@pytest.mark.slow
def test_the_layout_is_umaps_own_of_the_runs_vectors(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "umap")
    evaluation_report(copied, result_of(copied))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP
    run = open_run(copied)
    pairs = cached_pairs(run.stores(), "test", style="dimensional")
    text = pairs.text[pairs.caption[pairs.offsets[:-1]]]
    heads = run.heads_for(run.stores())
    with torch.no_grad():
        before = heads.standardise(pairs.speech, text)
        after = torch.cat([heads.embed_speech(pairs.speech), heads.embed_text(text)])
    found = rows_of(copied, "umap")
    for panel, vectors in zip(("speech before", "text before", "both after"), (*before, after), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = UMAP(random_state=0, n_jobs=1).fit_transform(vectors.numpy())  # all else UMAP's defaults
        points = [(float(row["first"]), float(row["second"])) for row in found if row["panel"] == panel]
        assert np.array_equal(np.float32(points), expected)
    keys = ("row", "panel", "modality", "valence", "arousal")
    projected = [[row[key] for key in keys] for row in rows_of(copied, "projection")]
    assert [[row[key] for key in keys] for row in found] == projected
    page = Page((copied / "report.html").read_text(encoding="utf-8"))
    assert "figure-umap" in page.values("id")
    assert any("n_neighbors 15" in words and "distances between clusters" in words for words in page.words)


@pytest.mark.slow
def test_another_process_lays_out_the_same_bytes(copied: Path) -> None:
    program = (
        "import json, sys; from pipeline.evaluation.report.evaluation_report import evaluation_report as report\n"
        "report(sys.argv[1], json.load(open(sys.argv[1] + '/evaluation.json')))"
    )
    trees = []
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "error", "-c", program, str(copied)], check=True, capture_output=True)
        trees.append(tree(copied))
    assert "report/umap.svg" in trees[0]
    assert trees[0] == trees[1]


@pytest.mark.slow
def test_of_many_utterances_a_part_is_laid_out_and_of_few_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "umap")
    from pipeline.evaluation.report import projections

    class Pairs:
        def __init__(self, count: int) -> None:
            self.rows, self.labels = np.arange(count) + 7, torch.arange(3.0 * count).view(count, 3)

        def __len__(self) -> int:
            return len(self.rows)

    def panel_vectors(_: object, _pairs: Pairs, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Speech far from text; each utterance on a line at its number."""
        line = rows.float().view(-1, 1)
        return {"speech before": line, "text before": line, "both after": torch.cat([line, line + 1e6])}

    monkeypatch.setattr(projections, "panel_vectors", panel_vectors)
    monkeypatch.setattr(projections, "MAX_UMAP", 60)
    monkeypatch.setattr(projections, "MAX_POINTS", 30)
    assert projections.umap_figure(None, Pairs(15)) is None
    figure = projections.umap_figure(None, Pairs(200))
    assert "60 of 200 utterances are laid out, 30 of them drawn" in figure.caption
    assert len(figure.rows) == 4 * 30
    after = [row for row in figure.rows if row[1] == "both after"]
    assert [row[0] for row in after[:30]] == [row[0] for row in after[30:]] == sorted({row[0] for row in after})
    assert all(row[5:] == (3.0 * (row[0] - 7), 3.0 * (row[0] - 7) + 1) for row in figure.rows)
    sides = [np.array([row[3:5] for row in after if row[2] == side]) for side in ("speech", "text")]
    middle = [side.mean(0) for side in sides]
    spread = max(np.abs(side - side.mean(0)).max() for side in sides)
    assert np.abs(middle[0] - middle[1]).max() > spread / 2  # two islands
