"""The dimensional style: what a caption promises."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UsageError
from pipeline.data.captions.dimensional import LEVELS, TEST, TRAIN, VARIANTS, Frame, describe_point

EVERY = list(product(LEVELS, LEVELS, range(VARIANTS)))


def _texts(phrasing):
    return [describe_point(v, a, phrasing=phrasing, variant=k) for v, a, k in EVERY]


@pytest.mark.parametrize("phrasing", ["train", "test"])
def test_every_level_and_variant_has_a_sentence_of_its_own(phrasing):
    assert len(LEVELS) == 14
    assert len(set(_texts(phrasing))) == 14 * 14 * 8


def test_no_test_sentence_and_no_test_frame_is_a_train_one():
    assert not set(_texts("train")) & set(_texts("test"))
    assert not {f.sentence for f in TRAIN} & {f.sentence for f in TEST}


@pytest.mark.parametrize("axis", ["valence", "arousal"])
def test_no_phrase_serves_two_levels_or_both_phrasings(axis):
    homes: dict[str, set] = {}
    for name, frames in (("train", TRAIN), ("test", TEST)):
        for frame in frames:
            for level, phrase in enumerate(getattr(frame, axis)):
                homes.setdefault(phrase, set()).add((name, level))
    assert {phrase: where for phrase, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize("phrasing", ["train", "test"])
def test_a_caption_is_one_sentence_without_numbers_that_starts_as_the_papers(phrasing):
    for text in _texts(phrasing):
        assert text.startswith("The person is speaking")
        assert text.endswith(".")
        assert text.count(".") == 1
        assert "  " not in text
        assert not any(character.isdigit() or character in "{}!?" for character in text)


@pytest.mark.parametrize("frame", [*TRAIN, *TEST], ids=lambda frame: frame.sentence)
def test_a_frame_holds_one_phrase_of_each_axis_and_complete_ladders(frame: Frame):
    assert frame.sentence.count("{v}") == frame.sentence.count("{a}") == 1
    assert len(frame.valence) == len(frame.arousal) == 14


@given(valence=st.floats(0.5, 7), arousal=st.floats(0.5, 7), variant=st.integers(0, 7))
def test_a_label_reads_as_its_nearest_half_point(valence, arousal, variant):
    near = [min(LEVELS, key=lambda level: (abs(level - label), -level)) for label in (valence, arousal)]
    assert describe_point(valence, arousal, phrasing="train", variant=variant) == describe_point(
        *near, phrasing="train", variant=variant
    )


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 0.49, 7.01, -1.0])
@pytest.mark.parametrize("axis", ["valence", "arousal"])
def test_a_label_off_the_scale_is_a_usage_error_that_names_its_axis(label, axis):
    labels = {"valence": 4.0, "arousal": 4.0, axis: label}
    with pytest.raises(UsageError, match=rf"{axis}: .*expected a number from 0.5 to 7.0"):
        describe_point(**labels, phrasing="train", variant=0)


@pytest.mark.parametrize("variant", [-1, 8])
def test_a_paraphrase_that_does_not_exist_is_a_usage_error(variant):
    with pytest.raises(UsageError, match="expected 0 to 7"):
        describe_point(4.0, 4.0, phrasing="test", variant=variant)
