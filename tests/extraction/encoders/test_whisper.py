"""Whisper at native length: exact in batches, and transformers' own encoder where both can run (30 s)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.whisper import LogMel
from tests.extraction.encoders import tiny

SHAPE = {**tiny.WHISPER, "encoder_layers": 3}


def save(folder, kind=WhisperModel):
    model = tiny.shaken(kind(WhisperConfig(**SHAPE)))
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20).save_pretrained(folder)
    return model


def load(folder, **more):
    return load_encoder("audio", AudioConfig(encoder="transformers", model=str(folder), **more), "cpu")


def extracted(wave, **more):
    return WhisperFeatureExtractor(feature_size=20)(wave, sampling_rate=tiny.RATE, return_tensors="pt", **more)


@pytest.mark.parametrize("kind", [WhisperModel, WhisperForConditionalGeneration, WhisperForAudioClassification])
def test_thirty_seconds_equal_transformers_own_encoder_at_every_layer(tmp_path, kind):
    model = save(tmp_path, kind)
    wave = tiny.wave(4)
    with torch.no_grad():
        encoder = model.encoder if hasattr(model, "encoder") else model.get_encoder()
        expected = encoder(extracted(wave).input_features, output_hidden_states=True)
    states = [*expected.hidden_states[:3], expected.last_hidden_state]
    for layer, state in enumerate(states):
        mine = load(tmp_path, layer=layer, padding="fixed", max_seconds=30).encode([wave])
        torch.testing.assert_close(mine[0], state[0].mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 2, None])
@pytest.mark.parametrize("padding", ["masked", "fixed_masked"])
def test_a_clip_among_others_equals_the_clip_alone(tmp_path, layer, padding):
    save(tmp_path)
    encoder, alone = load(tmp_path, layer=layer, padding=padding), load(tmp_path, layer=layer)
    waves = [tiny.wave(seconds, i) for i, seconds in enumerate((1.0, 2.37, 0.61, 2.370625, 0.3))]
    single = torch.cat([alone.encode([wave]) for wave in waves])
    torch.testing.assert_close(encoder.encode(waves), single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [401, 480, 800, 16000, 16001, 16159, 31999])
def test_the_mel_of_a_batch_equals_the_published_extractor_clip_by_clip(samples):
    waves = [tiny.wave(0.7, 1), tiny.wave(2, 2)[:samples], 30 * tiny.wave(1.1, 3), 1e-4 * tiny.wave(1, 4)]
    waves[-1][-3:] = 20  # a click at the very end is loudest in frames that are not the clip's own any more
    mel, counts = LogMel(WhisperFeatureExtractor(feature_size=20), "cpu")([torch.tensor(wave) for wave in waves])
    for row, count, wave in zip(mel, counts, waves, strict=True):
        expected = extracted(wave, padding=False, truncation=False).input_features[0]
        assert count == expected.shape[-1]
        torch.testing.assert_close(row[:, :count], expected, atol=2e-5, rtol=1e-5)
        assert not row[:, count:].any()


def test_layers_above_the_pooled_one_are_not_kept(tmp_path):
    save(tmp_path)
    assert [len(load(tmp_path, layer=layer).model.layers) for layer in (0, 2, -1)] == [0, 2, 3]


def test_a_renamed_encoder_weight_is_refused_by_name(tmp_path):
    save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["encoder.layers.0.self_attn.query.weight"] = state.pop("encoder.layers.0.self_attn.q_proj.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"layers\.0\.self_attn\.q_proj\.weight.*missing.*self_attn\.query"):
        load(tmp_path)


def test_a_file_without_an_encoder_is_refused(tmp_path):
    save(tmp_path)
    save_file({"decoder.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="no weights of an encoder"):
        load(tmp_path)


def test_a_clip_beyond_thirty_seconds_is_refused(tmp_path):
    save(tmp_path)
    with pytest.raises(UsageError, match="at most 1500"):
        load(tmp_path).encode([np.zeros(31 * tiny.RATE, np.float32)])


def test_the_mel_of_the_folder_is_declared(tmp_path):
    save(tmp_path)
    assert load(tmp_path).fingerprint()["mel"] == [20, 400, 160]
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"hop_length": 80}))
    assert load(tmp_path).fingerprint()["mel"] == [20, 400, 80]
