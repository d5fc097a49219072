"""The dimensional style: what a caption promises."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UsageError
from pipeline.data.captions.dimensional import LEVELS, VARIANTS, Template, describe_point, templates

EVERY = list(product(LEVELS, LEVELS, range(VARIANTS)))


def _texts(split):
    return [describe_point(v, a, split=split, variant=k) for v, a, k in EVERY]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_level_and_variant_has_a_sentence_of_its_own(split):
    assert len(LEVELS) == 14
    assert len(set(_texts(split))) == 14 * 14 * 8


def test_no_test_sentence_and_no_test_template_is_a_train_one():
    assert not set(_texts("train")) & set(_texts("test"))
    assert not {t.sentence for t in templates("train")} & {t.sentence for t in templates("test")}


@pytest.mark.parametrize("axis", ["valence", "arousal"])
def test_no_phrase_serves_two_levels_or_both_splits(axis):
    homes: dict[str, set] = {}
    for split in ("train", "test"):
        for template in templates(split):
            for level, phrase in enumerate(getattr(template, axis)):
                homes.setdefault(phrase, set()).add((split, level))
    assert {phrase: where for phrase, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_caption_is_one_sentence_without_numbers_that_starts_as_the_papers(split):
    for text in _texts(split):
        assert text.startswith("The person is speaking")
        assert text.endswith(".")
        assert text.count(".") == 1
        assert "  " not in text
        assert not any(character.isdigit() or character in "{}!?" for character in text)


@pytest.mark.parametrize("template", [*templates("train"), *templates("test")], ids=lambda template: template.sentence)
def test_a_template_holds_one_phrase_of_each_axis_and_all_graded_phrases(template: Template):
    assert template.sentence.count("{v}") == template.sentence.count("{a}") == 1
    assert len(template.valence) == len(template.arousal) == 14


@given(valence=st.floats(0.5, 7), arousal=st.floats(0.5, 7), variant=st.integers(0, 7))
def test_a_label_reads_as_its_nearest_half_point(valence, arousal, variant):
    near = [min(LEVELS, key=lambda level: (abs(level - label), -level)) for label in (valence, arousal)]
    assert describe_point(valence, arousal, split="train", variant=variant) == describe_point(
        *near, split="train", variant=variant
    )


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 0.49, 7.01, -1.0])
@pytest.mark.parametrize("axis", ["valence", "arousal"])
def test_a_label_off_the_scale_is_a_usage_error_that_names_its_axis(label, axis):
    labels = {"valence": 4.0, "arousal": 4.0, axis: label}
    with pytest.raises(UsageError, match=rf"{axis}: .*expected a number from 0.5 to 7.0"):
        describe_point(**labels, split="train", variant=0)


@pytest.mark.parametrize("variant", [-1, 8])
def test_a_paraphrase_that_does_not_exist_is_a_usage_error(variant):
    with pytest.raises(UsageError, match="expected 0 to 7"):
        describe_point(4.0, 4.0, split="test", variant=variant)
