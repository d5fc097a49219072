"""Both tables of the paper for several methods: who is best, who is worse by more than chance, and by which rules."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import UsageError
from pipeline.evaluation.comparison import comparison_tables, paper_tables


def entry(values: np.ndarray, key: str, convention: str) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)),
        "seed_std": 0.01,
        key: values.tolist(),
        "convention": convention,
    }


def result(tau: float, distance: float, seed: int, **changes: Any) -> dict[str, Any]:
    drawn = np.random.default_rng(seed)
    lists, trials = 0.1 * drawn.standard_normal((2, 50)), 0.002 * drawn.standard_normal((2, 30))
    return {
        "split": "test1",
        "utterances": 34_963,
        "ordinality": {
            "aoc": entry(tau + lists[0], "taus", "tau-b of arousal"),
            "voc": entry(tau + 0.1 + lists[1], "taus", "tau-b of valence"),
        },
        "alignment": {
            "mmd": entry(distance + trials[0], "values", "MMD, k = exp(-gamma |x - y|^2)"),
            "wasserstein": entry(distance + trials[1], "values", "exact & Euclidean"),
            "trials": 30,
            "pairs": 5000,
        },
        "seeds": {"0": {}},
        **changes,
    }


def three() -> dict[str, dict[str, Any]]:
    """`erc` is best throughout, `close` hardly worse, `far` clearly."""
    return {"far": result(0.2, 0.3, 1), "erc": result(0.55, 0.1, 2), "close": result(0.549, 0.1001, 3)}


def row_of(text: str, method: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(f"| {method} |")).strip("| ").split(" | ")


def test_the_best_is_bold_and_the_clearly_worse_are_marked() -> None:
    tables = comparison_tables(three())
    alignment, ordinality = tables.tables
    assert (alignment.name, ordinality.name) == ("alignment", "ordinality")
    for table in tables.tables:
        for column in table.columns:
            cells = {method: row[column.key] for method, row in table.rows.items()}
            assert cells["far"].worse
            assert not cells["far"].best
            first = max if column.better == "higher" else min
            top = first(cells, key=lambda method: cells[method].mean)
            assert [method for method, cell in cells.items() if cell.best] == [top]
            assert not cells["erc"].worse
            assert not cells["close"].worse
            assert cells[top].test is None
    assert tables.tables[1].rows["far"]["aoc"].test.corrected < 1e-6


def test_markdown_shows_mean_and_std_bold_and_marks() -> None:
    text = comparison_tables({"far": result(0.2, 0.3, 1), "erc": result(0.55, 0.1, 2)}).markdown()
    assert "| method | MMD ↓ | Wasserstein ↓ |" in text
    assert "| method | AOC ↑ | VOC ↑ |" in text
    far = result(0.2, 0.3, 1)["alignment"]["mmd"]
    assert row_of(text, "far")[1] == f"{far['mean']:.4f} ± {far['std']:.4f} †"
    best = result(0.55, 0.1, 2)["alignment"]["mmd"]
    assert row_of(text, "erc")[1] == f"**{best['mean']:.4f} ± {best['std']:.4f}**"
    assert "sliced" not in text  # not measured


def test_every_convention_and_the_test_are_written_underneath() -> None:
    text = comparison_tables(three(), test="t").markdown()
    for note in (
        "- MMD (maximum mean discrepancy): MMD, k = exp(-gamma |x - y|^2)",
        "- AOC (arousal ordinal consistency): tau-b of arousal",
        "two-tailed Student's t test over pairs of the same list or trial and seed, Holm-corrected",
        "the pairs are not independent and the p values are optimistic",
        "- chance: 0, a list's std 0.2007",
    ):
        assert note in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seeds": {"0": {}, "1": {}}}, "the seeds differ"),
        (
            {"ordinality": {"aoc": {"mean": 0.1, "std": 0.1, "taus": [0.1] * 9, "convention": "tau-b of arousal"}}},
            "the numbers of values differ",
        ),
        (
            {"ordinality": {"aoc": {"mean": 0.1, "std": 0.1, "taus": [0.1] * 50, "convention": "tau-a"}}},
            "the conventions differ",
        ),
    ],
)
def test_what_cannot_be_paired_is_not_tested_and_says_so(change: dict[str, Any], reason: str) -> None:
    table = comparison_tables({"a": result(0.5, 0.1, 1), "b": result(0.1, 0.3, 2, **change)}).tables[1]
    assert f"AOC: not tested, {reason}" in table.notes
    assert table.rows["b"]["aoc"].test is None
    assert not table.rows["b"]["aoc"].worse
    assert table.rows["a"]["aoc"].best


def test_conventions_that_differ_are_given_by_name() -> None:
    other = result(0.1, 0.3, 2)
    other["ordinality"]["aoc"]["convention"] = "tau-a"
    notes = comparison_tables({"a": result(0.5, 0.1, 1), "b": other}).tables[1].notes
    assert "AOC (arousal ordinal consistency) of a: tau-b of arousal" in notes
    assert "AOC (arousal ordinal consistency) of b: tau-a" in notes


def test_recognition_has_nothing_to_pair_and_says_so() -> None:
    figures = {"war": 0.5, "uar": {"mean": 0.5, "std": 0.1}, "convention": "nearest prompt"}
    found = {name: result(0.5, 0.1, 1) | {"recognition": figures} for name in "ab"}
    notes = comparison_tables(found).tables[2].notes
    assert [note for note in notes if "not tested" in note] == [
        f"{measure}: not tested, it has no lists or trials to pair; the std is over seeds" for measure in ("WAR", "UAR")
    ]


def test_a_measure_that_a_method_lacks_is_a_dash() -> None:
    half = result(0.1, 0.3, 2)
    del half["ordinality"]["voc"]
    text = comparison_tables({"a": result(0.5, 0.1, 1), "half": half}).markdown()
    assert row_of(text.split("Ordinality")[1], "half")[2] == "-"


def test_one_method_alone_is_best_and_untested() -> None:
    for table in comparison_tables({"only": result(0.5, 0.1, 1)}).tables:
        assert all(cell.best and cell.test is None for cell in table.rows["only"].values())
        assert not any("not tested" in note or "†" in note for note in table.notes)


def test_equally_good_methods_are_both_bold() -> None:
    table = comparison_tables({"a": result(0.5, 0.1, 1), "b": result(0.5, 0.1, 1)}).tables[0]
    assert all(row["mmd"].best and not row["mmd"].worse for row in table.rows.values())


def test_recognition_has_a_table_of_its_own_from_one_figure_or_several_seeds() -> None:
    figure = {"war": 0.7, "uar": 0.65, "convention": "zero-shot", "n": 100}
    seeds = {"war": {"mean": 0.8, "std": 0.02}, "uar": {"mean": 0.6, "std": 0.01}, "convention": "zero-shot"}
    found = {"a": result(0.5, 0.1, 1, recognition=figure), "b": result(0.4, 0.2, 2, recognition=seeds)}
    text = comparison_tables(found).markdown().split("Zero-shot")[1]
    assert row_of(text, "a") == ["a", "0.700", "**0.650**"]
    assert row_of(text, "b") == ["b", "**0.800 ± 0.020**", "0.600 ± 0.010"]
    assert "- WAR (weighted average recall): zero-shot" in text


def unescaped(text: str, char: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(char)}", text))


def test_latex_is_escaped_balanced_and_has_a_cell_for_each_column() -> None:
    names = three()
    names["50%_of&{all}#1~^\\$"] = names.pop("close")
    text = comparison_tables(names).latex()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for part in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(part) == 2
    assert r"50\%\_of\&\{all\}\#1\textasciitilde{}\textasciicircum{}\textbackslash{}\$" in text
    assert unescaped(text, "{") == unescaped(text, "}")
    assert unescaped(text, "$") % 2 == 0
    for char in "%#_^~":
        assert char not in re.sub(r"\\.|\$[^$]*\$|\\label\{[^}]*\}", "", text)
    assert text.isascii()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2 * (1 + 3)
    assert all(unescaped(line, "&") == 2 for line in rows)
    assert re.search(r"erc & \\textbf\{0\.\d+ \$\\pm\$ 0\.\d+\}", text)
    assert re.search(r"far & 0\.\d+ \$\\pm\$ 0\.\d+ \$\^\\dagger\$", text)


def test_csv_and_json_hold_the_figures_in_full_with_the_tests() -> None:
    results = three()
    tables = comparison_tables(results)
    rows = {(r["method"], r["measure"]): r for r in csv.DictReader(io.StringIO(tables.csv()))}
    assert len(rows) == 3 * 4
    far = rows["far", "aoc"]
    assert float(far["mean"]) == results["far"]["ordinality"]["aoc"]["mean"]
    assert (far["table"], far["worse"], far["best"], far["pairs"]) == ("ordinality", "True", "False", "50")
    back = json.loads(json.dumps(tables.as_json(), allow_nan=False))
    assert back["ordinality"]["rows"]["far"]["aoc"]["p_corrected"] == float(far["p_corrected"]) < 0.05
    assert back["ordinality"]["rows"]["far"]["aoc"]["against"] in ("erc", "close")
    assert back["alignment"]["notes"] == list(tables.tables[0].notes)


def test_other_splits_or_nothing_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="split test1 of a, test2 of b"):
        comparison_tables({"a": result(0.5, 0.1, 1), "b": result(0.4, 0.2, 2, split="test2")})
    with pytest.raises(UsageError, match="0 methods without a result"):
        comparison_tables({})


def test_the_papers_own_figures_are_a_table_apart_that_says_whose_they_are() -> None:
    paper = paper_tables()
    text = paper.markdown()
    assert row_of(text, "EmotionRankCLAP") == ["EmotionRankCLAP", "**0.0870 ± 0.0010**", "**0.0650 ± 0.0070**"]
    assert row_of(text, "CLAP4Emo") == ["CLAP4Emo", "0.284 ± 0.200", "0.533 ± 0.140"]
    for table in paper.tables:
        assert table.title.startswith("The paper's figures, not ours.")
        assert "not to be compared" in table.notes[0]
        assert table.name.startswith("paper_")
