"""Results as DataFrames: the figures of the JSON, a row a method and measure, and the same figures by scipy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.core.errors import UsageError
from pipeline.evaluation.data_frames import ComparisonResult, EvaluationResult, SweepResult
from pipeline.evaluation.evaluate import evaluate, evaluated
from pipeline.experiments.compare import compare
from pipeline.experiments.cross_validation import cross_validate
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.planted import plant
from tests.stage_two import SETTINGS

pytest.importorskip("pandas", reason="pandas is not installed (extra pandas)")
SHORT = ["trials=2", "lists=14", "projections=2", "pairs=8", "bootstrap=50"]
SIZES = {"audio_width": 6, "text_width": 5, "styles": ("dimensional", "template", "acoustic"), "speakers": 5}


@pytest.fixture(scope="module")
def run(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(small, out=tmp_path_factory.mktemp("frames") / "run", seeds=3, overrides=SETTINGS)


@pytest.fixture(scope="module")
def result(run: Run) -> EvaluationResult:
    return evaluate(run, overrides=SHORT)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    splits = {"train": 48, "dev": 24, "test": 24}
    return plant(tmp_path_factory.mktemp("planted") / "stores", splits, **SIZES)


@pytest.fixture(scope="module")
def summary(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> ComparisonResult:
    out = tmp_path_factory.mktemp("compared")
    methods = ["clap_sce", "supcon"]
    return compare(planted, methods=methods, seeds=5, overrides=SETTINGS, evaluation=SHORT, out=out)[0]


def test_the_curves_of_a_run_are_its_metrics_file(run: Run) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics.to_dict("records") == lines
    assert list(run.metrics["seed"].unique()) == [0, 1, 2]


def test_an_evaluation_is_a_row_a_measure_with_the_interval_that_scipy_gives(result: EvaluationResult) -> None:
    table = result.table().set_index("measure")
    for test in ("ordinality", "alignment", "retrieval", "readout"):
        for measure, entry in result[test].items():
            if not isinstance(entry, dict) or measure.startswith("gap_"):
                continue
            row, values = table.loc[measure], entry["seed_values"]
            assert (row["test"], row["mean"], row["seeds"]) == (test, entry["mean"], 3)
            low, high = (
                stats.t.interval(0.95, 2, np.mean(values), stats.sem(values)) if np.ptp(values) else (values[0],) * 2
            )
            assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-12)
            assert row["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert table.loc["aoc", "name"] == "AOC (arousal ordinal consistency)"
    assert (table.loc["aoc", "chance"], table.loc["aoc", "better"], table.loc["mmd", "better"]) == (
        0,
        "higher",
        "lower",
    )
    r10 = "speech_to_text_r10"
    assert (table.loc[r10, "chance"], table.loc[r10, "name"]) == (
        result["retrieval"][r10]["chance"],
        "speech to text, hit among the first 10",
    )
    assert table.loc["speech_to_text_median_rank", "better"] == "lower"


def test_results_are_plain_json_and_a_table_of_what_was_read_back_is_the_same(
    run: Run, result: EvaluationResult, summary: ComparisonResult
) -> None:
    assert json.loads(json.dumps(result)) == result
    again = evaluated(run, run.stores(), overrides=SHORT)
    assert again is not None
    assert again.table().equals(result.table())
    assert ComparisonResult(json.loads(json.dumps(summary))).pairs().equals(summary.pairs())


def test_a_comparison_is_a_row_a_method_and_measure_with_chance_beside_it(summary: ComparisonResult) -> None:
    table = summary.table()
    wide = table.pivot(index="method", columns=["test", "measure"], values="mean")
    for method, found in summary["methods"].items():
        assert wide.loc[method, ("ordinality", "voc")] == found["ordinality"]["voc"]["mean"]
        assert wide.loc[method, ("recognition", "uar")] == found["recognition"]["uar"]["mean"]
    assert {"ceiling", "labels", "chance"} <= set(table["method"])
    uar = table[table["measure"] == "uar"]
    assert set(uar["chance"]) == {summary["references"]["chance"]["recognition"]["uar"]["mean"]}


def test_the_pairs_of_a_comparison_have_welchs_p(summary: ComparisonResult) -> None:
    pairs = summary.pairs()
    [row] = pairs.query("test == 'ordinality' and measure == 'voc' and over == 'seeds'").to_dict("records")
    a, b = (summary["methods"][row[name]]["ordinality"]["voc"]["seed_values"] for name in ("method", "other"))
    assert row["p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, abs=1e-12)
    assert row["p_corrected"] == row["p"]  # one pair
    assert row["difference"] == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)


def test_folds_have_the_spreads_of_folds_and_of_seeds(planted: Any, tmp_path: Path) -> None:
    shared = {"methods": ["clap_sce"], "seeds": 2, "overrides": SETTINGS, "evaluation": SHORT, "out": tmp_path}
    folds, _ = cross_validate(planted, folds=3, **shared)
    table = folds.table().set_index(["method", "measure"])
    found = folds["methods"]["clap_sce"]["recognition"]
    for measure, entry in (("uar", found["uar"]), ("pooled_uar", found["pooled"]["uar"])):
        row = table.loc[("clap_sce", measure)]
        assert (row["mean"], row["seed_std"], row["chance"]) == (entry["mean"], entry["seed_std"], found["chance"])
    assert table.loc[("clap_sce", "uar"), "fold_std"] == found["uar"]["fold_std"]
    assert table.loc[("clap_sce", "pooled_uar"), "name"] == "UAR, pooled (unweighted average recall)"
    assert folds.pairs().empty  # of one method


def test_the_trials_of_a_sweep_have_their_settings_as_columns() -> None:
    trial = {"number": 1, "state": "complete", "rung": None, "score": 0.5, "rungs": {"1": 0.4}}
    trials = [trial | {"params": {"learning_rate": 1e-3}}, trial | {"number": 0, "params": {"method": "supcon"}}]
    table = SweepResult(trials=trials).table()
    assert list(table.columns) == ["number", "state", "rung", "score", "learning_rate", "method"]
    assert table["learning_rate"].tolist()[0] == 1e-3
    assert table["method"].isna().tolist() == [True, False]


def test_without_pandas_a_line_names_the_extra(
    run: Run, result: EvaluationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (result.table, lambda: run.metrics):
        with pytest.raises(UsageError, match=r"pandas is not installed; .* pip install 'emotionrankclap\[pandas\]'"):
            table()
