"""What may be wrong with an objective of one's own, and its settings: one line each, before anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import register_objective
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import EmotionRankError, ManyProblems, UsageError
from pipeline.core.objective_config import CustomObjectiveConfig
from pipeline.training.train import resolve_training, train
from tests.own_code import forgotten as forgotten
from tests.own_code import objective, own_config, some_space
from tests.stage_two import SETTINGS
from tests.training.test_batched_heads import some_pairs


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda logits, batch: logits.diagonal(),
            "it returned a Tensor of shape (4,), torch.float32; expected one number",
        ),
        (lambda logits, batch: logits.argmax(), "torch.int64; expected one number"),
        (lambda logits, batch: 1.0, "it returned a float; expected one number"),
        (lambda logits, batch: None, "it returned a NoneType"),
        (lambda logits, batch: logits.detach().mean(), "its loss does not depend on the logits"),
        (lambda logits, batch: torch.ones((), requires_grad=True) * 2, "its loss does not depend on the logits"),
        (lambda logits, batch: logits @ logits[:2], "mat1 and mat2 shapes"),
        (lambda logits, batch: logits.mean() / batch.nothing, "AttributeError: 'Batch' object has no attribute"),
    ],
)
def test_a_loss_that_is_none_is_one_line_that_names_it_and_the_place(loss: Any, said: str) -> None:
    own = objective(loss)
    with pytest.raises(EmotionRankError) as caught:
        own.space_gradient(some_space(1, 4), own.prepare(some_pairs(), torch.arange(4), torch.arange(4)))
    assert str(caught.value).startswith("objective own: ")
    assert said in str(caught.value)
    assert "Error: " not in said or "(test_own_settings.py:" in str(caught.value)


def test_a_loss_that_is_not_finite_ends_the_training_and_says_where_to_look(small: Path, tmp_path: Path) -> None:
    register_objective("dominant")(lambda logits, batch: (logits * batch.labels[:, 2:]).mean())  # there is none
    with pytest.raises(EmotionRankError, match=r"is nan after epoch 1; .* Look at objective dominant \(labels that"):
        train(small, overrides=[*SETTINGS, "objective.name=dominant"], out=tmp_path)


def test_rows_without_a_label_that_it_needs_are_left_out(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_objective("needy", labels=["dominance"])(lambda logits, batch: logits.mean())
    with pytest.raises(UsageError, match="no labelled pair"):
        train(small, overrides=[*SETTINGS, "objective.name=needy"], out=tmp_path)
    with pytest.raises(UsageError, match="label 'anger'; expected valence, arousal, dominance"):
        register_objective("x", labels=["anger"])


def _no(logits, batch, *rest): ...
def _settings(logits, batch, **settings): ...
def _tensor(logits, batch, weight=torch.ones(2)): ...  # noqa: B008
def _alone(logits): ...


@pytest.mark.parametrize("loss", [_no, _settings, _tensor, _alone])
def test_a_signature_that_tells_no_settings_is_refused(loss: Any) -> None:
    with pytest.raises(UsageError, match="objective 'x': "):
        register_objective("x")(loss)


def _many(
    logits,
    batch,
    must: int,
    whole=3,
    share=0.5,
    named: str = "a",
    yes: bool = False,
    several=(1, 2),
    free=None,
    copy=1.0,
):
    return logits.mean()


def test_settings_are_checked_against_the_function_all_at_once_and_written_out() -> None:
    register_objective("many", version=7)(_many)
    found = own_config("many", must=2, share=1).objective
    expected = {
        "must": 2,
        "whole": 3,
        "share": 1.0,
        "named": "a",
        "yes": False,
        "several": [1, 2],
        "free": None,
        "copy": 1.0,
    }
    assert isinstance(found, CustomObjectiveConfig)
    assert (found.version, found.settings) == (7, expected)
    wrong = [
        "objective.settings.whole=a",
        "objective.settings.yes=perhaps",
        "epohcs=3",
        "objective.settings.share=x",
    ]
    with pytest.raises(ManyProblems) as caught:
        load_config(TrainConfig, None, ["objective.name=many", *wrong], kind="methods")
    assert len(caught.value.problems) == 5
    said = str(caught.value)
    for part in (
        "settings.whole = 'a': ",
        "settings.yes = 'perhaps': ",
        "settings.must: required, but not set",
        "did you mean epochs?",
    ):
        assert part in said
    for override, part in (
        ("objective.settings.wole=2", "no such setting: 'wole'; did you mean whole?"),
        ("objective.settings.zzz=2", "many has must, whole, share, named, yes, several, free, copy"),
        ("objective.whole=2", "a setting of a custom loss belongs under settings: objective.settings.whole"),
        (
            "objective.settings.free={a: 1}",
            "objective.settings.free = {'a': 1}: a setting is a number, text, yes or no",
        ),
        ("objective.settings.share=.inf", "objective.settings.share = inf: a setting is a number"),
        ("objective.settings.free=[[1]]", "objective.settings.free = [[1]]: a setting is a number"),
        ("objective.settings=3", "objective.settings = 3: expected a mapping"),
        ("objective.settings.copy=x", "objective.settings.copy = 'x': expected a number"),
        ("objective.name=mani", "no such objective; did you mean many?"),
        ("objective.name=ranknncontrast", "no such objective; did you mean rank_n_contrast?"),
        ("objective.name=A B", "objective = {'name': 'A B'}: it has no name"),
        ("objective.version=6", "the code that is registered is version 7"),
    ):
        with pytest.raises(ManyProblems) as caught:
            load_config(TrainConfig, None, ["objective.name=many", override], kind="methods")
        also = any(name in override for name in ("version", "copy"))  # there `must` is missed as well
        assert len(caught.value.problems) == 1 + also
        assert part in str(caught.value)


def test_a_slip_in_a_built_in_objective_still_has_its_suggestion() -> None:
    with pytest.raises(ManyProblems, match=r"symmetrc: no such setting; did you mean objective\.symmetric\?"):
        resolve_training("emotionrankclap", overrides=["objective.symmetrc=true"])
