"""Any text encoder of transformers, by folder or hub name: `<s>` / [CLS] of the last layer, or the mean (F3, F37)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from pipeline.core.config import TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.base import TwoSteps, exact_inference
from pipeline.extraction.encoders.model_files import (
    architecture,
    bare_model,
    base_weights,
    first_line,
    load_strictly,
    quietly,
    read_config,
    read_json,
    read_state,
    renamed,
    sha256,
    weight_files,
)
from pipeline.extraction.encoders.pooling import mean, uniform

_TOKENIZING = Lock()  # a tokenizer keeps its truncation and padding inside: "Already borrowed" from a second thread
MIN_TOKENS = 4
_STALE = "embeddings.position_ids"  # 0, 1, 2, ...: older versions saved it (F3)
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))  # BERT's first files
_VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("sentencepiece.bpe.model",),
    ("spiece.model",),
    ("spm.model",),
)
_TOKENIZER_FILES = ("*.model", "*token*.json", "merges.txt", "vocab.*")


@dataclass(frozen=True)
class TextModel(TwoSteps):
    """A TextEncoder around a bare model of transformers and its tokenizer."""

    model: Any
    tokenizer: Any
    pooling: str
    max_tokens: int  # special tokens included
    dim: int
    declared: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What was declared at load."""
        return dict(self.declared)

    def prepare(self, inputs: Sequence[str]) -> Any:
        """(B,) sentences -> their tokens, cut at `max_tokens`; None of no sentences."""
        if not len(inputs):
            return None
        with _TOKENIZING, quietly():
            return self.tokenizer(
                list(inputs), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )

    def compute(self, prepared: Any) -> Tensor:
        """-> (B, dim) float32 on the CPU, not normalised."""
        if prepared is None:
            return torch.empty(0, self.dim)
        with exact_inference():
            tokens = prepared.to(self.model.device)
            frames: Tensor = self.model(**tokens).last_hidden_state  # (B, T, D)
            pooled = frames[:, 0] if self.pooling == "cls" else mean(frames, uniform(tokens["attention_mask"]))
            return pooled.cpu()


def load_text_model(folder: Path, config: TextConfig, device: str) -> TextModel:
    """The text encoder in `folder`; heads are left out, every weight of the model itself must be there.

    Raises UsageError for another kind of model, or files that do not fit.
    """
    shape = read_config(folder)
    if getattr(shape, "is_encoder_decoder", False):
        raise UsageError(folder, f"model_type {shape.model_type}", "an encoder, like RoBERTa", "Choose another model.")
    model = bare_model(shape, folder)
    files = weight_files(folder)
    state = base_weights(renamed(read_state(files), _OLD_NAMES, folder), model.base_model_prefix)
    state.pop(_STALE, None)
    load_strictly(model, state, folder, optional="pooler.")
    tokenizer = _tokenizer(folder)
    if len(tokenizer) > shape.vocab_size:
        found = f"a tokenizer of {len(tokenizer)} tokens"
        raise UsageError(folder, found, f"at most the model's {shape.vocab_size}", "Download both from one place.")
    published = (_published_limit(folder), _length(tokenizer.model_max_length, folder / "tokenizer_config.json"))
    limit = min(config.max_tokens, _length(_positions(model), folder / "config.json"), *published)
    declared = {
        "encoder": config.encoder,
        "weights_sha256": sha256(files),
        "tokenizer_sha256": sha256(_tokenizer_files(folder)),
        "architecture": architecture(shape),
        "pooling": config.pooling,
        "max_tokens": limit,
    }
    return TextModel(model.to(device), tokenizer, config.pooling, limit, shape.hidden_size, declared)


def _tokenizer_files(folder: Path) -> list[Path]:
    return sorted({path for glob in _TOKENIZER_FILES for path in folder.glob(glob) if path.is_file()})


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        found = "no vocabulary"  # transformers would make up an empty one
        raise UsageError(folder, found, " or ".join("+".join(names) for names in _VOCABULARIES), "Download it again.")
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more particular
        found = f"no tokenizer ({first_line(error)})"
        raise UsageError(folder, found, "its tokenizer files", "Download it again.") from error
    if tokenizer.pad_token_id is None:
        raise UsageError(folder, "a tokenizer without a padding token", "an encoder's", "Choose another model.")
    tokenizer.padding_side = tokenizer.truncation_side = "right"  # position 0 is the sentence's own first token
    return tokenizer


def _positions(model: Any) -> int:
    """Tokens the model has positions for: RoBERTa's 514 are 512, its first two stand for padding (F3)."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, torch.nn.Embedding):
        return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _published_limit(folder: Path) -> int:
    """The length a sentence-transformers model was published with, where there is one."""
    path = folder / "sentence_bert_config.json"
    return _length(read_json(path).get("max_seq_length") or 1 << 30, path) if path.is_file() else 1 << 30


def _length(tokens: object, subject: object) -> int:
    """Raises UsageError for what no text can be cut at: a sentence's two ends and a word are more than three tokens."""
    if type(tokens) is float and tokens >= 1 << 30:  # 1e30, as transformers writes "no limit"
        return 1 << 30
    if type(tokens) is not int or tokens < MIN_TOKENS:
        found = f"a length of {tokens!r:.40} tokens"
        raise UsageError(subject, found, f"{MIN_TOKENS} or more", "Download the model again.")
    return tokens
