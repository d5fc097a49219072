"""The tables of evaluations say what was measured, how, and over what its spread is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.table_formats import WIDTH
from pipeline.evaluation.tables import evaluation_table, evaluation_tables
from tests.evaluation.results import bound, pooled


def seeds(mean: float, std: float, convention: str, list_std: float, count: int = 2) -> dict[str, Any]:
    """`count` seeds that vary by `std`."""
    values = mean + std * np.linspace(-1, 1, count) / np.sqrt(2) if count > 1 else np.array([mean])
    return pooled(values, convention, list_std=list_std)


def evaluation(shift: float = 0.0, kernel: str = "gamma 1", count: int = 2) -> dict[str, Any]:
    return {
        "ordinality": {
            "aoc": seeds(0.552 + shift, 0.012, "lists of arousal", 0.12, count),
            "voc": seeds(0.616 + shift, 0.013, "lists of valence", 0.13, count),
        },
        "alignment": {
            "mmd_median": seeds(0.2, 0.01, "median width", 0.002, count),
            "mmd": seeds(0.087, 0.001, kernel, 0.0002, count),
            "wasserstein": seeds(0.065, 0.007, "by assignment", 0.0003, count),
            "trials": 30,
            "pairs": 5000,
        },
    }


def test_one_evaluation_gives_both_tables_with_their_conventions_and_spreads():
    assert evaluation_table(evaluation()).splitlines() == [
        "Ordinality (Table 2 of the paper): Kendall's tau, higher is better",
        "method              AOC ↑          VOC ↑",
        "evaluation  0.552 ± 0.012  0.616 ± 0.013",
        "chance              0.000          0.000",
        "AOC: arousal ordinal consistency, Kendall's tau from -1 to 1; higher is better [1]",
        "VOC: valence ordinal consistency, Kendall's tau from -1 to 1; higher is better [2]",
        "mean ± std over 2 seeds",
        "chance: no order",
        "",
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        "method       MMD median ↓            MMD ↓    Wasserstein ↓",
        "evaluation  0.200 ± 0.010  0.0870 ± 0.0010  0.0650 ± 0.0070",
        "MMD median: maximum mean discrepancy, kernel as wide as the median distance, from 0 to √2; lower is better "
        + "[1]",
        "MMD: maximum mean discrepancy, kernel of fixed width, from 0 to √2; lower is better [2]",
        "Wasserstein: exact Wasserstein distance, in units of the space; lower is better [3]",
        "scale-free: MMD median; one constant appended to all vectors shrinks the other distances and leaves every "
        "order as it is",
        "mean ± std over 2 seeds",
    ]


def test_conventions_are_numbered_footnotes_where_they_are_asked_for():
    assert "gamma 1" not in evaluation_table(evaluation())
    order, alignment = (part.splitlines() for part in evaluation_table(evaluation(), conventions=True).split("\n\n"))
    assert order[-2:] == ["[1] lists of arousal", "[2] lists of valence"]
    assert alignment[-3:] == ["[1] median width", "[2] gamma 1", "[3] by assignment"]


def test_measures_of_one_convention_share_a_footnote():
    recognised = {"chance": 0.5, "majority": 0.6, "classes": ["a", "b"], "n": 8, "confusion": [[3, 1], [2, 2]]}
    recognised |= {key: seeds(0.6, 0.01, "nearest prompt", 0) for key in ("war", "uar")}
    lines = evaluation_table({"a": {"recognition": recognised}}, conventions=True).splitlines()
    assert [line[-3:] for line in lines if line.startswith(("WAR: ", "UAR: "))] == ["[1]", "[1]"]
    assert lines[-1] == "[1] nearest prompt"


def test_a_table_of_more_columns_than_a_line_holds_goes_on_below_itself():
    found = evaluation()
    for key in ("wasserstein_relative", "gap_centroid", "gap_covariance", "gap_rest", "sliced_wasserstein"):
        found["alignment"][key] = seeds(0.5, 0.01, key, 0)
    text = evaluation_table({"a_method_of_a_long_name": found}, conventions=True)
    lines = text.split("\n\n")[1].splitlines()
    heads = [line for line in lines if line.startswith("method ")]
    assert [head.count("↓") for head in heads] == [6, 2]
    assert [line.count("±") for line in lines if line.startswith("a_method")] == [6, 2]
    assert max(map(len, text.splitlines())) <= WIDTH


def test_chance_is_a_range_of_the_figure_of_a_seed_and_a_blind_guess_as_well():
    """The range holds 95 % of simulated guesses, and of shuffled labels by the std that references give."""
    counts, draw = np.array([60, 30, 10]), np.random.default_rng(0)
    confusion = np.diag(counts) * 2  # of two seeds
    recognised = {"chance": 1 / 3, "majority": 0.6, "classes": ["a", "b", "c"], "n": 100}
    recognised |= {"confusion": confusion.tolist()}
    recognised |= {key: seeds(0.6, 0.01, "nearest prompt", 0) for key in ("war", "uar")}
    right = draw.binomial(counts, 1 / 3, (20_000, 3))
    guesses = {"war": right.sum(1) / 100, "uar": (right / counts).mean(1)}
    order = {"mean": 0.0, "std": 0.1, "seed_values": [0.0], "convention": "shuffled"}
    results = {"a": evaluation() | {"recognition": recognised}, "chance": {"ordinality": {"aoc": order, "voc": order}}}
    tables = {table.name: table for table in evaluation_tables(results)}
    for key, values in guesses.items():
        cell = tables["recognition"].rows["chance"][key]
        assert cell.chance_range == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=0.012)
        assert (cell.as_json()["low"], cell.as_json()["high"]) == cell.chance_range
    assert tables["ordinality"].texts().rows[-1] == ["chance", "-0.196 to 0.196", "-0.196 to 0.196"]
    assert tables["ordinality"].notes[-1] == (
        "chance: no order; 95 % of what one seed's figure would be with the labels shuffled among the utterances"
    )
    assert (
        "chance: a blind guess; 95 % of what one seed's figure would be with every label guessed"
        in tables["recognition"].notes
    )


def test_one_seed_has_no_std_and_says_so():
    lines = evaluation_table(evaluation(count=1)).splitlines()
    assert lines[2] == "evaluation  0.552  0.616"
    assert "one seed, so there is no std over seeds" in lines


def test_a_seeds_own_row_has_its_mean_and_no_std_over_seeds():
    own = {"mean": 0.5, "std": 0.12, "taus": [0.4, 0.6], "undefined": 0, "convention": "lists of arousal"}
    rows = {"all seeds": evaluation(), "seed 0": {"ordinality": {"aoc": own, "voc": own}}}
    assert evaluation_table(rows).splitlines()[3] == "seed 0             0.500          0.500"


def test_several_evaluations_are_rows_by_name_and_bounds_stand_last():
    text = evaluation_table({"ceiling": bound(0.75, "the true point asked"), "a": evaluation(), "b": evaluation(-0.6)})
    assert text.splitlines()[1:5] == [
        "method            AOC ↑          VOC ↑",
        "a         0.552 ± 0.012  0.616 ± 0.013",
        "b        -0.048 ± 0.012  0.016 ± 0.013",
        "ceiling           0.750          0.750",
    ]
    assert text.count("MMD: maximum mean discrepancy") == 1


def test_conventions_that_differ_are_given_by_name():
    methods = {"a": evaluation(), "b": evaluation(kernel="gamma 2"), "c": evaluation()}
    lines = evaluation_table(methods, conventions=True).splitlines()
    [mmd] = [line for line in lines if line.startswith("MMD: ")]
    assert mmd.endswith("lower is better [2 of a, c; 3 of b]")
    assert {"[2] gamma 1", "[3] gamma 2", "[4] by assignment"} <= set(lines)


def test_a_test_that_was_not_run_has_no_table():
    result = evaluation()
    del result["alignment"]
    assert "Alignment" not in evaluation_table(result)
    assert "Ordinality" in evaluation_table(result)


def test_prompts_by_other_hands_have_a_table_with_what_is_lost_to_them():
    found = evaluation()
    found["word_norms"] = {key: seeds(0.4, 0.012, "rated words", 0.15) for key in ("aoc", "voc")}
    lines = evaluation_table(found).split("\n\n")[1].splitlines()
    assert " ".join(lines[1].split()) == "method AOC ↑ VOC ↑ AOC lost VOC lost"
    assert " ".join(lines[2].split()) == "evaluation 0.400 ± 0.012 0.400 ± 0.012 0.152 ± 0.000 0.216 ± 0.001"
    assert " ".join(lines[3].split()) == "chance 0.000 0.000 0.000 0.000"


def test_retrieval_and_read_out_are_one_table_in_plain_words():
    found = evaluation()
    values = {"text_to_speech_r10": 0.25, "text_to_speech_median_rank": 12.5, "speech_to_text_r1": 0.031}
    found["retrieval"] = {key: seeds(value, 0.01, "c", 0) | {"chance": 0.02} for key, value in values.items()}
    del found["retrieval"]["text_to_speech_median_rank"]["chance"]
    found["readout"] = {"valence_ccc": seeds(0.5, 0.01, "c", 0) | {"chance": 0.0}}
    frozen = {key: seeds(0.6, 0, "c", 0, count=1) for key in ("valence_ccc", "category_uar")}
    ceiling = bound(0.7, "asked") | {"readout": frozen}
    lines = evaluation_table({"a": found, "ceiling": ceiling}).split("\n\n")[-1].splitlines()
    assert lines[:6] == [
        "Retrieval, linear read-out and order of speech alone, as other work reports them",
        "measure                                                          a  frozen vectors  chance",
        "speech to text, hit in the first place, % ↑ [1]          3.1 ± 1.0               -     2.0",
        "text to speech, hit among the first 10, % ↑ [1]         25.0 ± 1.0               -     2.0",
        "text to speech, rank of the first hit, median ↓ [1]         12 ± 0               -       -",
        "valence by a linear read-out, concordance ↑ [1]      0.500 ± 0.010           0.600   0.000",
    ]
    assert lines[-2].startswith("read-out: ridge regression fitted on the training split")
    found["readout"] = {}
    assert "read-out: " not in evaluation_table({"a": found})
    assert "frozen" not in evaluation_table({"a": found})
