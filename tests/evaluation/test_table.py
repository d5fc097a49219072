"""The tables say what was measured and how."""

from __future__ import annotations

from typing import Any

from pipeline.evaluation.tables import evaluation_table


def entry(mean: float, std: float, convention: str, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "std": std, "convention": convention, **more}


def evaluation(shift: float = 0.0, kernel: str = "gamma 1") -> dict[str, Any]:
    return {
        "ordinality": {
            "aoc": entry(0.552 + shift, 0.12, "lists of arousal", taus=[0.5] * 100, undefined=0),
            "voc": entry(0.616 + shift, 0.13, "lists of valence", taus=[0.5] * 100, undefined=0),
        },
        "alignment": {
            "mmd": entry(0.087, 0.001, kernel),
            "wasserstein": entry(0.065, 0.007, "by assignment"),
            "sliced_wasserstein": entry(0.02, 0.0004, "256 directions"),
            "trials": 30,
            "pairs": 5000,
        },
    }


def test_one_evaluation_gives_both_tables_with_their_conventions():
    assert evaluation_table(evaluation()).splitlines() == [
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        "method                MMD ↓    Wasserstein ↓  sliced Wasserstein ↓",
        "evaluation  0.0870 ± 0.0010  0.0650 ± 0.0070       0.0200 ± 0.0004",
        "MMD (maximum mean discrepancy): gamma 1",
        "Wasserstein: by assignment",
        "sliced Wasserstein: 256 directions",
        "",
        "Ordinality (Table 2 of the paper): Kendall's tau, higher is better",
        "method              AOC ↑          VOC ↑",
        "evaluation  0.552 ± 0.120  0.616 ± 0.130",
        "chance      0.000 ± 0.020  0.000 ± 0.020",
        "AOC (arousal ordinal consistency): lists of arousal",
        "VOC (valence ordinal consistency): lists of valence",
        "chance: mean of lists in random order ± its standard error 0.2007 / sqrt(lists) (no std over lists), were "
        "lists independent; they share their utterances, so the true standard error is larger",
    ]


def test_several_evaluations_are_rows_by_name():
    text = evaluation_table({"seed 0": evaluation(), "seed 1": evaluation(-0.6)})
    assert text.splitlines()[9:12] == [
        "method           AOC ↑          VOC ↑",
        "seed 0   0.552 ± 0.120  0.616 ± 0.130",
        "seed 1  -0.048 ± 0.120  0.016 ± 0.130",
    ]
    assert text.count("MMD (maximum mean discrepancy): gamma 1") == 1


def test_conventions_that_differ_are_given_by_name():
    text = evaluation_table({"a": evaluation(), "b": evaluation(kernel="gamma 2"), "c": evaluation()})
    assert "MMD (maximum mean discrepancy) of a, c: gamma 1" in text
    assert "MMD (maximum mean discrepancy) of b: gamma 2" in text
    assert "Wasserstein: by assignment" in text


def test_a_test_that_was_not_run_has_no_table():
    result = evaluation()
    del result["alignment"]
    assert "Alignment" not in evaluation_table(result)
    assert "Ordinality" in evaluation_table(result)
