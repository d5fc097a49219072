"""Configs: found by name, checked all at once, changed by -o."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.core.config import EvaluateConfig, ExtractConfig, TrainConfig
from pipeline.core.config_files import dump, load_config
from pipeline.core.errors import UsageError
from pipeline.core.presets import preset_names
from pipeline.training.train import resolve_training


@pytest.mark.parametrize("name", preset_names("corpora"))
def test_every_corpus_preset_resolves_to_its_reader(name: str) -> None:
    assert load_config(ExtractConfig, name, kind="corpora").corpus.reader == name.removesuffix("_4class")


def test_iemocap_in_four_classes_is_iemocap_with_excited_counted_as_happy_and_the_rest_left_out() -> None:
    whole, four = (load_config(ExtractConfig, name, kind="corpora") for name in ("iemocap", "iemocap_4class"))
    chosen = {"merge": {"excited": "happy"}, "keep": ("angry", "happy", "neutral", "sad")}
    assert four == whole.model_copy(update={"corpus": whole.corpus.model_copy(update=chosen)})
    overrides = ["corpus.merge.excited=happy", "corpus.keep=[angry,happy,neutral,sad]"]
    assert load_config(ExtractConfig, "iemocap", overrides, kind="corpora") == four


@pytest.mark.parametrize("name", preset_names("methods"))
def test_every_method_preset_resolves(name: str) -> None:
    assert load_config(TrainConfig, name, kind="methods").method == name


def test_a_training_preset_changes_how_any_method_is_trained_and_nothing_else() -> None:
    one, other = (resolve_training("supcon", training=name) for name in ("paper", "small_corpus"))
    assert one == resolve_training("supcon")
    assert other.epochs == 30
    ways = {name: getattr(one, name) for name in ("epochs", "min_steps", "learning_rate", "temperature")}
    assert other.model_copy(update=ways) == one


def test_a_wrong_setting_of_any_objective_is_named_as_it_is_given() -> None:
    with pytest.raises(UsageError, match=r"objective\.texts = 'x': expected 'grid' or 'captions'"):
        load_config(TrainConfig, None, ["objective.name=ridge", "objective.texts=x"], kind="methods")


def test_leftover_settings_of_another_objective_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"objective\.denominator: no such setting"):
        resolve_training("supcon", overrides=["objective.denominator=beyond"])
    with pytest.raises(UsageError, match="2 weights for 1 labels"):
        resolve_training("emotionrankclap", overrides=["objective.labels=[valence]", "objective.weights=[1,2]"])


def test_the_method_of_the_paper_is_the_default_everywhere() -> None:
    paper = load_config(TrainConfig, "emotionrankclap", kind="methods")
    assert paper == TrainConfig()
    assert (paper.learning_rate, paper.batch_size, paper.epochs, paper.width, paper.temperature) == (
        1e-4,
        64,
        15,
        512,
        1,
    )
    assert not paper.objective.symmetric
    evaluation = EvaluateConfig()
    assert (evaluation.trials, evaluation.pairs, evaluation.lists) == (30, 5000, 100)


def test_a_manifests_path_means_the_embedded_encoders_and_the_defaults() -> None:
    config = load_config(ExtractConfig, "some/manifest.jsonl", kind="corpora")
    assert config.corpus.manifest == Path("some/manifest.jsonl")
    assert (config.audio.encoder, config.text.encoder) == ("embedded", "embedded")


def test_msp_podcast_comes_with_the_papers_encoders_and_can_be_given_the_embedded_ones() -> None:
    paper = load_config(ExtractConfig, "msp_podcast", kind="corpora")
    assert paper.audio.model == "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes"
    assert paper.text.pooling == "cls"
    own = load_config(ExtractConfig, ["msp_podcast", "encoders/embedded"], kind="corpora")
    assert own.audio == ExtractConfig().audio
    assert own.text == ExtractConfig().text
    assert own.corpus == paper.corpus


@pytest.mark.parametrize(
    ("override", "value"),
    [("learning_rate=3e-4", 3e-4), ("learning_rate=0.5", 0.5), ("learning_rate=1", 1.0), ("seeds=[1,2]", (1, 2))],
)
def test_an_override_is_read_as_yaml(override: str, value: object) -> None:
    config = load_config(TrainConfig, None, [override], kind="methods")
    assert getattr(config, override.split("=")[0]) == value


def test_a_resolved_config_is_a_config(tmp_path: Path) -> None:
    config = load_config(ExtractConfig, "iemocap", ["audio.max_seconds=8"], kind="corpora")
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load_config(ExtractConfig, tmp_path / "c.yaml", kind="corpora") == config


def test_a_file_may_build_on_a_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": "encoders/paper", "audio": {"pooling": "hidden"}}))
    config = load_config(ExtractConfig, tmp_path / "mine.yaml", kind="corpora")
    assert (config.audio.encoder, config.audio.pooling) == ("wavlm_ser", "hidden")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("audio.batch_seconds=-1", "audio.batch_seconds = -1: expected number >= 0 or auto"),
        ("corpus.scale=[1, x]", "corpus.scale = [1, 'x']: expected [number, number] or {"),
        ("audio.layers=[1, x]", "audio.layers = [1, 'x']: expected auto or all or [integer, ...] or null"),
    ],
)
def test_a_setting_of_several_types_is_one_problem_with_all_that_was_given(wrong: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(ExtractConfig, "ravdess", [wrong], kind="corpora")
    assert f"corpus ravdess: {said}" in str(caught.value)
    assert "1 problem." in str(caught.value)


@pytest.mark.parametrize(
    ("method", "overrides", "labels"),
    [
        ("emotionrankclap", [], ("valence", "arousal")),
        ("emotionrankclap", ["objective.labels=[dominance]"], ("dominance",)),
        ("supcon", [], ()),
        ("supcon", ["grid.texts=8"], ("valence", "arousal")),
        ("supcon", ["objective.targets=kernel"], ("valence", "arousal")),
        ("supcon", ["start=ridge"], ("valence", "arousal")),
        ("ridge", [], ("valence", "arousal")),
    ],
)
def test_the_labels_that_a_training_cannot_do_without(
    method: str, overrides: list[str], labels: tuple[str, ...]
) -> None:
    assert resolve_training(method, overrides=overrides).required_labels == labels


def test_every_problem_is_listed_at_once_with_suggestions() -> None:
    wrong = ["objective.denominator=atleast", "learningrate=1", "epochs=0", "batch_size=many"]
    with pytest.raises(UsageError) as caught:
        load_config(TrainConfig, "emotionrankclap", wrong, kind="methods")
    said = str(caught.value)
    assert "learningrate: no such setting; did you mean learning_rate?" in said
    for key in ("objective.denominator = 'atleast'", "epochs = 0", "batch_size = 'many'"):
        assert key in said
    assert "4 problems" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("emotionrankclip", "Did you mean emotionrankclap?"),
        ("missing.yaml", "missing.yaml: cannot be read"),
    ],
)
def test_a_config_that_is_not_there_is_said(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        load_config(TrainConfig, name, kind="methods")


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00", "a: !!python/object:os.system {}"])
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(TrainConfig, tmp_path / "c.yaml", kind="methods")
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
