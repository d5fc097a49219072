"""Both tables of the paper for several methods: who is best, who is worse by more than chance, and by which rules."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.core.errors import UsageError
from pipeline.evaluation.cells import Table
from pipeline.evaluation.comparison import comparison_tables, paper_tables
from pipeline.evaluation.significance import holm
from tests.evaluation.results import bound, pooled, result

NAMES = ["ordinality", "word_norms", "alignment"]


def three() -> dict[str, dict[str, Any]]:
    """`erc` is best throughout, `close` hardly worse, `far` clearly."""
    return {"far": result(0.2, 0.3, 1), "erc": result(0.55, 0.1, 2), "close": result(0.549, 0.1001, 4)}


def tables_of(results: dict[str, Any], **options: Any) -> dict[str, Table]:
    return {table.name: table for table in comparison_tables(results, **options).tables}


def row_of(text: str, method: str) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return next(row for row in rows if row[0] == method)


def test_the_best_is_bold_and_the_clearly_worse_are_marked() -> None:
    tables = tables_of(three())
    assert list(tables) == NAMES
    for table in tables.values():
        for column in (column for column in table.columns if column.better):
            cells = {method: row[column.key] for method, row in table.rows.items()}
            first = max if column.better == "higher" else min
            top = first(cells, key=lambda method: cells[method].mean)
            assert [method for method, cell in cells.items() if cell.best] == [top]
            assert cells["far"].worse
            assert cells["far"].worse_on_other_speech == (table.name != "alignment")
            assert not cells["far"].best
            assert not any(cells[name].worse or cells[name].worse_on_other_speech for name in ("erc", "close"))
            assert cells[top].seed_test is None


def test_a_method_is_held_against_the_best_and_corrected_over_all_pairs() -> None:
    results = three()
    table = tables_of(results)["ordinality"]
    values = {name: found["ordinality"]["aoc"]["seed_values"] for name, found in results.items()}
    pairs = list(combinations(values, 2))
    raw = [stats.ttest_ind(values[a], values[b], equal_var=False).pvalue for a, b in pairs]
    [best] = [name for name, row in table.rows.items() if row["aoc"].best]
    test = table.rows["far"]["aoc"].seed_test
    assert (test.method, test.other) == ("far", best)
    assert test.difference == pytest.approx(np.mean(values["far"]) - np.mean(values[best]))
    at = next(i for i, pair in enumerate(pairs) if set(pair) == {"far", best})
    assert test.p == pytest.approx(raw[at], rel=1e-9)
    assert test.corrected == pytest.approx(holm(raw)[at], rel=1e-9)
    assert len(table.tests["aoc"]["seeds"]) == len(table.tests["aoc"]["speakers"]) == 3


def test_better_on_this_test_set_alone_has_one_mark() -> None:
    """Seeds agree, speakers do not: another training would be better here, other speech might not."""
    results = {"a": result(0.50, 0.1, 1), "b": result(0.45, 0.1, 2)}
    for name, found in results.items():
        draws = found["ordinality"]["aoc"]["mean"] + 0.1 * np.random.default_rng(len(name)).standard_normal(200)
        found["ordinality"]["aoc"]["speakers"]["draws"] = (draws if name == "a" else draws[::-1]).tolist()
    cell = tables_of(results)["ordinality"].rows["b"]["aoc"]
    assert cell.marks == "†"
    assert cell.seed_test.p < 0.01
    assert cell.speech_test.p > 0.3


def test_other_speech_is_not_claimed_where_another_training_is_not() -> None:
    """‡ says *too*: without † it stands only where no training has any chance in it."""
    results = {"a": result(0.50, 0.1, 1, noise=0.05), "b": result(0.45, 0.1, 2, noise=0.05)}
    cell = tables_of(results)["ordinality"].rows["b"]["aoc"]
    assert not cell.worse
    assert cell.marks == ""
    closed = {"a": result(0.50, 0.1, 1), "b": result(0.45, 0.1, 2)}
    for found in closed.values():
        entry = found["ordinality"]["aoc"]
        entry |= {"seed_values": [entry["mean"]] * 6, "std": 0.0}
    table = tables_of(closed)["ordinality"]
    assert table.rows["b"]["aoc"].marks == "‡"
    assert table.rows["b"]["aoc"].seed_test is None
    assert "AOC: a and b not tested over seeds, every seed of either gives the same figure" in table.notes


def test_markdown_shows_mean_and_std_over_seeds_bold_and_marks() -> None:
    text = comparison_tables({"far": result(0.2, 0.3, 1), "erc": result(0.55, 0.1, 2)}).markdown()
    assert [row_of(part, "method")[1:] for part in text.split("\n**")] == [
        ["AOC ↑", "VOC ↑"],
        ["AOC ↑", "VOC ↑", "AOC lost", "VOC lost"],
        ["MMD median ↓", "W / median ↓", "MMD ↓", "Wasserstein ↓"],
    ]
    assert len({len(line) for line in text.split("\n\n")[1].splitlines()}) == 1  # aligned
    far, best = result(0.2, 0.3, 1), result(0.55, 0.1, 2)["ordinality"]["aoc"]
    values = far["ordinality"]["aoc"]["seed_values"]
    assert row_of(text, "far")[1] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} †‡"
    assert row_of(text, "erc")[1] == f"**{best['mean']:.3f} ± {best['std']:.3f}**"
    values = far["alignment"]["mmd"]["seed_values"]
    assert row_of(text.split("Alignment")[1], "far")[3] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f} †"
    assert "sliced" not in text  # not measured
    assert "gap" not in text


def test_every_convention_and_the_tests_are_written_underneath() -> None:
    text = comparison_tables(three()).markdown()
    for note in (
        "- MMD: maximum mean discrepancy, kernel of fixed width, from 0 to √2; lower is better [3]",
        "- [3] MMD, k = exp(-gamma |x - y|^2)",
        "- AOC: arousal ordinal consistency, Kendall's tau from -1 to 1; higher is better [1]",
        "- [1] tau-b of arousal",
        "- mean ± std over 6 seeds",
        "- bold: best mean of the methods",
        "- †: other trainings of the best are better too, on this test set; p < 0.05 two-tailed, Holm-corrected over "
        "all pairs of methods of the column, Welch's t over seeds",
        "- ‡: the best is better on other speech too; p < 0.05 two-tailed, Holm-corrected over all pairs of methods of "
        "the column, t by 200 resamples of 12 speakers, paired, with each method's variance over seeds added",
        "- not tested on other speech, no resamples of speakers",
    ):
        assert note in text
    assert "tau-b of arousal" not in comparison_tables(three()).markdown(conventions=False)


def test_few_seeds_are_not_tested_and_the_note_says_so() -> None:
    table = tables_of({"a": result(0.5, 0.1, 1, seeds=4), "b": result(0.1, 0.3, 2, seeds=4)})["ordinality"]
    assert "not tested below 5 seeds (4 of each)" in table.notes
    assert not any(
        cell.marks or cell.seed_test or cell.speech_test for row in table.rows.values() for cell in row.values()
    )
    assert not any("†" in note or "‡" in note for note in table.notes)
    assert table.rows["a"]["aoc"].best
    one = tables_of(three() | {"hasty": result(0.9, 0.01, 4, seeds=1)})["ordinality"]
    assert "not tested below 5 seeds (1 of hasty)" in one.notes
    assert one.rows["hasty"]["aoc"].best  # and nothing is marked as worse than it
    assert one.rows["hasty"]["aoc"].std is None
    assert not any(row["aoc"].marks for row in one.rows.values())
    assert len(one.tests["aoc"]["seeds"]) == 3
    assert "mean ± std over seeds (6 of far, 6 of erc, 6 of close, 1 of hasty)" in one.notes


def test_what_has_other_conventions_or_speakers_is_not_tested_and_says_so() -> None:
    other = result(0.1, 0.3, 2)
    other["ordinality"]["aoc"]["convention"] = "tau-a"
    other["ordinality"]["voc"]["speakers"]["n"] = 11
    table = tables_of({"a": result(0.5, 0.1, 1), "b": other})["ordinality"]
    assert "AOC: not tested, the conventions differ" in table.notes
    assert table.notes[0].endswith("higher is better [1 of a; 2 of b]")
    assert table.conventions == ("tau-b of arousal", "tau-a", "tau-b of valence")
    assert table.rows["b"]["aoc"].marks == ""
    assert "VOC: not tested on other speech, the resamples of speakers differ" in table.notes
    assert table.rows["b"]["voc"].marks == "†"


def test_bounds_stand_last_and_are_never_bold_marked_or_tested() -> None:
    rows = {"chance": bound(0.0, "random lists"), "ceiling": bound(0.9, "the true point asked")} | three()
    for table in tables_of(rows).values():
        if table.name == "alignment":
            assert list(table.rows) == ["far", "erc", "close"]
            continue
        assert list(table.rows) == ["far", "erc", "close", "ceiling", "chance"]
        assert not any(cell.best or cell.marks for of in ("ceiling", "chance") for cell in table.rows[of].values())
        assert len(table.tests["aoc"]["seeds"]) == 3
        assert not any({test.method, test.other} & {"ceiling", "chance"} for test in table.tests["aoc"]["seeds"])
        assert "not methods, and not tested: ceiling, chance" in table.notes
    table = tables_of(rows)["ordinality"]
    assert sum(row["aoc"].best for row in table.rows.values()) == 1
    assert table.conventions == ("tau-b of arousal", "tau-b of valence")  # of methods alone
    assert any(note.startswith("ceiling: what the speech vectors hold") for note in table.notes)
    assert table.texts().rows[-1] == ["chance", "0.000", "0.000"]
    rows["chance"]["ordinality"]["aoc"]["std"] = 0.03  # over shuffled labels: a seed's mean would scatter by it
    table = tables_of(rows)["ordinality"]
    assert table.texts().rows[-1] == ["chance", "-0.059 to 0.059", "-0.059 to 0.059"]
    assert any(note.startswith("chance: ") and "the labels shuffled" in note for note in table.notes)
    assert not any("not tested," in note or "not tested below" in note for note in table.notes)


def test_what_is_lost_by_other_prompts_is_seed_by_seed_and_has_no_best() -> None:
    results = three()
    table = tables_of(results)["word_norms"]
    for name, row in table.rows.items():
        grammar, words = (results[name][test]["voc"] for test in ("ordinality", "word_norms"))
        lost = np.array(grammar["seed_values"]) - words["seed_values"]
        draws = np.array(grammar["speakers"]["draws"]) - words["speakers"]["draws"]
        cell = row["voc_loss"]
        assert (cell.mean, cell.std) == pytest.approx((lost.mean(), lost.std(ddof=1)))
        assert (cell.speakers.low, cell.speakers.high) == pytest.approx(np.percentile(draws, (2.5, 97.5)))
        assert not cell.best
        assert cell.marks == ""
    assert "voc_loss" not in table.tests


def test_a_measure_that_a_method_lacks_is_a_dash() -> None:
    half = result(0.1, 0.3, 2)
    del half["ordinality"]["voc"]
    text = comparison_tables({"a": result(0.5, 0.1, 1), "half": half}).markdown()
    assert row_of(text.split("Ordinality")[1], "half")[2] == "-"


def test_one_method_alone_is_best_and_untested() -> None:
    for table in comparison_tables({"only": result(0.5, 0.1, 1), "chance": bound(0.0, "random")}).tables:
        for column in (column for column in table.columns if column.better):
            assert table.rows["only"][column.key].best
            assert table.rows["only"][column.key].seed_test is None
        assert not any("not tested," in note or "†" in note for note in table.notes)


def test_equally_good_methods_are_both_bold() -> None:
    table = tables_of({"a": result(0.5, 0.1, 1), "b": result(0.5, 0.1, 1)})["alignment"]
    assert all(row["mmd"].best and not row["mmd"].worse for row in table.rows.values())


def recognised(war: float, seed: int, **more: Any) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    hard = 0.05 * np.random.default_rng(99).standard_normal(200)
    found = {
        key: pooled(
            at + 0.01 * draw.standard_normal(5), "zero-shot", draws=at + hard + 0.01 * draw.standard_normal(200)
        )
        for key, at in (("war", war), ("uar", war - 0.1))
    }
    return {**found, "convention": "zero-shot", "chance": 0.125, "majority": 0.2, "classes": list("abcdefgh"), **more}


def test_recognition_has_tables_of_its_own_for_the_split_and_for_each_other_corpus() -> None:
    elsewhere = {"stores": "stores/emodb", "split": "all"}
    results = {
        name: result(0.5, 0.1, 1, recognition=recognised(war, 1), zero_shot=[recognised(war - 0.3, 2, **elsewhere)])
        for name, war in (("a", 0.7), ("b", 0.5))
    }
    tables = tables_of(results)
    assert list(tables) == [*NAMES, "recognition", "recognition_1"]
    other = tables["recognition_1"]
    assert other.title == "Zero-shot recognition, higher is better, on another corpus: 1. stores/emodb, all utterances"
    for table in (tables["recognition"], other):
        assert table.rows["a"]["uar"].best
        assert table.rows["b"]["uar"].marks == "†‡"
        assert "always the most frequent class: WAR 0.200, UAR 0.125" in table.notes
    assert other.conventions == ("zero-shot",)
    assert row_of(comparison_tables(results).markdown().split("stores/emodb")[1], "a")[2].startswith("**0.29")


def unescaped(text: str, char: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(char)}", text))


def test_latex_is_escaped_balanced_and_has_a_cell_for_each_column() -> None:
    names = three()
    names["50%_of&{all}#1~^\\$"] = names.pop("close")
    text = comparison_tables(names).latex()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    for part in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(part) == 3
    assert r"50\%\_of\&\{all\}\#1\textasciitilde{}\textasciicircum{}\textbackslash{}\$" in text
    assert unescaped(text, "{") == unescaped(text, "}")
    assert unescaped(text, "$") % 2 == 0
    for char in "%#_^~":
        assert char not in re.sub(r"\\label\{[^}]*\}|\\.|\$[^$]*\$", "", text)
    assert text.isascii()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [unescaped(line, "&") for line in rows] == [columns for columns in (2, 4, 4) for _ in range(1 + 3)]
    assert re.search(r"erc & \\textbf\{0\.\d+ \$\\pm\$ 0\.\d+\}", text)
    assert re.search(r"far & 0\.\d+ \$\\pm\$ 0\.\d+ \$\^\\dagger\$\$\^\\ddagger\$", text)


def test_csv_and_json_hold_the_figures_in_full_with_intervals_and_tests() -> None:
    results = three()
    tables = comparison_tables(results)
    rows = {(r["table"], r["method"], r["measure"]): r for r in csv.DictReader(io.StringIO(tables.csv()))}
    assert len(rows) == 3 * (2 + 4 + 4)
    far, entry = rows["ordinality", "far", "aoc"], results["far"]["ordinality"]["aoc"]
    assert float(far["mean"]) == entry["mean"]
    assert (far["worse"], far["best"], far["seeds"], far["speakers"]) == ("True", "False", "6", "12")
    assert float(far["list_std"]) == 0.18
    low, high = stats.t.interval(0.95, 5, entry["mean"], stats.sem(entry["seed_values"]))
    assert (float(far["low"]), float(far["high"])) == pytest.approx((low, high), rel=1e-9)
    assert float(far["speakers_low"]) == entry["speakers"]["low"]
    back = json.loads(json.dumps(tables.as_json(), allow_nan=False))
    cell = back["ordinality"]["rows"]["far"]["aoc"]
    assert cell["seeds_p_corrected"] == float(far["seeds_p_corrected"]) < 0.05
    assert cell["speakers_p_corrected"] == float(far["speakers_p_corrected"]) < 0.05
    assert cell["against"] in ("erc", "close")
    assert cell["seeds_difference_low"] < cell["difference"] < cell["seeds_difference_high"] < 0
    assert cell["speakers_difference_low"] < cell["difference"] < cell["speakers_difference_high"] < 0
    pairs = back["ordinality"]["tests"]["aoc"]["speakers"]
    assert [(pair["method"], pair["other"]) for pair in pairs] == [("far", "erc"), ("far", "close"), ("erc", "close")]
    assert pairs[0].keys() == {"method", "other", "difference", "low", "high", "p", "corrected"}
    assert back["alignment"]["notes"] == list(tables.tables[2].notes)


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
        assert "over lists or trials" in table.notes[0]
        assert "not to be compared" in table.notes[0]
        assert table.name.startswith("paper_")
