"""What stands in the report of an evaluation is what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.captions import Prompt
from cache.pairs import cached_pairs
from pipeline.commands.evaluate_heads import main as evaluate_heads
from pipeline.evaluation.readout import ReadOut
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.report.evaluation_report import EVALUATION_FIGURES, evaluation_report
from pipeline.evaluation.report.figures import mean_labels_retrieved
from pipeline.evaluation.report.projections import UMAP, modality_gap, principal_components
from pipeline.training.run_folder import open_run
from tests.evaluation.report.conftest import SHORT, Page, result_of, rows_of
from tests.stage_two import run_command, tree, unlisted

PLAIN = [name for name in EVALUATION_FIGURES if name != UMAP]  # what there is where UMAP is not installed


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_the_figures_data_are_those_of_the_run(run: Path) -> None:
    found = rows_of(run, "curves")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [{name: float(row[name]) for name in row} | {"threads": 1} for row in found] == lines
    taus = [tau for seed in result_of(run)["seeds"].values() for tau in seed["ordinality"]["voc"]["taus"]]
    assert [float(row["tau"]) for row in rows_of(run, "kendall_tau") if row["test"] == "voc"] == taus
    assert len(rows_of(run, "retrieval")) == 49
    counts = [int(row["utterances"]) for row in rows_of(run, "confusion")]
    assert counts == list(np.ravel(zero_shot(run, split="test")["confusion"]))
    assert sum(counts) == 2 * 40
    projected = rows_of(run, "projection")
    assert len(projected) == 4 * 40
    assert {row["panel"] for row in projected} == {"speech before", "text before", "both after"}


def test_every_measure_stands_with_each_of_its_spreads(run: Path) -> None:
    result = result_of(run)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    for measures in (result["ordinality"], result["alignment"]):
        for name, entry in measures.items():
            if isinstance(entry, dict):
                place = page.words.index(f"{entry['mean']:.4f}")
                row = [words.strip() for words in page.words[place : place + 12] if words.strip()]
                assert row[:3] == [f"{entry[key]:.4f}" for key in ("mean", "std", "list_std")], name
                assert row[3:5] == ["-", "-"]  # no speaker is known


def test_retrieval_and_read_out_stand_beside_the_frozen_vectors_and_chance(run: Path) -> None:
    words = [words.strip() for words in Page((run / "report.html").read_text(encoding="utf-8")).words if words.strip()]
    entry = result_of(run)["retrieval"]["speech_to_text_r10"]
    place = words.index("speech to text, hit among the first 10, % ↑ [3]")
    figures = [100 * entry[key] for key in ("mean", "std", "chance")]
    assert words[place + 1 : place + 4] == [f"{figures[0]:.1f} ± {figures[1]:.1f}", "-", f"{figures[2]:.1f}"]
    frozen = ReadOut(open_run(run).stores(), "test", torch.device("cpu")).measure(lambda vectors: vectors)
    [place] = [
        number for number, text in enumerate(words) if text.startswith("category by a linear probe, mean recall")
    ]
    assert words[place + 2] == f"{100 * frozen['category_uar']:.1f}"


def test_the_gap_is_the_distance_of_the_centroids_for_every_seed(run: Path) -> None:
    opened = open_run(run)
    stores = opened.stores()
    pairs = cached_pairs(stores, "test", style="dimensional")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    gaps = []
    for seed in opened.seeds:
        heads = opened.heads(seed)
        with torch.no_grad():
            speech = heads.embed_speech(pairs.speech).double().numpy()
            text = heads.embed_text(pairs.text).double().numpy()
        first = [text[pairs.caption[pairs.offsets[i]]] for i in range(len(pairs))]
        gaps.append(float(np.sqrt(((speech.mean(0) - np.mean(first, 0)) ** 2).sum())))
        assert any(f"seed {seed}: {gaps[-1]:.3f}" in words for words in page.words)
    assert any(f"Modality gap {np.mean(gaps):.3f} ± {np.std(gaps, ddof=1):.3f}" in words for words in page.words)


def test_the_gap_of_known_points_is_known() -> None:
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert modality_gap(east, north) == pytest.approx(2**0.5)
    assert modality_gap(torch.cat([east, north]), torch.cat([north, east])) == 0
    assert modality_gap(torch.cat([east, east, north]), north) == pytest.approx(8**0.5 / 3)


def test_the_projection_is_onto_the_two_largest_components() -> None:
    drawn = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.2])
    found = principal_components(drawn)
    left, sizes, _ = np.linalg.svd((drawn - drawn.mean(0)).double().numpy(), full_matrices=False)
    expected = (left * sizes)[:, :2]
    assert np.allclose(np.abs(found.points.numpy()), np.abs(expected), atol=1e-4)
    assert found.shares == pytest.approx(tuple((sizes**2 / (sizes**2).sum())[:2]), rel=1e-4)
    assert np.corrcoef(found.points[:, 0], drawn[:, 1])[0, 1] > 0.9  # and not mirrored


def test_vectors_of_one_dimension_lie_on_a_line() -> None:
    found = principal_components(torch.tensor([[1.0], [3.0], [5.0]]))
    assert found.points.tolist() == [[-2, 0], [0, 0], [2, 0]]
    assert found.shares == (1.0, 0.0)


def test_a_prompts_point_stands_beside_the_mean_of_its_nearest_labelled_utterances() -> None:
    angles = torch.tensor([0.1, 0.2, 0.0, 1.5, 1.2])
    speech = torch.stack([angles.cos(), angles.sin()], 1).double()
    labels = torch.tensor([[1.0, 2.0], [3.0, 6.0], [float("nan"), 7.0], [5.0, 5.0], [7.0, 4.0]], dtype=torch.float64)
    east, north = [1.0, 0.0], [0.0, 1.0]
    asked = torch.tensor([east, east, north, east], dtype=torch.float64)
    points = [(2.0, 2.0, 0), (3.0, 2.0, 0), (3.0, 2.0, 1), (2.5, 2.0, 0)]  # the last is no whole point
    prompts = [Prompt("dimensional", f"{point}", *point) for point in points]
    # east finds (1, 2) and (3, 6), north (5, 5) and (7, 4); two paraphrases ask for (3, 2)
    assert mean_labels_retrieved(speech, labels, prompts, asked, top=2) == [
        (2.0, 2.0, 2.0, 4.0, 1),
        (3.0, 2.0, 4.0, 4.25, 2),
    ]


def test_a_report_changes_no_file_of_the_run_and_again_gives_the_same_bytes(copied: Path) -> None:
    before = tree(copied)
    evaluation_report(copied, result_of(copied))
    assert tree(copied) == before
    assert {path.name for path in (copied / "report").iterdir()} == {
        f"{name}.{suffix}" for name in PLAIN for suffix in ("csv", "svg", "png")
    }


def test_without_matplotlib_the_report_has_no_figures_and_a_line_says_why(
    copied: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation_report(copied, result_of(copied))
    logged = capsys.readouterr().err.splitlines()
    assert [line for line in logged if line.startswith("matplotlib")] == [
        "matplotlib is not installed: the report has no figures (pip install 'emotionrankclap[report]')"
    ]
    assert {path.suffix for path in (copied / "report").iterdir()} == {".csv"}
    page = Page((copied / "report.html").read_text(encoding="utf-8"))
    assert "svg" not in page.tags
    assert page.tags.count("table") == 5


@pytest.mark.parametrize("contents", ["", '{"epoch": 1}\n{"epoch": 2}\n'])
def test_corrupt_metrics_cost_their_figure_and_nothing_else(copied: Path, undrawn: None, contents: str) -> None:
    (copied / "seeds/1/metrics.jsonl").write_text(contents)
    unlisted(copied)
    evaluation_report(copied, result_of(copied))
    page = Page((copied / "report.html").read_text(encoding="utf-8"))
    assert any("Left out: " in words and "metrics.jsonl" in words for words in page.words)
    assert {path.name for path in (copied / "report").iterdir()} == {
        f"{name}.csv" for name in PLAIN if name != "curves"
    }
    assert page.tags.count("figure") == 4


def test_the_command_writes_a_report_unless_no_report_is_given(copied: Path, undrawn: None) -> None:
    stores = open_run(copied).about["stores"]
    words = [word for setting in SHORT for word in ("-o", setting)]
    (copied / "report.html").unlink()
    without = run_command(evaluate_heads, stores, copied, *words, "--no-report", "--json")
    assert not (copied / "report.html").exists()
    done = run_command(evaluate_heads, stores, copied, *words, "--json")
    assert (copied / "report.html").stat().st_size > 10_000
    assert json.loads(done.stdout) == json.loads(without.stdout)
    assert f"report: {copied / 'report.html'}" in done.stderr
