"""The forward of our own equals transformers' (the oracle) on every frame that is a clip's own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel

from pipeline.core.config import AudioConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders import wavlm as products
from pipeline.extraction.encoders.base import frame_mask
from pipeline.extraction.encoders.speech import (
    Stock,
    deviation,
    fold_weight_norm,
    forward_of,
    frame_counts,
    stop_after,
    with_precision,
)
from pipeline.extraction.encoders.wavlm import WavLM, supports
from tests.extraction.encoders import tiny

LIKE = {"large": tiny.LARGE_LIKE, "base": tiny.BASE_LIKE}
FULL = {  # the published shapes (F2, F20)
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    | {"conv_bias": False, **tiny.LARGE_LIKE},
    "base": tiny.BASE_LIKE,
}


def models(config: WavLMConfig, shake=tiny.shaken):
    """transformers' model, and a second one with its weights, folded."""
    torch.manual_seed(0)
    oracle = shake(WavLMModel(config)).requires_grad_(False)
    folded = WavLMModel(config).eval().requires_grad_(False)
    folded.load_state_dict(oracle.state_dict())
    fold_weight_norm(folded)
    return oracle, folded


def batch(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    own = torch.tensor(lengths)
    samples = torch.randn(len(lengths), max(lengths), generator=generator)
    return samples * frame_mask(own, samples.shape[1]), own


def last_state(forward, samples, own, *, padded=True):
    return list(forward(samples, own, padded=padded))[-1]


def assert_equal_on_own_frames(oracle, ours, samples, own, *, padded=True):
    """To 1e-5 of the largest number in a clip's frames, and in their mean to 1e-5.

    With a group norm, transformers lets padding count; there each clip is given to it alone.
    """
    alone = padded and oracle.config.feat_extract_norm == "group"
    with torch.inference_mode():
        got = last_state(ours, samples, own, padded=padded)
        stock = Stock(oracle)
        whole = None if alone else last_state(stock, samples, own, padded=padded)
        for i, count in enumerate(frame_counts(own, oracle.config).tolist()):
            own_samples = samples[i : i + 1, : int(own[i])]
            clip = own_samples, own[i : i + 1]
            expected = last_state(stock, *clip, padded=padded)[0] if whole is None else whole[i]
            here, there = got[i, :count], expected[:count]
            torch.testing.assert_close(here, there, atol=1e-5 * max(1.0, float(there.abs().max())), rtol=0)
            torch.testing.assert_close(here.mean(0), there.mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [15, 16])
def test_it_equals_transformers_on_clips_of_odd_lengths(like, bias, kernel):
    config = WavLMConfig(**{**tiny.FEATURES, **LIKE[like], "conv_bias": bias, "num_conv_pos_embeddings": kernel})
    oracle, folded = models(config)
    assert_equal_on_own_frames(oracle, WavLM(folded), *batch([16001, 400, 9999, 12_345]))
    assert_equal_on_own_frames(oracle, WavLM(folded), *batch([7_777, 7_777]))


@pytest.mark.parametrize("like", LIKE)
def test_it_equals_transformers_when_the_padding_counts(like):
    oracle, folded = models(WavLMConfig(**tiny.FEATURES, **LIKE[like]))
    assert_equal_on_own_frames(oracle, WavLM(folded), *batch([8_000, 16_000]), padded=False)


@settings(deadline=None, max_examples=25)
@given(
    like=st.sampled_from(sorted(LIKE)),
    heads=st.sampled_from([1, 2, 4]),
    buckets=st.sampled_from([8, 20, 320]),
    farthest=st.sampled_from([6, 40, 800]),
    layers=st.integers(1, 3),
    lengths=st.lists(st.integers(400, 20_000), min_size=1, max_size=4),
)
def test_it_equals_transformers_whatever_the_shape(like, heads, buckets, farthest, layers, lengths):
    more = {"num_attention_heads": heads, "num_buckets": buckets, "max_bucket_distance": farthest}
    config = WavLMConfig(**{**tiny.FEATURES, **LIKE[like], **more, "num_hidden_layers": layers})
    if farthest <= buckets // 4:  # the logarithm of transformers' own formula would be that of 1 or less
        return
    oracle, folded = models(config)
    assert_equal_on_own_frames(oracle, WavLM(folded), *batch(lengths))


@pytest.mark.parametrize("length", [1, 2, 30, 499, 1499])
def test_the_position_bias_is_transformers_own(length):
    attention = tiny.wavlm().encoder.layers[0].attention
    ours = WavLM(models(WavLMConfig(**tiny.FEATURES, **tiny.LARGE_LIKE))[1]).bias
    ours.weight = attention.rel_attn_embed.weight.detach()
    assert torch.equal(ours(length), attention.compute_bias(length, length))


@pytest.mark.parametrize("gone", ["_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported"])
@pytest.mark.parametrize("like", LIKE)
def test_it_equals_transformers_where_torch_has_no_packed_products(like, gone, monkeypatch):
    left = {name: getattr(products._oneDNN, name) for name in products._PRIVATE if name != gone}
    monkeypatch.setattr(products, "_oneDNN", SimpleNamespace(**left))
    oracle, folded = models(WavLMConfig(**tiny.FEATURES, **LIKE[like]))
    ours = WavLM(folded)
    assert not ours.projection.packed
    assert_equal_on_own_frames(oracle, ours, *batch([16001, 400, 9999]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("like", LIKE)
def test_lower_precision_stays_near_float32_and_keeps_its_residuals_in_it(like, dtype):
    _, folded = models(WavLMConfig(**tiny.FEATURES, **LIKE[like]))
    samples, own = batch([16_000, 9_999])
    with torch.inference_mode():
        exact, rough = last_state(WavLM(folded), samples, own), last_state(WavLM(folded, dtype), samples, own)
    assert rough.dtype == torch.float32
    own_frames = frame_mask(frame_counts(own, folded.config), exact.shape[1])
    assert torch.cosine_similarity(exact, rough, dim=-1)[own_frames].min() > 0.99
    assert (rough != rough.to(dtype).float()).any()
    assert not torch.equal(exact, rough)


def convolution(*, wrong):
    """conv1d rounded from float32; or, for bfloat16 in oneDNN with 4 or 8 channels a group, as wrong as F52 found."""

    def conv1d(x, weight, bias, *, padding, groups):
        exact = torch.nn.functional.conv1d(x.float(), weight.float(), bias.float(), padding=padding, groups=groups)
        affected = x.dtype == torch.bfloat16 and weight.shape[1] in (4, 8) and torch.backends.mkldnn.enabled
        return (exact.roll(1, 1) if wrong and affected else exact).to(x.dtype)

    return conv1d


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("kind", ["transformers", "wavlm_ser"])
def test_a_wrong_kernel_of_a_library_never_becomes_a_vector(tmp_path, monkeypatch, caplog, kind, channels):
    model = tiny.wavlm(num_conv_pos_embedding_groups=32 // channels)
    if kind == "transformers":
        folder = tiny.save_speech(tmp_path, model, do_normalize=True)
    else:
        folder = tiny.save_ser(tmp_path, tiny.ser_state(model))
    waves = [tiny.wave(1.0, 1), tiny.wave(0.7, 2)]

    def encoded(precision, *, wrong):
        caplog.clear()
        monkeypatch.setattr(products, "conv1d", convolution(wrong=wrong))
        config = AudioConfig(encoder=kind, model=str(folder), precision=precision)
        return load_encoder("audio", config, "cpu").encode(waves)

    exact = encoded("float32", wrong=True)
    assert not caplog.records
    rough = encoded("bfloat16", wrong=True)
    assert torch.cosine_similarity(rough, exact).min() > 0.99
    assert f"computed in float32, because this machine's bfloat16 kernel for {channels} channels a group" in caplog.text
    assert not torch.equal(rough, exact)  # all else is computed in bfloat16
    right = encoded("bfloat16", wrong=False)
    assert not caplog.records
    assert torch.cosine_similarity(right, exact).min() > 0.99
    assert not torch.equal(right, rough)


def test_a_kernel_that_gives_nan_is_wrong(monkeypatch, caplog):
    def conv1d(x, weight, bias, **more):
        exact = torch.nn.functional.conv1d(x.float(), weight.float(), bias.float(), **more)
        return exact if x.dtype == torch.float32 else exact * torch.nan

    monkeypatch.setattr(products, "conv1d", conv1d)
    _, folded = models(WavLMConfig(**tiny.FEATURES, **tiny.LARGE_LIKE))
    assert WavLM(folded, torch.float16).positions.weight.dtype == torch.float32
    assert "largest error inf" in caplog.text


@pytest.mark.parametrize("kind", ["wavlm", "hubert"])
def test_a_callers_autocast_lowers_no_precision(tmp_path, kind):
    model = tiny.wavlm() if kind == "wavlm" else HubertModel(HubertConfig(**tiny.FEATURES, **tiny.LARGE_LIKE))
    folder = tiny.save_speech(tmp_path, model, do_normalize=True)
    encoder = load_encoder("audio", AudioConfig(encoder="transformers", model=str(folder)), "cpu")
    before = encoder.encode([tiny.wave(1.0)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.encode([tiny.wave(1.0)]), before)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("like", LIKE)
def test_a_model_that_was_cut_gives_its_inner_hidden_state(like, layer):
    oracle, folded = models(WavLMConfig(**tiny.FEATURES, **LIKE[like]))
    samples, own = batch([9_000])
    stop_after(folded, layer)
    with torch.inference_mode():
        expected = oracle(samples, output_hidden_states=True).hidden_states[layer]
        torch.testing.assert_close(last_state(WavLM(folded), samples, own), expected, atol=1e-5, rtol=1e-5)


def test_another_activation_runs_in_transformers_forward():
    model = WavLMModel(WavLMConfig(**tiny.FEATURES, **tiny.LARGE_LIKE, hidden_act="relu")).eval()
    assert not supports(model.config)
    assert isinstance(forward_of(model, "auto", torch.device("cpu"), "folder"), Stock)


def test_precision_is_float32_on_a_cpu_and_stands_in_the_fingerprint_where_it_is_not(tmp_path):
    folder = tiny.save_speech(tmp_path, tiny.wavlm(), do_normalize=True)

    def load(**more):
        return load_encoder("audio", AudioConfig(encoder="transformers", model=str(folder), **more), "cpu")

    assert load().fingerprint() == load(precision="float32").fingerprint()
    assert "precision" not in load().fingerprint()
    rough = load(precision="bfloat16")
    assert rough.fingerprint() == {**load().fingerprint(), "precision": "bfloat16"}
    wave = tiny.wave(1.0)
    near = torch.cosine_similarity(rough.encode([wave]), load().encode([wave]))
    assert 0.99 < near < 1 - 1e-7


@pytest.mark.parametrize(
    ("model", "wanted", "device", "chosen"),
    [
        ("wavlm", "auto", "cuda", "bfloat16"),
        ("wavlm", "auto", "cpu", "float32"),
        ("wavlm", "float32", "cuda", "float32"),
        ("wavlm", "float16", "cpu", "float16"),
        ("hubert", "auto", "cuda", "float32"),
        ("embedded", "auto", "cuda", "float32"),
    ],
)
def test_only_a_wavlm_on_an_accelerator_computes_in_bfloat16_unasked(tmp_path, model, wanted, device, chosen):
    if model == "embedded":
        config = AudioConfig(precision=wanted)
    else:
        tree = {"model_type": model, **tiny.FEATURES}
        (tmp_path / "config.json").write_text(json.dumps(tree))
        config = AudioConfig(encoder="transformers", model=str(tmp_path), precision=wanted)
    assert with_precision(config, torch.device(device)).precision == chosen


def test_the_deviation_of_a_lower_precision_is_measured(tmp_path):
    folder = tiny.save_speech(tmp_path, tiny.wavlm(), do_normalize=True)
    config = AudioConfig(encoder="transformers", model=str(folder))
    exact = load_encoder("audio", config, "cpu")
    rough = load_encoder("audio", config.model_copy(update={"precision": "bfloat16"}), "cpu")
    waves = [tiny.wave(0.5, 1), tiny.wave(0.7, 2)]
    found = deviation(rough, exact, waves)
    low, high = (np.concatenate([e.encode([w]).numpy() for w in waves]) for e in (rough, exact))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(low, high, strict=True)]
    assert found["clips"] == 2
    assert found["least_cosine"] == pytest.approx(min(cosines), abs=1e-6)
    assert found["largest_difference"] == pytest.approx(np.abs(low - high).max())
    assert deviation(exact, exact, waves)["least_cosine"] == pytest.approx(1.0)


def test_lower_precision_is_refused_for_a_model_without_a_forward_of_our_own(tmp_path):
    folder = tiny.save_speech(
        tmp_path, HubertModel(HubertConfig(**tiny.FEATURES, **tiny.LARGE_LIKE)), do_normalize=True
    )
    with pytest.raises(UsageError, match=r"audio.precision=bfloat16 with model_type hubert; expected float32"):
        load_encoder("audio", AudioConfig(encoder="transformers", model=str(folder), precision="bfloat16"), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FULL)
def test_it_equals_transformers_in_the_published_shapes(kind):
    oracle, folded = models(WavLMConfig(**FULL[kind]), shake=lambda model: model.eval())
    waves = [tiny.wave(seconds, i) for i, seconds in enumerate((10.0, 5.64, 1.001, 0.025))]
    own = torch.tensor([len(wave) for wave in waves])
    samples = torch.zeros(len(waves), int(own.max()))
    for row, wave in zip(samples, waves, strict=True):
        row[: len(wave)] = torch.tensor((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7))
    assert_equal_on_own_frames(oracle, WavLM(folded), samples, own)


@pytest.mark.parametrize("like", LIKE)
def test_clips_padded_to_a_fixed_length_and_masked_equal_transformers_given_the_mask(tmp_path, like):
    """There a group norm sees the padding, as in transformers: what a user who pads to ten seconds gets."""
    model = tiny.wavlm(**LIKE[like])
    folder = tiny.save_speech(tmp_path, model, do_normalize=False)
    config = AudioConfig(encoder="transformers", model=str(folder), padding="fixed_masked", max_seconds=1.0)
    wave = tiny.wave(0.6)
    samples, own = torch.zeros(1, 16_000), torch.tensor([len(wave)])
    samples[0, : len(wave)] = torch.tensor(wave)
    with torch.inference_mode():
        frames = model(samples, attention_mask=frame_mask(own, 16_000).long()).last_hidden_state
    expected = frames[0, : int(frame_counts(own, model.config))].mean(0)
    torch.testing.assert_close(load_encoder("audio", config, "cpu").encode([wave])[0], expected, atol=1e-5, rtol=0)


def test_lower_precision_is_refused_for_the_embedded_encoder():
    with pytest.raises(UsageError, match=r"audio.precision=float16 with model_type whisper; expected float32"):
        load_encoder("audio", AudioConfig(precision="float16"), "cpu")
