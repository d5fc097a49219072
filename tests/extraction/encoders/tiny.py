"""Tiny real models with random weights, saved in exactly the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import WavLMConfig, WavLMModel

RATE = 16000
MEAN, STD = -8.278621631819787e-05, 0.08485510250851999  # F17
CURRENT = ("parametrizations.weight.original0", "parametrizations.weight.original1")
OLDER = ("weight_g", "weight_v")
FEATURES = {
    "conv_dim": (8,) * 7,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 8,
    "num_mel_bins": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
LARGE_LIKE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
BASE_LIKE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise, with an offset."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.2 * np.sin(2 * np.pi * (150 + 90 * t) * t) + 0.02 * rng.standard_normal(len(t)) + 0.01).astype(np.float32)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter moved off its initial value (zeros and ones hide mistakes)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def wavlm(**more: object) -> WavLMModel:
    """A two-layer WavLM."""
    return shaken(WavLMModel(WavLMConfig(**{**FEATURES, **LARGE_LIKE, **more})))


def ser_state(model: WavLMModel, names: tuple[str, str] = CURRENT) -> dict[str, torch.Tensor]:
    """The checkpoint of F20 around `model`; `names` are those of the positional convolution's two weights."""
    width = model.config.hidden_size
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    state = {f"ssl_model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for current, name in zip(CURRENT, names, strict=True):
        start = "ssl_model.encoder.pos_conv_embed.conv."
        state[start + name] = state.pop(start + current)
    return state | {
        "pool_model.sap_linear.weight": random(width, width),
        "pool_model.sap_linear.bias": random(width),
        "pool_model.attention": random(width, 1),
        "ser_model.fc.0.0.weight": random(width, 2 * width),
        "ser_model.fc.0.0.bias": random(width),
        "ser_model.fc.0.1.weight": 1 + random(width),
        "ser_model.fc.0.1.bias": random(width),
        "ser_model.out.0.weight": random(3, width),
        "ser_model.out.0.bias": random(3),
    }


def save_ser(folder: Path, state: dict[str, torch.Tensor], ssl_type: str = "microsoft/wavlm-large") -> Path:
    """config.json with the remote code it is published with, and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["SERModel"],
        "auto_map": {"AutoConfig": "pipeline_utils.SERConfig", "AutoModel": "pipeline_utils.SERModel"},
        "model_type": "ser",
        "ssl_type": ssl_type,
        "mean": MEAN,
        "std": STD,
        "sampling_rate": RATE,
        "num_classes": 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def save_speech(folder: Path, model: nn.Module, *, do_normalize: bool) -> Path:
    """A speech model of transformers with its preprocessor_config.json."""
    model.save_pretrained(folder)
    features = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE}
    (folder / "preprocessor_config.json").write_text(json.dumps(features | {"do_normalize": do_normalize}))
    return folder


def save_tokenizer(folder: Path) -> Path:
    """RoBERTa's byte-level tokenizer without merges: a token per byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    )
    return folder
