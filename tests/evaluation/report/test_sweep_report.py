"""What stands in the report of a sweep is what its trials did."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache.disk import writer_lock
from pipeline.commands.sweep_heads import main as sweep_heads
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import StoreLocked
from pipeline.evaluation.report.page import Section, table_html, write_page
from pipeline.experiments.sweeps.config import Choices, Range
from pipeline.experiments.sweeps.figures import (
    ScoreAxis,
    axis_position,
    dimensions_figure,
    halving_figure,
    importance_figure,
    in_order,
    parallel_coordinates_figure,
    scored,
    ticks,
)
from pipeline.experiments.sweeps.report import CURVES, NAMES
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.experiments.sweeps.tables import SHOWN, format_cell, leaderboard
from pipeline.training.run_folder import Run
from tests.evaluation.report.conftest import HOSTILE, SPACE, Page, rows_of
from tests.experiments.sweeps.conftest import FIXED, a_sweep
from tests.stage_two import run_command, tree

Row = dict[str, Any]
BRACKETS = {number: 4 * (number // 4) for number in range(8)}


def trials_of(out: Path) -> list[Row]:
    return json.loads((out / "sweep.json").read_text())["trials"]


def page_of(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


def first(trial: Row) -> float:
    return trial["rungs"]["1"]


def swept_again(planted: Path, out: Path) -> None:
    sweep(planted, a_sweep(sampler="random", trials=8, repeats=2, space=SPACE), out=out)


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "sweep"))


def test_every_trial_is_drawn_through_its_own_values_with_its_first_score(swept: Path) -> None:
    found = {int(row["trial"]): row for row in rows_of(swept, "parallel_coordinates")}
    trials = {trial["number"]: trial for trial in trials_of(swept)}
    assert list(found) == sorted(trials) == list(range(8))
    for number, trial in trials.items():
        row = found[number]
        assert float(row["ordinality on dev at rung 1"]) == first(trial)
        assert {name: row[name] for name in SPACE} == {name: str(trial["params"].get(name, "")) for name in SPACE}
        assert (row["state"], int(row["rung"])) == (trial["state"], trial["rung"])


def test_each_dimension_shows_the_trials_that_have_it(swept: Path) -> None:
    found = rows_of(swept, "dimensions")
    trials = {trial["number"]: trial for trial in trials_of(swept)}
    for name in SPACE:
        here = {int(row["trial"]): row for row in found if row["dimension"] == name}
        assert here.keys() == {number for number, trial in trials.items() if name in trial["params"]}
        for number, row in here.items():
            assert row["value"] == str(trials[number]["params"][name])
            assert float(row["ordinality on dev at rung 1"]) == first(trials[number])
            assert row["went on"] == str(trials[number]["rung"] > 1)
    assert sum(row["dimension"] == "objective.symmetric" for row in found) < 8


def test_halving_shows_every_score_and_who_went_on(swept: Path) -> None:
    found = rows_of(swept, "halving")
    expected = []
    for trial in sorted(trials_of(swept), key=lambda trial: trial["number"]):
        scores = list(trial["rungs"].values()) + [trial["score"]] * (trial["state"] == "complete")
        last = "reached the end" if trial["state"] == "complete" else "stopped"
        fates = ["went on"] * (len(scores) - 1) + [last]
        for rung, (score, fate) in enumerate(zip(scores, fates, strict=True), start=1):
            expected.append((BRACKETS[trial["number"]], trial["number"], rung, score, fate))
    assert [
        (int(row["bracket"]), int(row["trial"]), int(row["rung"]), float(row["ordinality"]), row["what came of it"])
        for row in found
    ] == expected
    for bracket in (0, 4):  # of four, two go on and then one
        counts = [
            sum(row["bracket"] == str(bracket) and row["rung"] == str(rung) for row in found) for rung in (1, 2, 3)
        ]
        assert counts == [4, 2, 1]
        at_first = [row for row in found if row["bracket"] == str(bracket) and row["rung"] == "1"]
        on = [float(row["ordinality"]) for row in at_first if row["what came of it"] == "went on"]
        assert sorted(on) == sorted(float(row["ordinality"]) for row in at_first)[2:]


def test_the_shares_of_importance_sum_to_one_and_fall(swept: Path) -> None:
    shares = [float(row["importance"]) for row in rows_of(swept, "importance")]
    assert math.isclose(sum(shares), 1)
    assert shares == sorted(shares, reverse=True)
    assert {row["dimension"] for row in rows_of(swept, "importance")} <= SPACE.keys()


def test_the_curves_are_the_epochs_of_the_best_trials(swept: Path) -> None:
    history: dict[str, list[dict[str, float]]] = {}
    for path in swept.glob("brackets/*/bracket.json"):
        history |= json.loads(path.read_text())["history"]
    best = [trial["number"] for trial in trials_of(swept) if history[f"{trial['number']}.0"]][:CURVES]
    expected = [
        {"trial": number, "seed": seed, **line}
        for number in best
        for seed in (0, 1)
        for line in history[f"{number}.{seed}"]
    ]
    found = rows_of(swept, "curves")
    kept = [row.pop("kept") for row in found]
    assert [{name: float(value) for name, value in row.items()} for row in found] == expected
    for trial in trials_of(swept):
        if trial["number"] in best:
            rings = [
                row["epoch"]
                for row, on in zip(found, kept, strict=True)
                if on == "True" and row["trial"] == str(trial["number"])
            ]
            assert " ".join(rings) == trial["epoch"]
    assert len(best) >= 3


def test_the_table_is_the_ranking_and_the_winner_stands_above_it(swept: Path) -> None:
    page, trials = page_of(swept), trials_of(swept)
    markdown = next(words for words in page.words if words.startswith("**All 8 trials**"))
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("| ")
    ]
    names, table = lines[0], [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    assert names[:3] == ["trial", "reached", "ordinality ↑"]
    assert [int(row["trial"]) for row in table] == [trial["number"] for trial in trials]
    for row, trial in zip(table, trials, strict=True):
        assert row["ordinality ↑"].strip("*") == f"{trial['score']:.4f}"
        assert (row["AOC"], row["VOC"]) == (f"{trial['aoc']:.4f}", f"{trial['voc']:.4f}")
        assert (row["dev loss"] == "-") == (trial["dev_loss"] is None)
        assert row["learning_rate"] == f"{trial['params']['learning_rate']:.4g}"
        assert row["reached"] == ("the end" if trial["state"] == "complete" else f"rung {trial['rung']} of 2")
    assert [row["ordinality ↑"].startswith("**") for row in table] == [True] + [False] * 7
    assert "8 trials: 2 trained to the end, 6 stopped at a rung" in page.text
    found = page.words[page.words.index("ordinality on dev") + 1 :]
    assert next(words for words in found if words.strip()) == f"{trials[0]['score']:.4g}"


def test_the_command_in_the_page_trains_the_winner(swept: Path, tmp_path: Path) -> None:
    (said,) = [words for words in page_of(swept).words if words.startswith("train-heads ")]
    command = shlex.split(said)
    result = run_command(train_heads, *command[1:], "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    losses = [found["dev_loss"] for found in Run(tmp_path / "run").about["seeds"].values()]
    assert sum(losses) / 2 == pytest.approx(trials_of(swept)[0]["dev_loss"], abs=1e-5)


def test_the_foot_names_every_setting_and_fingerprint(swept: Path) -> None:
    words = set(page_of(swept).words)
    assert {
        "sweep.space.learning_rate.low",
        "sweep.halving.factor",
        "sweep.seed",
        "best trial: training.width",
    } <= words
    assert {"fingerprint.audio.encoder.encoder", "fingerprint.text.encoder.encoder", "planted"} <= words


def test_the_same_results_give_the_same_bytes(planted: Path, copied: Path, swept: Path) -> None:
    assert {path.name for path in (swept / "report").iterdir()} == {
        f"{name}.{suffix}" for name in NAMES for suffix in ("csv", "svg", "png")
    }
    before = tree(copied, "journal.log")
    again = copied.rename(copied.parent / swept.name)  # its page names best.yaml
    swept_again(planted, again)
    after = tree(again, "journal.log")
    assert {name for name in before if before[name] != after[name]} <= {"report.html"}
    there, here = (folder / "report.html" for folder in (swept, again))
    assert there.read_text().replace(str(swept.parent), str(again.parent)) == here.read_text()


def test_a_damaged_history_costs_its_figure_and_nothing_else(
    planted: Path, copied: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for spoilt in ({"0.0": [{"epoch": 1}]}, {"x": []}, [1], {"0.0": [{"epoch": "1"}]}):
        path = copied / "brackets/000000/bracket.json"
        tree = {name: kept for name, kept in json.loads(path.read_text()).items() if name != "digest"}
        path.write_text(json.dumps(tree | {"history": spoilt}))  # a bracket of before had no digest
        swept_again(planted, copied)
        assert "training of the best trials is left out" in capsys.readouterr().err
        assert any("Left out: " in words and "bracket.json" in words for words in page_of(copied).words)
        assert {path.name for path in (copied / "report").iterdir()} == {f"{name}.csv" for name in NAMES[:-1]}


def test_the_report_is_written_where_the_tables_are_while_nobody_else_may(
    planted: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(out: Path, *_: object) -> None:
        with pytest.raises(StoreLocked), writer_lock(out):
            pass
        seen.append((out / "trials.csv").exists() and (out / "sweep.json").exists())

    (copied / "trials.csv").unlink()
    monkeypatch.setattr("pipeline.experiments.sweeps.sweep.sweep_report", look)
    swept_again(planted, copied)
    assert seen == [True]


def test_the_command_writes_a_report_unless_told_not_to_and_starting_over_removes_it(
    planted: Path, tmp_path: Path, undrawn: None
) -> None:
    settings = {"sampler": "grid", "halving": None, "fixed": FIXED, "space": {"learning_rate": [1e-3, 1e-2]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    command = [planted, tmp_path / "mine.yaml", "--out", tmp_path / "out", "--device", "cpu"]
    done = run_command(sweep_heads, *command)
    assert f"report: {tmp_path / 'out/report.html'}" in done.stderr
    assert "importance: fewer than 4 trials" in done.stderr
    assert {path.name for path in (tmp_path / "out/report").iterdir()} == {
        f"{name}.csv" for name in ("parallel_coordinates", "dimensions", "curves")
    }
    titles = "".join(page_of(tmp_path / "out").words)
    assert "How halving went" not in titles
    assert "ordinality on dev at the end" in titles
    assert run_command(sweep_heads, *command, "--fresh", "--no-report").exit_code == 0
    assert not (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/report").exists()


def test_where_the_brackets_are_in_another_folder_the_page_has_no_curves(
    planted: Path, copied: Path, undrawn: None
) -> None:
    shutil.rmtree(copied / "brackets")
    swept_again(planted, copied)
    assert {path.name for path in (copied / "report").iterdir()} == {f"{name}.csv" for name in NAMES[:-1]}
    assert any(words == "Nothing of it is here." for words in page_of(copied).words)
    assert {row["bracket"] for row in rows_of(copied, "halving")} == {""}


def made(space: Space, scores: list[float], values: list[Row]) -> list[Row]:
    """Trials by hand, the first the best: it reached the end, the others were stopped at rung 1."""
    keys = dict.fromkeys(("aoc", "voc", "dev_loss", "epoch", "steps"))
    return [
        {
            "number": number,
            "state": "pruned" if number else "complete",
            "rung": 1 if number else 3,
            "score": score,
            "rungs": {"1": score} if number else {"1": score, "2": score},
            "params": params,
            **keys,
        }
        for number, (score, params) in enumerate(zip(scores, values, strict=True))
    ]


def drawn(space: Space, rows: list[Row], out: Path) -> Page:
    figures = [
        parallel_coordinates_figure(space, rows),
        dimensions_figure(space, rows),
        halving_figure(space, rows, {}),
    ]
    figures.append(importance_figure(space, dict.fromkeys(space.dimensions, 0.5), len(rows)))
    board = Section("x", table_html(leaderboard(space, rows)), figures)
    write_page(space.config.name, "x", [board], out / "report.html", [])
    return page_of(out)


def test_hostile_names_are_text_in_every_part_and_scores_of_any_size_are_drawn_or_left_out(tmp_path: Path) -> None:
    method = tmp_path / (HOSTILE.replace("/", "") + ".yaml")
    method.write_text("base: clap_sce\n")
    choices = {"method": [str(method), "clap_sce"]}
    space, scores = Space(a_sweep(name=HOSTILE, sampler="random", score="dev_loss", space=choices)), [1e308, -1e308, 0]
    page = drawn(
        space, made(space, scores, [{"method": name} for name in (str(method), "clap_sce", "clap_sce")]), tmp_path
    )
    assert page.tags.count("svg") == 4
    assert page.tags.count("script") == 1
    assert not page.values("onerror")
    assert not page.values("src")
    assert not any(ord(letter) < 32 and letter != "\n" for letter in page.text)
    assert sum("悲しい<script" in words for words in page.words) >= 3
    assert [float(row["dev_loss on dev at rung 1"]) for row in rows_of(tmp_path, "parallel_coordinates")] == scores
    assert "dev_loss ↓" in page.words
    assert "AOC" not in page.words
    markdown = next(words for words in page.words if words.startswith("**All 3 trials**"))
    rows = [re.split(r"(?<!\\)\|", line) for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert len({len(row) for row in rows}) == 1
    assert format_cell("two\nlines") == "two\\nlines"


def test_many_dimensions_stand_in_rows_and_a_long_table_is_cut(tmp_path: Path, undrawn: None) -> None:
    names = ["learning_rate", "weight_decay", "warmup", "temperature", "width", "batch_size", "epochs"]
    whole = ("width", "batch_size", "epochs")
    space = Space(a_sweep(sampler="random", space={name: [2, 3] if name in whole else [0.1, 0.2] for name in names}))
    rows = made(space, [0.5] * 30, [{name: each.encoded[0] for name, each in space.dimensions.items()}] * 30)
    many, one = (parallel_coordinates_figure(*each).size[1] for each in ((space, rows), (Space(a_sweep()), [])))
    assert many == 2 * one
    board = leaderboard(space, rows)
    assert len(board.rows) == SHOWN == 20
    assert board.title == "The best 20 of 30 trials"


def test_a_value_stands_where_it_should() -> None:
    log, even, listed = Range(low=1e-4, high=1e-2, log=True), Range(low=10, high=20), Choices((0.3, 0.1, 1.0))
    assert axis_position(log, 1e-3) == pytest.approx(0.5)
    assert [axis_position(even, value) for value in (10, 15, 20, None)] == [0, 0.5, 1, None]
    assert in_order(listed) == [0.1, 0.3, 1.0]
    assert [axis_position(listed, value) for value in (0.1, 0.3, 1.0, 7)] == [
        *(pytest.approx(k / 6) for k in (1, 3, 5)),
        None,
    ]
    assert [text for _, text in ticks(log)] == ["0.0001", "0.001", "0.01"]
    assert ticks(listed) == [(pytest.approx(k / 6), text) for k, text in ((1, "0.1"), (3, "0.3"), (5, "1"))]
    assert [text for _, text in ticks(Choices(("b", True, None)))] == ["b", "True", "None"]


def test_the_better_score_stands_above() -> None:
    higher, lower = (ScoreAxis([0.2, 0.4, 0.6], maximise=each) for each in (True, False))
    assert [higher(score) for score in (0.2, 0.4, 0.6)] == pytest.approx([0, 0.5, 1])
    assert [lower(score) for score in (0.2, 0.4, 0.6)] == pytest.approx([1, 0.5, 0])
    assert ScoreAxis([0.3], maximise=True)(0.3) == 0.5
    assert all(0 <= y <= 1 and higher(float(text)) == pytest.approx(y) for y, text in higher.ticks())
    assert len(higher.ticks()) >= 3


def test_trials_without_a_score_are_not_drawn() -> None:
    rows = [{"number": 1, "rungs": {}, "score": None}, {"number": 0, "rungs": {"1": 0.0}, "score": 0.5}]
    assert scored(rows) == [(rows[1], 0.0)]
    assert scored([{"number": 2, "rungs": {}, "score": 0.7}])[0][1] == 0.7
