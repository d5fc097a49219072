"""ParaSpeechCLAP with tiny random weights in its published layout, by a plain forward of transformers' models."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, WavLMModel, XLMRobertaConfig, XLMRobertaModel

from pipeline import EmotionRankCLAP, evaluate, extract, train
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.paraspeechclap import SPEECH_BASE, TEXT_BASE
from tests.extraction.encoders import tiny
from tests.speech import QUICK, write_corpus

DIM = 24
SENTENCES = ["A person is speaking in a whispered style.", "Angry.", "The person is speaking with joy and quickly."]


@cache
def bases() -> tuple[WavLMModel, XLMRobertaModel]:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    text = XLMRobertaModel(XLMRobertaConfig(vocab_size=300, max_position_embeddings=130, **shape))
    return tiny.wavlm(), tiny.shaken(text, seed=3)


def published_state() -> dict[str, torch.Tensor]:
    """Its names: `torch.save(model.state_dict())` of the released code, commit 4767eea of ajd12342/paraspeechclap."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    speech, text = bases()
    state = {"log_logit_scale": torch.tensor(2.6593)}
    state |= {f"audio_branch.base.{name}": value.clone() for name, value in speech.state_dict().items()}
    state |= {f"text_branch.base.{name}": value.clone() for name, value in text.state_dict().items()}
    for side, width in (("audio", speech.config.hidden_size), ("text", text.config.hidden_size)):
        state |= {
            f"{side}_projection.linear1.weight": random(DIM, width),
            f"{side}_projection.linear2.weight": random(DIM, DIM),
            f"{side}_projection.layer_norm.weight": 1 + random(DIM),
            f"{side}_projection.layer_norm.bias": random(DIM),
        }
    return state


def write_model(folder: Path, state: dict[str, Any] | None = None) -> Path:
    """The checkpoint, and what is downloaded beside it: configs, preprocessing and the tokenizer."""
    speech, text = bases()
    tiny.save_speech(folder / SPEECH_BASE, speech, do_normalize=True)
    text.save_pretrained(tiny.save_tokenizer(folder / TEXT_BASE))
    for base in (SPEECH_BASE, TEXT_BASE):
        (folder / base / "model.safetensors").unlink()  # the checkpoint has them, fine-tuned
    torch.save(state or published_state(), folder / "paraspeechclap-combined.pth.tar")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("paraspeechclap"))


def load(folder: Path, kind: str, **more: object):
    model = AudioConfig if kind == "audio" else TextConfig
    return load_encoder(kind, model(encoder="paraspeechclap", model=str(folder), **more), "cpu")


def plain_projection(state: dict[str, torch.Tensor], side: str, pooled: torch.Tensor) -> torch.Tensor:
    """(B, D) -> (B, DIM) unit vectors in float64, written out."""
    first, second, scale, shift = (
        state[f"{side}_projection.{name}"].double()
        for name in ("linear1.weight", "linear2.weight", "layer_norm.weight", "layer_norm.bias")
    )
    hidden = pooled.double() @ first.T
    gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    summed = hidden + gelu @ second.T
    centred = summed - summed.mean(-1, keepdim=True)
    normed = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * scale + shift
    return (normed / normed.norm(dim=-1, keepdim=True)).float()


def plain_speech(wave) -> torch.Tensor:
    """As scripts/inference.py encodes one clip: normalised, mean over all frames of the last hidden state."""
    samples = torch.tensor(wave).double()
    samples = ((samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)).float()
    with torch.no_grad():
        frames = bases()[0](samples[None]).last_hidden_state
    return plain_projection(published_state(), "audio", frames.mean(1))


def plain_text(folder: Path) -> torch.Tensor:
    text, tokenizer = bases()[1], AutoTokenizer.from_pretrained(folder / TEXT_BASE)
    with torch.no_grad():
        first = [text(**tokenizer(each, return_tensors="pt")).last_hidden_state[:, 0] for each in SENTENCES]
    return plain_projection(published_state(), "text", torch.cat(first))


def test_both_sides_equal_a_plain_forward_of_the_released_code(folder: Path) -> None:
    waves = [tiny.wave(1.3), tiny.wave(0.6, seed=1), tiny.wave(2.0, seed=2)]
    speech, text = load(folder, "audio"), load(folder, "text")
    assert (speech.dim, speech.sample_rate, text.dim) == (DIM, 16_000, DIM)
    expected = torch.cat([plain_speech(wave) for wave in waves])
    torch.testing.assert_close(speech.encode(waves), expected, atol=1e-5, rtol=0)  # padded and masked
    torch.testing.assert_close(text.encode(SENTENCES), plain_text(folder), atol=1e-5, rtol=0)


def test_older_names_safetensors_and_another_temperature_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    state = published_state()
    start = "audio_branch.base.encoder.pos_conv_embed.conv."
    for current, older in zip(tiny.CURRENT, tiny.OLDER, strict=True):
        state[start + older] = state.pop(start + current)
    state["logit_scale"] = state.pop("log_logit_scale")
    state["text_branch.base.embeddings.position_ids"] = torch.arange(130)[None]
    write_model(tmp_path)
    (tmp_path / "paraspeechclap-combined.pth.tar").unlink()
    save_file(state, tmp_path / "model.safetensors")
    for kind, inputs in (("audio", [tiny.wave(1.0)]), ("text", SENTENCES)):
        assert torch.equal(load(tmp_path, kind).encode(inputs), load(folder, kind).encode(inputs))


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda state: state.pop("audio_projection.linear2.weight"), "audio", "`linear2.weight` is missing"),
        (lambda state: state.pop("text_projection.layer_norm.weight"), "text", "`layer_norm.weight` is missing"),
        (lambda state: state.pop("audio_branch.base.encoder.layer_norm.bias"), "audio", "layer_norm.bias` is missing"),
        (lambda state: state.pop("text_branch.base.embeddings.LayerNorm.bias"), "text", "LayerNorm.bias` is missing"),
        (lambda state: state.update({"classifier.weight": torch.ones(2)}), "text", "`classifier.weight` is left over"),
        (lambda state: state.update({"audio_projection.bias": torch.ones(2)}), "audio", "`bias` is left over"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused_by_name(tmp_path: Path, change, kind: str, said: str) -> None:
    state = published_state()
    change(state)
    with pytest.raises(UsageError, match=said):
        load(write_model(tmp_path, state), kind)


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="a file of tensors only"):
        load(write_model(tmp_path, {"audio_branch.base.x": Harmful()}), "audio")
    assert not (tmp_path / "executed").exists()


def test_what_it_cannot_be_asked_for_is_one_line(folder: Path, tmp_path: Path) -> None:
    for kind, more in (("audio", {"pooling": "mean_std"}), ("audio", {"layers": "all"}), ("text", {"pooling": "mean"})):
        with pytest.raises(UsageError, match="a layer or a pooling of paraspeechclap; expected its own"):
            load(folder, kind, **more)
    with pytest.raises(UsageError, match="checkpoints: none"):
        load(tmp_path, "audio" if (tmp_path / SPEECH_BASE).mkdir() else "text")


def test_without_heads_it_stands_in_a_table_as_it_is(folder: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", 64)
    named = [f"{side}.{name}" for side in ("audio", "text") for name in ("encoder=paraspeechclap", f"model={folder}")]
    extract(corpus, out=tmp_path / "stores", overrides=[*QUICK, *named])
    run = train(tmp_path / "stores", overrides=["objective.name=no_heads", "batch_size=4"], out=tmp_path / "run")
    found = evaluate(run, overrides=["trials=2", "lists=14", "pairs=8"])
    assert {"ordinality", "alignment", "retrieval"} <= found.keys()
    model = EmotionRankCLAP.from_pretrained(run.folder)
    torch.testing.assert_close(model.encode_text(SENTENCES), plain_text(folder), atol=1e-5, rtol=0)
    wave = tiny.wave(1.0)
    torch.testing.assert_close(model.encode_speech(wave, tiny.RATE), plain_speech(wave), atol=1e-5, rtol=0)
    stored = run.stores()
    pairs = model.similarity(stored.speech("test"), stored.speech("test"))
    speech = torch.tensor(stored.speech("test"))
    torch.testing.assert_close(pairs, speech @ speech.T, atol=1e-6, rtol=0)
