"""What stands in the report of a comparison, or of folds, is what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.stores import Stores
from pipeline.evaluation.cells import Cell, SpeakerSpread, Table
from pipeline.evaluation.comparison import comparison_tables
from pipeline.evaluation.measures import BOUNDS, OF_TRANSCRIPTS, Column
from pipeline.evaluation.report.comparison_report import comparison_report, folds_report
from pipeline.evaluation.report.figures import confusion_figure, measures_figure
from pipeline.evaluation.report.page import Section, write_page
from pipeline.experiments.cross_validation import cross_validate
from tests.evaluation.report.conftest import HOSTILE, SETTINGS, SHORT, STYLES, Page, rows_of
from tests.evaluation.results import bound, result
from tests.planted import plant

METHODS = {"clap_sce", "supcon"}


def test_the_dots_are_the_cells_of_the_comparison_with_every_bound(compared: Path) -> None:
    summary = json.loads((compared / "comparison.json").read_text())
    for name, table in summary["tables"].items():
        found = rows_of(compared, f"measures_{name}")
        assert {(row["method"], row["measure"]) for row in found} == {
            (method, measure) for method, row in table["rows"].items() for measure in row
        }
        for row in found:
            cell = table["rows"][row["method"]][row["measure"]]
            for key in ("mean", "std", "low", "high", "list_std", "best"):
                assert row[key] == ("" if cell[key] is None else str(cell[key]))
        assert METHODS <= table["rows"].keys() <= METHODS | set(BOUNDS)
        assert ("chance" in table["rows"]) == (name != "alignment")
        assert table["rows"]["supcon"].keys() == table["rows"]["clap_sce"].keys()
    assert set(BOUNDS) - set(OF_TRANSCRIPTS) <= summary["tables"]["ordinality"]["rows"].keys()
    cell = summary["tables"]["ordinality"]["rows"]["supcon"]["aoc"]
    assert cell["low"] < cell["mean"] < cell["high"]


def test_confusions_are_those_of_each_corpus(compared: Path) -> None:
    methods = json.loads((compared / "comparison.json").read_text())["methods"]
    for name, of in (("confusion_0", "recognition"), ("confusion_1", "zero_shot")):
        for method in METHODS:
            found = methods[method][of][0] if of == "zero_shot" else methods[method][of]
            counts = [int(row["utterances"]) for row in rows_of(compared, name) if row["method"] == method]
            assert counts == list(np.ravel(found["confusion"]))


def test_a_corpus_whose_folder_is_markup_is_text(compared: Path) -> None:
    page = Page((compared / "report.html").read_text(encoding="utf-8"))
    assert "b" not in page.tags
    assert any("<b>other" in words for words in page.words)


def test_the_foot_names_every_fingerprint_and_setting(compared: Path) -> None:
    words = set(Page((compared / "report.html").read_text(encoding="utf-8")).words)
    assert {"fingerprint.audio.encoder.encoder", "fingerprint.text.encoder.encoder", "planted"} <= words
    assert {f"{method}: evaluation.mmd_gamma" for method in METHODS} <= words


def test_a_comparison_of_less_leaves_no_figure_of_the_one_before(compared: Path, undrawn: None, tmp_path: Path) -> None:
    out = Path(shutil.copytree(compared, tmp_path / "out"))
    summary = json.loads((out / "comparison.json").read_text())
    (out / "report/mine.csv").write_text("kept")
    for found in (*summary["methods"].values(), *summary["references"].values()):
        found["zero_shot"] = []
    comparison_report(out, summary, next(iter(summary["methods"].values()))["stores"])
    left = {path.name for path in (out / "report").iterdir()}
    assert {"measures_alignment.csv", "confusion_0.csv"} <= left
    assert "mine.csv" in left
    assert not [name for name in left if "_1." in name or not name.endswith(".csv")]


def test_hostile_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    found = {"classes": [HOSTILE, "sad"], "confusion": [[1, 0], [2, 3]], "uar": {"mean": 0.5}, "convention": HOSTILE}
    found |= {"chance": 0.5, "n": 6}
    figure = confusion_figure("confusion", HOSTILE, {HOSTILE: found})
    write_page("x", "x", [Section("x", figures=[figure])], tmp_path / "report.html", ["confusion"])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert sum("$ 悲しい<script" in words for words in page.words) >= 4  # title and both axes


@pytest.mark.parametrize("number", [1e308, 1e-300, 0.0])
def test_numbers_of_any_size_are_drawn_or_left_out(tmp_path: Path, number: float) -> None:
    spread = SpeakerSpread(5, number, number, number, [number])
    cells = {"edited": {"mmd": Cell(number, number, speakers=spread, best=True)}, "other": {"mmd": Cell(0.5, 0.1)}}
    table = Table("alignment", "x", (Column("mmd", "MMD", "discrepancy", "no unit", "lower", 4),), cells, ())
    write_page("x", "x", [Section("x", figures=[measures_figure(table)])], tmp_path / "report.html", [])
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).tags.count("svg") == 1
    assert [float(row["mean"]) for row in rows_of(tmp_path, "measures_alignment")] == [number, 0.5]


def folded(folder: Path, **settings: Any) -> Stores:
    splits = {"train": 60, "dev": 16}
    stores = plant(folder, splits, audio_width=6, text_width=5, **{"styles": STYLES, "grid": True, **settings})
    stores.manifest.speaker[:] = [f"s{row % 4}" for row in range(76)]
    return stores


def test_folds_have_a_report_of_every_table_and_of_the_summed_confusions(undrawn: None, tmp_path: Path) -> None:
    stores, out = folded(tmp_path / "stores"), tmp_path / "out"
    options = {"methods": ["clap_sce", "supcon"], "seeds": 2, "overrides": SETTINGS, "evaluation": SHORT}
    summary, _ = cross_validate(stores, out=out, folds=3, **options)
    folds_report(out, summary, stores)
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    names = {"measures_ordinality", "measures_alignment", "measures_recognition", "confusion"}
    assert page.tags.count("figure") == len(names)
    assert {path.stem for path in (out / "report").iterdir()} == names
    for name in ("ordinality", "alignment", "recognition"):
        rows = rows_of(out, f"measures_{name}")
        assert {row["method"] for row in rows} == summary["tables"][name]["rows"].keys() >= METHODS
        for row in (row for row in rows if row["method"] in METHODS):
            cell = summary["tables"][name]["rows"][row["method"]][row["measure"]]
            assert float(row["mean"]) == cell["mean"]
            assert row["low"] == ("" if "pooled" in row["measure"] else str(cell["low"]))
    for method in METHODS:
        counts = [int(row["utterances"]) for row in rows_of(out, "confusion") if row["method"] == method]
        assert counts == list(np.ravel(summary["methods"][method]["recognition"]["confusion"]))
    assert all(any(note in words for words in page.words) for note in summary["notes"])
    words = set(page.words)
    assert {
        "fingerprint.audio.encoder.encoder",
        "planted",
        "clap_sce: training.batch_size",
        "evaluation.lists",
    } <= words


def test_folds_without_recognition_have_a_report_and_leave_no_figure_of_before(undrawn: None, tmp_path: Path) -> None:
    stores, out = folded(tmp_path / "stores", styles=("dimensional",)), tmp_path / "out"
    (out / "report").mkdir(parents=True)
    for name in ("confusion", "measures_recognition", "mine"):
        (out / f"report/{name}.csv").write_text("of before")
    summary, _ = cross_validate(
        stores, out=out, folds=3, methods=["clap_sce"], seeds=1, overrides=SETTINGS, evaluation=SHORT
    )
    folds_report(out, summary, stores)
    assert {path.stem for path in (out / "report").iterdir()} == {"measures_ordinality", "measures_alignment", "mine"}


def test_a_figure_says_what_its_lines_are_over_and_draws_bounds_apart(tmp_path: Path) -> None:
    rows = {"a": result(0.5, 0.1, 1), "b": result(0.2, 0.3, 2), "ceiling": bound(0.7, "the true point asked")}
    order, _, apart = map(measures_figure, comparison_tables(rows).tables)
    for part in (
        "95 % intervals of the mean over seeds",
        "95 % of the resamples of speakers",
        "Grey diamonds",
        "†",
        "‡",
    ):
        assert part in order.caption
    assert "speakers" not in apart.caption
    assert "diamonds" not in apart.caption
    write_page("x", "x", [Section("x", figures=[order, apart])], tmp_path / "report.html", [])
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).tags.count("svg") == 2
    assert "‡" in (tmp_path / "report/measures_ordinality.svg").read_text(encoding="utf-8")
