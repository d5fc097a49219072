"""Layered rows: every column is what the encoder of that layer and pooling alone gives, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertConfig, HubertModel, RobertaModel, Wav2Vec2Config, Wav2Vec2Model

from cache.layers import select
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import Encoder
from tests.extraction.encoders import test_transformers_text as roberta
from tests.extraction.encoders import test_whisper as whisper
from tests.extraction.encoders import tiny

WAVES = [tiny.wave(0.8), tiny.wave(1.3, seed=1)]
MODELS = {"hubert": (HubertModel, HubertConfig), "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config)}
LIKE = {"large": tiny.LARGE_LIKE, "base": tiny.BASE_LIKE}


def column(encoder: Encoder[Any], rows: torch.Tensor, layer: int | str, pooling: str) -> torch.Tensor:
    axes = encoder.axes
    assert axes is not None
    assert rows.shape[1] == encoder.dim == sum(axes.sizes)
    chosen = select(axes, layer, pooling, subject="rows", dim=encoder.dim)
    return torch.cat([rows[:, span.start : span.stop] for span in chosen.spans(axes.sizes)], 1)


def save(folder: Path, kind: str, norm: str) -> dict[str, Any]:
    if kind == "whisper":
        whisper.save(folder)
    elif kind == "wavlm":
        tiny.save_speech(folder, tiny.wavlm(**LIKE[norm], num_hidden_layers=3), do_normalize=True)
    else:
        model, config = MODELS[kind]
        shape = {**tiny.FEATURES, "vocab_size": 8, **LIKE[norm], "num_hidden_layers": 3}
        tiny.save_speech(folder, tiny.shaken(model(config(**shape))), do_normalize=True)
    return {"encoder": "transformers", "model": str(folder)}


@pytest.mark.parametrize(
    ("kind", "norm"),
    [("whisper", ""), *((kind, norm) for kind in ("wavlm", "hubert", "wav2vec2") for norm in LIKE)],
)
def test_every_column_is_that_of_a_single_layer(tmp_path: Path, kind: str, norm: str) -> None:
    settings = save(tmp_path, kind, norm)
    layered = load_encoder("audio", AudioConfig(**settings, layers="all", poolings=("mean", "std")), "cpu")
    rows = torch.cat([layered.encode([wave]) for wave in WAVES])  # one clip a batch, as on a CPU
    assert layered.axes is not None
    assert layered.axes.layers == (0, 1, 2, 3)
    for layer in range(4):
        for pooling in ("mean", "mean_std"):
            single = load_encoder("audio", AudioConfig(**settings, layer=layer, pooling=pooling), "cpu")
            expected = torch.cat([single.encode([wave]) for wave in WAVES])
            assert torch.equal(column(layered, rows, layer, pooling), expected), (layer, pooling)
    some = load_encoder("audio", AudioConfig(**settings, layers=(2, -4)), "cpu")  # the model is cut after layer 2
    assert torch.equal(column(some, some.encode([WAVES[0]]), (0, 2), "mean"), column(layered, rows, (0, 2), "mean")[:1])
    together = layered.encode(WAVES)
    torch.testing.assert_close(together, rows, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "hidden", "mean_std"])
def test_the_ser_models_own_vector_stands_ahead_of_its_layers(tmp_path: Path, pooling: str) -> None:
    model = tiny.wavlm(num_hidden_layers=3)
    settings = {"model": str(tiny.save_ser(tmp_path / "ser", tiny.ser_state(model)))}
    own = load_encoder("audio", AudioConfig(encoder="wavlm_ser", **settings, pooling=pooling), "cpu")
    asked = AudioConfig(encoder="wavlm_ser", **settings, pooling=pooling, layers=(0, 2, 3))
    layered = load_encoder("audio", asked, "cpu")
    rows = layered.encode(WAVES[:1])
    assert torch.equal(column(layered, rows, "default", "default"), own.encode(WAVES[:1]))
    normalised = (torch.tensor(WAVES[0]) - tiny.MEAN) / (tiny.STD + 1e-6)
    with torch.no_grad():
        output = model(normalised[None], output_hidden_states=True)
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    for layer in (0, 2, 3):
        expected = states[layer].mean(1)
        torch.testing.assert_close(column(layered, rows, layer, "mean"), expected, atol=1e-5, rtol=1e-5)
    assert layered.fingerprint() == own.fingerprint() | {"layers": [0, 2, 3], "poolings": ["mean"]}


@pytest.mark.parametrize("first", ["cls", "mean"])
def test_text_has_layers_too(tmp_path: Path, first: str) -> None:
    roberta.save(tmp_path)
    layered = load_encoder(
        "text",
        TextConfig(encoder="transformers", model=str(tmp_path), pooling=first, layers="all", poolings=("mean", "cls")),
        "cpu",
    )
    texts = ["calm and sad", "ANGRY"]
    rows = layered.encode(texts)
    for pooling in ("cls", "mean"):
        last = roberta.load(tmp_path, pooling=pooling)
        assert torch.equal(column(layered, rows, "last", pooling), last.encode(texts))
    assert torch.equal(column(layered, rows, "default", "default"), column(layered, rows, 2, first))
    model = RobertaModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    tokens = roberta.AutoTokenizer.from_pretrained(tmp_path)(texts[0], return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens, output_hidden_states=True).hidden_states
    for layer, state in enumerate(states):
        for pooling, expected in (("mean", state[0].mean(0)), ("cls", state[0, 0])):
            found = column(layered, rows[:1], layer, pooling)[0]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_layers_cannot_be_is_refused(tmp_path: Path) -> None:
    settings = save(tmp_path, "whisper", "")
    with pytest.raises(UsageError, match=r"layer 4; expected a hidden state from 0 to 3"):
        load_encoder("audio", AudioConfig(**settings, layers=(0, 4)), "cpu")
    with pytest.raises(UsageError, match=r"audio.pooling=mean_std with audio.layers; expected audio.poolings"):
        load_encoder("audio", AudioConfig(**settings, layers="all", pooling="mean_std"), "cpu")
