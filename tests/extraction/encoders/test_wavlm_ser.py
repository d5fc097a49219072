"""The published SER checkpoint, by a plain module: every weight used, every pooling as F19 says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.wavlm_ser import Settings
from tests.extraction.encoders import tiny

NAMES = {"current": tiny.CURRENT, "older": tiny.OLDER}


def load(folder: Path, **more: object):
    return load_encoder("audio", AudioConfig(encoder="wavlm_ser", model=str(folder), **more), "cpu")


def plain(model, state: dict[str, torch.Tensor], wave, pooling: str) -> torch.Tensor:
    """One clip, frame by frame, as F18 and F19 print it."""
    normalised = (torch.tensor(wave) - tiny.MEAN) / (tiny.STD + 1e-6)
    with torch.no_grad():
        frames = model(normalised[None]).last_hidden_state[0].double()
    head = {name: tensor.double() for name, tensor in state.items() if not name.startswith("ssl_model.")}
    scores = []
    for x in frames:
        hidden = torch.tanh(head["pool_model.sap_linear.weight"] @ x + head["pool_model.sap_linear.bias"])
        scores.append(float(hidden @ head["pool_model.attention"][:, 0]))
    total = sum(math.exp(score) for score in scores)
    weights = [math.exp(score) / total for score in scores]
    mu = sum(w * x for w, x in zip(weights, frames, strict=True))
    second = sum(w * x * x for w, x in zip(weights, frames, strict=True))
    sigma = torch.sqrt(torch.clamp(second - mu * mu, min=1e-5))
    both = torch.cat([mu, sigma])
    if pooling != "hidden":
        return (mu if pooling == "mean" else both).float()
    linear = head["ser_model.fc.0.0.weight"] @ both + head["ser_model.fc.0.0.bias"]
    centred = (linear - linear.mean()) / torch.sqrt(linear.var(correction=0) + 1e-5)
    return torch.relu(centred * head["ser_model.fc.0.1.weight"] + head["ser_model.fc.0.1.bias"]).float()


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize(("pooling", "width"), [("mean", 32), ("hidden", 32), ("mean_std", 64)])
def test_a_published_checkpoint_equals_the_plain_computation(tmp_path, names, pooling, width):
    model = tiny.wavlm()
    state = tiny.ser_state(model, NAMES[names])
    encoder = load(tiny.save_ser(tmp_path, state), pooling=pooling)
    wave = tiny.wave(1.3)
    vector = encoder.encode([wave])
    assert vector.shape == (1, width) == (1, encoder.dim)
    assert vector.dtype == torch.float32
    torch.testing.assert_close(vector[0], plain(model, state, wave, pooling), atol=1e-5, rtol=1e-5)


def test_waveforms_are_normalised_by_the_corpus_before_anything_else():
    settings = Settings(mean=0.25, std=1e-6, ssl_type="microsoft/wavlm-large", sampling_rate=16000)
    expected = torch.tensor([0.0, 0.25 / 2e-6])  # 1e-6 is added to the deviation
    torch.testing.assert_close(settings.normalise(torch.tensor([0.25, 0.5])), expected)


def test_a_pickled_checkpoint_equals_the_safe_one(tmp_path):
    state = tiny.ser_state(tiny.wavlm(), tiny.OLDER)
    safe, pickled = tiny.save_ser(tmp_path / "safe", state), tiny.save_ser(tmp_path / "pickled", state)
    (pickled / "model.safetensors").unlink()
    torch.save(state, pickled / "pytorch_model.bin")
    assert torch.equal(load(safe).encode([tiny.wave(1)]), load(pickled).encode([tiny.wave(1)]))


def test_a_group_normalised_wavlm_is_told_by_its_shapes(tmp_path):
    model = tiny.wavlm(**tiny.BASE_LIKE)
    state = tiny.ser_state(model)
    encoder = load(tiny.save_ser(tmp_path, state, "microsoft/wavlm-base-plus"))
    wave = tiny.wave(1.1)
    torch.testing.assert_close(encoder.encode([wave])[0], plain(model, state, wave, "mean"), atol=1e-5, rtol=1e-5)


def test_only_the_masking_vector_may_be_missing(tmp_path):
    state = tiny.ser_state(tiny.wavlm())
    whole = load(tiny.save_ser(tmp_path / "whole", state))
    del state["ssl_model.masked_spec_embed"]
    lacking = load(tiny.save_ser(tmp_path / "lacking", state))
    assert torch.equal(whole.encode([tiny.wave(1)]), lacking.encode([tiny.wave(1)]))


def test_any_other_missing_weight_is_refused_by_name(tmp_path):
    whole = tiny.ser_state(tiny.wavlm())
    for name in set(whole) - {"ssl_model.masked_spec_embed"}:
        folder = tiny.save_ser(tmp_path, {other: tensor for other, tensor in whole.items() if other != name})
        with pytest.raises(UsageError) as refusal:
            load(folder)
        assert f"{name.removeprefix('ssl_model.')}` is missing" in str(refusal.value)


def test_a_renamed_weight_is_refused_with_a_guess(tmp_path):
    state = tiny.ser_state(tiny.wavlm())
    state["ssl_model.encoder.layers.1.attention.query_proj.weight"] = state.pop(
        "ssl_model.encoder.layers.1.attention.q_proj.weight"
    )
    with pytest.raises(UsageError, match=r"1\.attention\.q_proj\.weight.*missing.*query_proj.*renamed"):
        load(tiny.save_ser(tmp_path, state))


def test_an_extra_weight_is_refused_by_name(tmp_path):
    state = tiny.ser_state(tiny.wavlm())
    state["ser_model.fc.1.0.weight"] = torch.zeros(32, 32)
    with pytest.raises(UsageError, match=r"`ser_model\.fc\.1\.0\.weight` is left over"):
        load(tiny.save_ser(tmp_path, state))


def test_a_weight_of_another_shape_is_refused_by_name(tmp_path):
    state = tiny.ser_state(tiny.wavlm())
    state["pool_model.sap_linear.weight"] = torch.zeros(32, 31)
    with pytest.raises(UsageError, match=r"pool_model\.sap_linear\.weight.*\(32, 31\).*expected \(32, 32\)"):
        load(tiny.save_ser(tmp_path, state))


def test_one_weight_under_both_names_is_refused(tmp_path):
    state = tiny.ser_state(tiny.wavlm())
    state |= tiny.ser_state(tiny.wavlm(), tiny.OLDER)
    with pytest.raises(UsageError, match="two names"):
        load(tiny.save_ser(tmp_path, state))


def test_another_ssl_type_is_refused_with_a_suggestion(tmp_path):
    with pytest.raises(UsageError, match="Did you mean microsoft/wavlm-large"):
        load(tiny.save_ser(tmp_path, tiny.ser_state(tiny.wavlm()), "microsoft/wavlm-larg"))


def test_an_ssl_type_that_the_weights_contradict_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"layer-normalised.*group norm"):
        load(tiny.save_ser(tmp_path, tiny.ser_state(tiny.wavlm()), "microsoft/wavlm-base"))


def test_a_config_without_the_mean_is_refused(tmp_path):
    folder = tiny.save_ser(tmp_path, tiny.ser_state(tiny.wavlm()))
    config = (folder / "config.json").read_text().replace('"mean"', '"average"')
    (folder / "config.json").write_text(config)
    with pytest.raises(UsageError, match="no `mean`"):
        load(folder)


def test_another_layer_than_the_last_is_refused(tmp_path):
    folder = tiny.save_ser(tmp_path, tiny.ser_state(tiny.wavlm()))
    assert load(folder, layer=-1).fingerprint() == load(folder, layer=2).fingerprint() == load(folder).fingerprint()
    with pytest.raises(UsageError, match="layer 1"):
        load(folder, layer=1)


def test_the_published_remote_code_is_never_executed(tmp_path):
    folder = tiny.save_ser(tmp_path / "model", tiny.ser_state(tiny.wavlm()))
    marker = tmp_path / "executed"
    (folder / "pipeline_utils.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    load(folder).encode([tiny.wave(0.5)])
    assert not marker.exists()


@pytest.mark.slow
def test_a_checkpoint_of_the_published_size_loads_and_encodes(tmp_path):
    large = {
        "conv_dim": (512,) * 7,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
    }
    from transformers import WavLMConfig, WavLMModel

    model = WavLMModel(WavLMConfig(**large, **tiny.LARGE_LIKE)).eval()
    state = tiny.ser_state(model)
    wave = tiny.wave(2)
    expected = plain(model, state, wave, "mean")
    vector = load(tiny.save_ser(tmp_path, state)).encode([wave])
    assert vector.shape == (1, 1024)
    torch.testing.assert_close(vector[0], expected, atol=1e-4, rtol=1e-4)
