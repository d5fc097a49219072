"""A sweep's space: what its dimensions mean, and every mistake found before anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution, IntDistribution

from cache.stores import open_stores
from pipeline.core.errors import UsageError
from pipeline.core.presets import preset_names
from pipeline.experiments.sweeps.config import list_layers, load_sweep
from pipeline.experiments.sweeps.space import Space
from tests.experiments.sweeps.conftest import a_sweep
from tests.layered import layers_of


def a_point(space: Space) -> optuna.Trial:
    trial = optuna.create_study().ask()
    space.suggest(trial)
    return trial


@pytest.mark.parametrize("name", preset_names("sweeps"))
def test_every_preset_makes_trainings(name: str, planted: Path, tmp_path: Path) -> None:
    stores = layers_of(planted, tmp_path / "layered") if name == "layers" else open_stores(planted)
    space = Space(list_layers(load_sweep(name), stores))
    assert list(space.checked_trainings())
    assert load_sweep(name).name == name
    assert load_sweep(None) == load_sweep("default")


def test_a_trial_is_the_methods_preset_the_fixed_settings_and_its_point_on_top() -> None:
    space = Space(
        a_sweep(
            training="small_corpus", repeats=2, fixed={"epochs": 7, "objective": {"symmetric": True}},
            space={"objective.denominator": ["at_least", "beyond_and_self"], "learning_rate": ["1e-3", 0.1]},
        )
    )  # fmt: skip
    config = space.resolve_training({"objective.denominator": "beyond_and_self", "learning_rate": 0.1})
    assert (config.epochs, config.learning_rate, config.method) == (7, 0.1, "emotionrankclap")
    assert (config.objective.denominator, config.objective.symmetric) == ("beyond_and_self", True)
    assert (config.seeds, config.shuffle_seed, config.memory) == ((0, 1), 0, "resident")
    assert space.grid["learning_rate"] == [1e-3, 0.1]  # YAML 1.1 reads 1e-3 as text


def test_ranges_are_drawn_as_they_are_written() -> None:
    space = Space(
        a_sweep(
            sampler="random",
            space={
                "learning_rate": {"low": "1e-5", "high": "1e-2", "log": True},
                "width": {"low": 16, "high": 64, "step": 16},
                "weight_decay": {"low": 0.0, "high": 0.5},
            },
        )
    )
    assert a_point(space).distributions == {
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "width": IntDistribution(16, 64, step=16),
        "weight_decay": FloatDistribution(0.0, 0.5),
    }


def test_lists_and_nothing_are_values_too() -> None:
    space = Space(
        a_sweep(space={"objective.labels": [["valence"], ["valence", "arousal"]], "objective.weights": [None]})
    )
    config = space.resolve_training({"objective.labels": '["valence"]', "objective.weights": None})
    assert config.objective.labels == ("valence",)


def test_a_method_is_asked_only_for_what_it_has() -> None:
    space = Space(
        a_sweep(
            sampler="random", space={"objective.symmetric": [True, False], "method": ["clap_sce", "emotionrankclap"]}
        )
    )
    points = [a_point(space).params for _ in range(12)]
    assert {point["method"] for point in points} == {"clap_sce", "emotionrankclap"}
    for point in points:
        assert ("objective.symmetric" in point) == (point["method"] == "emotionrankclap")
        assert space.resolve_training(point).method == point["method"]


def test_a_grid_of_whole_numbers_lists_them_and_knows_its_size() -> None:
    space = Space(a_sweep(space={"width": {"low": 8, "high": 24, "step": 8}, "temperature": [1.0, 0.1]}))
    assert space.grid["width"] == [8, 16, 24]
    assert space.trials == 6
    with pytest.raises(UsageError, match="7 trials of a grid of 6"):
        _ = Space(a_sweep(trials=7, space=space.config.space)).trials


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space": {"learningrate": [1]}}, "sweep tiny: space.learningrate: no such setting; did you mean space.learn"),
        ({"space": {"objective.denominatr": ["beyond"]}}, "did you mean space.objective.denominator?"),
        ({"space": {"objective.denominator": ["at_least", "atleast"]}}, "space.objective.denominator = 'atleast'"),
        ({"space": {"epochs": [1, 0]}}, "space.epochs = 0"),
        ({"space": {"learning_rate": {"low": 1e-5, "high": 1e-2}}}, "learning_rate: a range; a grid needs a list"),
        ({"sampler": "tpe", "space": {"temperature": {"low": 0, "high": 1, "log": True}}}, "log needs low above 0"),
        ({"sampler": "tpe", "space": {"temperature": {"low": 2, "high": 1}}}, "low 2 is not below high 1"),
        ({"sampler": "tpe", "space": {"temperature": {"low": -1.0, "high": 1.0}}}, "space.temperature = -1.0"),
        ({"space": {"temperature": {"lo": 0.1, "high": 1}}}, "space.temperature: lo: no such setting"),
        ({"space": {"temperature": 0.1}}, "space.temperature: 0.1; expected a list of values or {low, high}"),
        ({"space": {"temperature": []}}, "space.temperature: []"),
        ({"space": {"temperature": [1.0, 1.0]}}, "a value twice"),
        ({"space": {"method": ["emotionrankclip"]}}, "Did you mean emotionrankclap?"),
        ({"space": {"method": ["supcon", "emotionrankclap"], "objective.symmetric": [True]}}, "supcon has no such"),
        ({"space": {"seeds": [[0], [1]]}}, "space.seeds: the sweep sets it itself"),
        ({"fixed": {"shuffle_seed": 3}}, "fixed.shuffle_seed: the sweep sets it itself"),
        ({"space": {"step": ["auto", "fused"]}}, "space.step: the sweep sets it itself"),
        ({"fixed": {"step": "reference"}}, "fixed.step: reference, which trains one head at a time"),
        ({"fixed": {"epoch": 3}}, "fixed.epoch: no such setting; did you mean fixed.epochs?"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_before_anything_trains(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Space(a_sweep(**settings))
    assert said in str(caught.value)


def test_a_mistake_of_the_methods_file_is_not_of_the_sweeps_fixed_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: supcon\nwidht: 8\n")
    with pytest.raises(UsageError) as caught:
        Space(a_sweep(method=str(tmp_path / "mine.yaml"), fixed={"epoch": 3}))
    said = str(caught.value)
    assert "sweep tiny: widht: no such setting; did you mean width?" in said
    assert "sweep tiny: fixed.epoch: no such setting; did you mean fixed.epochs?" in said


def test_every_mistake_is_listed_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Space(a_sweep(space={"learningrate": [1], "epochs": [0], "temperature": [1.0]}))
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_may_be_changed_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"sampler": "grid", "space": {"objective.symmetric": [True]}}))
    overrides = ["repeats=2", "fixed.epochs=3", "space.objective.symmetric=[false,true]", "space.width=[8]"]
    config = load_sweep(tmp_path / "mine.yaml", overrides, trials=2)
    assert (config.name, config.repeats, config.trials, config.fixed) == ("mine", 2, 2, {"epochs": 3})
    assert config.space == {"objective.symmetric": [False, True], "width": [8]}
    with pytest.raises(UsageError, match="sampler = 'gird'"):
        load_sweep(tmp_path / "mine.yaml", ["sampler=gird"])


@pytest.mark.parametrize("given", [{"low": 0, "high": 10**15}, {"low": 2, "high": 1_002}])
def test_a_grid_of_every_whole_number_has_an_end(given: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"space\.batch_size: .+; expected at most 1000 values"):
        Space(a_sweep(space={"batch_size": given}))
    assert Space(a_sweep(space={"epochs": {"low": 2, "high": 1_001}})).trials == 1_000
