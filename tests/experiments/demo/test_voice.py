"""The synthetic voice."""

import sys

import numpy as np
import pytest

from pipeline.core.errors import UsageError
from pipeline.experiments.demo.corpus import SENTENCES, SPEAKERS
from pipeline.experiments.demo.voice import Prosody, Voice


@pytest.fixture(scope="module")
def voice():
    pytest.importorskip("espeakng_loader", reason="needs the `demo` extra")
    return Voice()


def seconds(voice, **settings):
    return len(voice.synthesize(SENTENCES[0], Prosody("en-us+m1", **settings))) / voice.sample_rate


def test_a_sentence_sounds_the_same_whatever_was_said_before(voice):
    first = {s.name: voice.synthesize(SENTENCES[0], Prosody(s.voice)) for s in SPEAKERS}
    for speaker in reversed(SPEAKERS):
        again = voice.synthesize(SENTENCES[0], Prosody(speaker.voice))
        assert np.array_equal(first[speaker.name], again), speaker.name


def test_speech_is_float32_within_full_scale_and_not_silent(voice):
    wave = voice.synthesize(SENTENCES[0], Prosody("en-us+m1"))
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert 0.1 < np.abs(wave).max() <= 1
    assert 1 < len(wave) / voice.sample_rate < 5


def test_a_higher_rate_is_shorter_and_a_higher_volume_louder(voice):
    assert seconds(voice, rate=300) < 0.7 * seconds(voice, rate=150)
    soft, loud = (voice.synthesize(SENTENCES[0], Prosody("en-us+m1", volume=volume)) for volume in (25, 100))
    assert loud.std() > 3.5 * soft.std()


def test_a_voice_that_does_not_exist_is_a_usage_error(voice):
    with pytest.raises(UsageError, match="voice xx-nowhere: unknown"):
        voice.synthesize("Hello.", Prosody("xx-nowhere"))


def test_no_text_is_no_sound(voice):
    assert len(voice.synthesize("", Prosody("en-us+m1"))) < voice.sample_rate / 10


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match=r"pip install 'emotionrankclap\[demo\]'"):
        Voice()
