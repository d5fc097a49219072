"""What every encoder promises: a vector that does not depend on its batch, and the same bits again (F32)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from tests.extraction.encoders import test_transformers_text, test_whisper, tiny

WAVES = [tiny.wave(seconds, i) for i, seconds in enumerate((0.8, 2.1, 0.31, 2.1, 1.37, 1.3701))]


def wavlm(folder):
    return tiny.save_ser(folder, tiny.ser_state(tiny.wavlm())), "wavlm_ser"


def wavlm_group(folder):
    state = tiny.ser_state(tiny.wavlm(**tiny.BASE_LIKE))
    return tiny.save_ser(folder, state, "microsoft/wavlm-base-plus"), "wavlm_ser"


def hubert(folder):
    model = tiny.shaken(HubertModel(HubertConfig(**tiny.FEATURES, **tiny.LARGE_LIKE)))
    return tiny.save_speech(folder, model, do_normalize=True), "transformers"


def wav2vec2_group(folder):
    model = tiny.shaken(Wav2Vec2Model(Wav2Vec2Config(**tiny.FEATURES, **tiny.BASE_LIKE)))
    return tiny.save_speech(folder, model, do_normalize=True), "transformers"


def whisper(folder):
    test_whisper.save(folder)
    return folder, "transformers"


def embedded(folder):
    return None, "embedded"


SPEECH = [wavlm, wavlm_group, hubert, wav2vec2_group, whisper, embedded]


@pytest.fixture(params=SPEECH, ids=lambda make: make.__name__)
def load(request, tmp_path):
    folder, kind = request.param(tmp_path)
    model = None if folder is None else str(folder)
    return lambda **more: load_encoder("audio", AudioConfig(encoder=kind, model=model, **more), "cpu")


@pytest.mark.parametrize("padding", ["masked", "fixed_masked", "fixed"])
def test_a_vector_does_not_depend_on_its_batch(load, padding):
    encoder = load(padding=padding, max_seconds=2.5)
    alone = torch.cat([encoder.encode([wave]) for wave in WAVES])
    torch.testing.assert_close(encoder.encode(WAVES), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.encode(WAVES[::-1]).flip(0), alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[1], alone[3], atol=1e-4)  # equal lengths, other sounds


def test_the_same_batch_gives_the_same_bits_wherever_it_lies_in_memory(load):
    encoder = load()
    before = encoder.encode(WAVES)
    moved = []
    for wave in WAVES:
        shifted = np.concatenate([np.zeros(1, np.float32), wave])[1:]  # 4 bytes off the alignment
        shifted.flags.writeable = False
        moved.append(shifted)
    assert torch.equal(encoder.encode(moved), before)
    assert torch.equal(load().encode(WAVES), before)
    assert before.device.type == "cpu"
    assert before.dtype == torch.float32
    assert before.shape == (len(WAVES), encoder.dim)


@pytest.mark.parametrize("load", [wavlm, hubert, whisper, embedded], indirect=True)  # group norms see their padding
def test_masked_padding_to_a_fixed_length_changes_no_vector(load):
    vectors = load(padding="fixed_masked", max_seconds=3.3).encode(WAVES)
    torch.testing.assert_close(vectors, load().encode(WAVES), atol=1e-5, rtol=1e-5)


def test_fixed_padding_equals_zeros_appended_by_hand(load):
    encoder = load()
    if hasattr(encoder, "normalise"):  # these normalise before they pad (F18)
        longer = [np.pad(encoder.normalise(torch.tensor(wave)).numpy(), (0, 48000 - len(wave))) for wave in WAVES]
        encoder = replace(encoder, normalise=lambda wave: wave)
    else:
        longer = [np.pad(wave, (0, 48000 - len(wave))) for wave in WAVES]
    fixed = load(padding="fixed", max_seconds=3).encode(WAVES)
    torch.testing.assert_close(fixed, encoder.encode(longer), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(fixed, load().encode(WAVES), atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 199, 399, 400, 401, 721])
def test_a_very_short_clip_has_a_vector_of_its_own(load, samples):
    encoder = load()
    clip = WAVES[0][:samples]
    alone = encoder.encode([clip])
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(encoder.encode([WAVES[1], clip])[1:], alone, atol=1e-5, rtol=1e-5)


def test_silence_has_a_finite_vector(load):
    assert torch.isfinite(load(pooling="mean_std").encode([np.zeros(16000, np.float32), WAVES[0]])).all()


def test_no_clips_give_no_vectors(load):
    encoder = load()
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_clip_longer_than_a_fixed_length_is_refused(load):
    with pytest.raises(UsageError, match="33600 samples; expected at most 16000"):
        load(padding="fixed", max_seconds=1).encode(WAVES)


def test_the_fingerprint_tells_what_changes_a_vector_and_nothing_else(load, tmp_path):
    before = load().fingerprint()
    assert json.loads(json.dumps(before)) == before
    assert str(tmp_path) not in json.dumps(before)
    assert load(batch_seconds=3.0).fingerprint() == before
    for change in ({"pooling": "mean_std"}, {"padding": "fixed"}):
        after = load(**change).fingerprint()
        assert {name for name in before if before[name] != after[name]} == set(change)


@pytest.fixture(params=["roberta", "embedded"])
def text(request, tmp_path):
    if request.param == "embedded":
        return lambda **more: load_encoder("text", TextConfig(**more), "cpu")
    model = str(test_transformers_text.save(tmp_path))
    return lambda **more: load_encoder("text", TextConfig(encoder="transformers", model=model, **more), "cpu")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sentence_does_not_depend_on_its_batch(text, pooling):
    encoder = text(pooling=pooling)
    texts = ["sad", "The person is speaking with a great deal of energy. " * 4, "", "calm, almost bored", "sad"]
    together = encoder.encode(texts)
    torch.testing.assert_close(together, torch.cat([encoder.encode([each]) for each in texts]), atol=1e-5, rtol=1e-5)
    assert torch.equal(encoder.encode(texts), together)
    assert not torch.allclose(together[0], together[3], atol=1e-4)
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert json.loads(json.dumps(encoder.fingerprint())) == encoder.fingerprint()
