"""WavLM, HuBERT and wav2vec 2.0 folders, with and without heads, equal transformers' own forward on one clip."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMForXVector,
    WavLMModel,
)

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from tests.extraction.encoders import tiny

BARE = {
    "hubert": (HubertModel, HubertConfig),
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config),
    "wavlm": (WavLMModel, WavLMConfig),
}
HEADED = {
    "hubert": (HubertForSequenceClassification, HubertConfig),
    "wav2vec2": (Wav2Vec2ForPreTraining, Wav2Vec2Config),
    "ctc": (Wav2Vec2ForCTC, Wav2Vec2Config),
    "wavlm": (WavLMForXVector, WavLMConfig),
}
LIKE = {"layer": tiny.LARGE_LIKE, "group": tiny.BASE_LIKE}


def build(classes, **more):
    model, config = classes
    return tiny.shaken(model(config(**{**tiny.FEATURES, "vocab_size": 8, **more})))


def load(folder, **more):
    return load_encoder("audio", AudioConfig(encoder="transformers", model=str(folder), **more), "cpu")


def prepared(wave, do_normalize):
    samples = torch.tensor(wave)
    if do_normalize:
        samples = (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)
    return samples[None]


@pytest.mark.parametrize("kind", BARE)
@pytest.mark.parametrize("norm", LIKE)
@pytest.mark.parametrize("do_normalize", [False, True])
def test_the_last_hidden_state_is_pooled_over_frames(tmp_path, kind, norm, do_normalize):
    model = build(BARE[kind], **LIKE[norm])
    encoder = load(tiny.save_speech(tmp_path, model, do_normalize=do_normalize))
    wave = tiny.wave(1.2)
    with torch.no_grad():
        expected = model(prepared(wave, do_normalize)).last_hidden_state[0].mean(0)
    torch.testing.assert_close(encoder.encode([wave])[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BARE)
@pytest.mark.parametrize("norm", LIKE)
@pytest.mark.parametrize("layer", [0, 1, -2])
def test_an_inner_layer_equals_transformers_hidden_state(tmp_path, kind, norm, layer):
    model = build(BARE[kind], **LIKE[norm])
    wave = tiny.wave(1.2)
    with torch.no_grad():
        expected = model(prepared(wave, True), output_hidden_states=True).hidden_states[layer][0]
    encoder = load(tiny.save_speech(tmp_path, model, do_normalize=True), layer=layer, pooling="mean_std")
    statistics = torch.cat([expected.mean(0), expected.std(0, correction=0)])
    assert encoder.dim == 64
    torch.testing.assert_close(encoder.encode([wave])[0], statistics, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", LIKE)
@pytest.mark.parametrize("padding", ["masked", "fixed_masked"])
def test_a_hubert_with_a_batch_norm_gives_one_vector_alone_and_in_a_batch(tmp_path, norm, padding):
    model = build(BARE["hubert"], **LIKE[norm], conv_pos_batch_norm=True)
    batch_norm = model.encoder.pos_conv_embed.batch_norm
    with torch.no_grad():
        batch_norm.running_mean.copy_(torch.linspace(-1, 1, 32))
        batch_norm.running_var.copy_(torch.linspace(0.5, 2, 32))
    encoder = load(tiny.save_speech(tmp_path, model, do_normalize=True), padding=padding, max_seconds=2)
    waves = [tiny.wave(seconds, seed) for seed, seconds in enumerate((1.2, 0.7, 1.9, 0.7))]
    together = encoder.encode(waves)
    for row, wave in enumerate(waves):
        torch.testing.assert_close(encoder.encode([wave])[0], together[row], atol=1e-6, rtol=1e-6)
    if padding == "masked":
        with torch.no_grad():
            expected = [model(prepared(wave, True)).last_hidden_state[0].mean(0) for wave in waves]
        torch.testing.assert_close(together, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", HEADED)
def test_heads_are_left_out(tmp_path, kind):
    model = build(HEADED[kind], **tiny.LARGE_LIKE)
    wave = tiny.wave(1)
    with torch.no_grad():
        expected = model.base_model(prepared(wave, True)).last_hidden_state[0].mean(0)
    encoder = load(tiny.save_speech(tmp_path, model, do_normalize=True))
    torch.testing.assert_close(encoder.encode([wave])[0], expected, atol=1e-5, rtol=1e-5)


def test_the_older_names_of_the_positional_convolution_are_accepted(tmp_path):
    folder = tiny.save_speech(tmp_path, build(BARE["hubert"], **tiny.BASE_LIKE), do_normalize=True)
    before = load(folder).encode([tiny.wave(1)])
    state = load_file(folder / "model.safetensors")
    for new, old in zip(tiny.CURRENT, tiny.OLDER, strict=True):
        start = "encoder.pos_conv_embed.conv."
        if start + new in state:
            state[start + old] = state.pop(start + new)
    assert "encoder.pos_conv_embed.conv.weight_g" in state
    save_file(state, folder / "model.safetensors")
    assert torch.equal(load(folder).encode([tiny.wave(1)]), before)


def test_a_renamed_weight_is_refused_with_a_guess(tmp_path):
    folder = tiny.save_speech(tmp_path, build(HEADED["wavlm"], **tiny.LARGE_LIKE), do_normalize=True)
    state = load_file(folder / "model.safetensors")
    state["wavlm.encoder.layers.1.final_layernorm.weight"] = state.pop("wavlm.encoder.layers.1.final_layer_norm.weight")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"1\.final_layer_norm\.weight.*missing.*final_layernorm\.weight.*renamed"):
        load(folder)


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_refused(tmp_path, layer):
    folder = tiny.save_speech(tmp_path, build(BARE["hubert"]), do_normalize=True)
    with pytest.raises(UsageError, match=f"layer {layer}.*from 0 to 2"):
        load(folder, layer=layer)


def test_the_hidden_pooling_of_another_model_is_refused(tmp_path):
    folder = tiny.save_speech(tmp_path, build(BARE["hubert"]), do_normalize=True)
    with pytest.raises(UsageError, match=r"pooling hidden.*mean or mean_std"):
        load(folder, pooling="hidden")


def test_a_text_model_is_refused_as_a_speech_encoder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(UsageError, match=r"model_type roberta.*wavlm, hubert, wav2vec2, whisper"):
        load(tmp_path)


def test_a_folder_without_preprocessor_settings_is_refused(tmp_path):
    folder = tiny.save_speech(tmp_path, build(BARE["hubert"]), do_normalize=True)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"preprocessor_config\.json: no such file"):
        load(folder)


def test_settings_inside_processor_config_are_read(tmp_path):
    folder = tiny.save_speech(tmp_path, build(BARE["hubert"]), do_normalize=False)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    assert load(folder).fingerprint()["do_normalize"] is False
