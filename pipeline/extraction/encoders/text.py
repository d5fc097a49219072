"""Any text encoder of transformers, by folder or hub name: `<s>` / [CLS] of the last layer, or the mean (F3, F37).

A folder of sentence-transformers is read as it was published: its pooling, dense layers, normalisation and prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from cache.layers import Axes
from pipeline.core.config import TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import model_files
from pipeline.extraction.encoders.base import (
    Encoder,
    Pool,
    exact_inference,
    hidden_states_of,
    layer_axes,
    layers_declared,
    pool_states,
)
from pipeline.extraction.encoders.probe import refuse_causal
from pipeline.extraction.encoders.sentence_modules import SentenceModules, pool_tokens, read_modules

_TOKENIZING = Lock()  # a tokenizer keeps its truncation and padding inside: "Already borrowed" from a second thread
MIN_TOKENS = 4
NO_LIMIT = 1 << 30  # tokens
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))  # BERT's first files
_TOKENIZER_FILES = ("*.model", "*token*.json", "merges.txt", "vocab.*")


@dataclass(frozen=True)
class TextModel(Encoder[str]):
    """A TextEncoder around a bare model of transformers and its tokenizer."""

    model: Any
    tokenizer: Any
    pool: Pool  # tokens to the published vector
    max_tokens: int  # special tokens included
    dim: int
    declared: dict[str, Any]
    prefix: str = ""  # before every text
    lower_case: bool = False
    axes: Axes | None = None

    def prepare(self, inputs: Sequence[str]) -> Any:
        """(B,) sentences -> their tokens, cut at `max_tokens`; None of no sentences."""
        if not len(inputs):
            return None
        cut = {"padding": True, "truncation": True, "max_length": self.max_tokens}
        texts = [self.prefix + text for text in inputs]
        if self.lower_case:
            texts = [text.lower() for text in texts]
        with _TOKENIZING:
            return self.tokenizer(texts, return_tensors="pt", **cut)

    def compute(self, prepared: Any) -> Tensor:
        """-> (B, dim) float32 on the CPU, not normalised."""
        if prepared is None:
            return torch.empty(0, self.dim)
        with exact_inference():
            tokens = prepared.to(self.model.device)
            states = hidden_states_of(self.model(**tokens))
            return pool_states(states, tokens["attention_mask"], self.pool, self.axes).cpu()


def load_text_model(folder: Path, config: TextConfig, device: str) -> TextModel:
    """The text encoder in `folder`; heads are left out, every weight of the model itself must be there.

    Raises UsageError for another kind of model, or files that do not fit.
    """
    published = SentenceModules(folder) if config.encoder == "embedded" else read_modules(folder, device)
    pooling, folder = _pooling(folder, config, published), published.transformer
    files = model_files.weight_files(folder)
    return build_text_model(model_files.read_state(files), files, config, device, published, pooling)


def build_text_model(
    state: model_files.State, files: Sequence[Path], config: TextConfig, device: str, published: SentenceModules,
    pooling: str,
) -> TextModel:  # fmt: skip
    """The encoder in the folder `published.transformer` with the weights `state`, from `files`. Raises UsageError."""
    folder = published.transformer
    shape = model_files.read_config(folder)
    if getattr(shape, "is_encoder_decoder", False):
        action = "Choose an encoder, or save the encoder of this model (model.encoder) in another folder and pass that."
        raise UsageError(folder, f"model_type {shape.model_type}, with a decoder", "an encoder, like RoBERTa", action)
    model = model_files.bare_model(shape, folder)
    state = model_files.renamed(state, _OLD_NAMES, folder)
    state = model_files.base_weights(state, model.base_model_prefix)
    state.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: older versions saved it (F3)
    model_files.load_strictly(model, state, folder, optional="pooler.")
    tokenizer = _tokenizer(folder)
    if len(tokenizer) > shape.vocab_size:
        found = f"a tokenizer of {len(tokenizer)} tokens"
        raise UsageError(folder, found, f"at most the model's {shape.vocab_size}", "Download both from one place.")
    limit = min(config.max_tokens, *_limits(folder, model, tokenizer))
    axes = None
    if config.layers is not None:
        if published.dense or published.normalise or pooling not in ("cls", "mean"):
            action = "Leave text.layers out, and its vectors are as published."
            found = f"{folder}, whose vectors are more than pooled hidden states"
            raise UsageError("text.layers", found, "a folder whose vectors are the mean or cls of a layer", action)
        sizes = {"count": shape.num_hidden_layers, "dim": shape.hidden_size}
        axes = layer_axes(config.layers, (pooling, *config.poolings), **sizes, subject=folder)
    of_tokenizer = sorted({path for glob in _TOKENIZER_FILES for path in folder.glob(glob) if path.is_file()})
    declared = {
        "encoder": config.encoder,
        "weights_sha256": model_files.sha256(files),
        "tokenizer_sha256": model_files.sha256(of_tokenizer),
        "architecture": model_files.architecture(shape),
        **layers_declared(axes, {"pooling": pooling}),
        "max_tokens": limit,
        **published.declared,
    }
    prefix = published.prompt if config.prefix is None else config.prefix
    if prefix:
        declared["prefix"] = prefix
    model = model.to(device)
    model.config.output_hidden_states = axes is not None
    if pooling == "cls":
        refuse_causal(folder, model, tokenizer)
    dim = sum(axes.sizes) if axes else published.dim or shape.hidden_size

    def pool(tokens: Tensor, mask: Tensor) -> Tensor:
        return published.finish(pool_tokens(pooling, tokens, mask))

    return TextModel(model, tokenizer, pool, limit, dim, declared, prefix, published.lower_case, axes)


def _pooling(folder: Path, config: TextConfig, published: SentenceModules) -> str:
    """The pooling that was asked for, which is the published one where there is one."""
    if config.pooling == "auto":
        return published.pooling or "mean"
    if published.pooling not in (None, config.pooling):
        action = f"Leave text.pooling out, and it is {published.pooling}."
        raise UsageError("text.pooling", config.pooling, f"{published.pooling}, as {folder} was published", action)
    return config.pooling


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    sentencepiece = ("sentencepiece.bpe.model", "spiece.model", "spm.model")
    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json+merges.txt", *sentencepiece)
    if not any(all((folder / name).is_file() for name in names.split("+")) for names in vocabularies):
        found = "no vocabulary"  # transformers would make up an empty one
        raise UsageError(folder, found, " or ".join(vocabularies), "Download it again.")
    try:
        with model_files.quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more particular
        found = f"no tokenizer ({model_files.first_line(error)})"
        raise UsageError(folder, found, "its tokenizer files", "Download it again.") from error
    if tokenizer.pad_token_id is None:
        raise UsageError(folder, "a tokenizer without a padding token", "an encoder's", "Choose another model.")
    tokenizer.padding_side = tokenizer.truncation_side = "right"  # position 0 is the sentence's own first token
    return tokenizer


def _limits(folder: Path, model: Any, tokenizer: Any) -> list[int]:
    """Tokens that the published files and the model's positions allow.

    Raises UsageError for what no text can be cut at: a sentence's two ends and a word are more than three tokens.
    """
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, torch.nn.Embedding):  # RoBERTa's 514 are 512, its first two stand for padding (F3)
        positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    else:
        positions = int(getattr(model.config, "max_position_embeddings", None) or NO_LIMIT)
    limits: dict[str, Any] = {}
    if (folder / "sentence_bert_config.json").is_file():  # the length a sentence-transformers model was published with
        published = model_files.read_json(folder / "sentence_bert_config.json")
        limits["sentence_bert_config.json"] = published.get("max_seq_length") or NO_LIMIT
    limits |= {"tokenizer_config.json": tokenizer.model_max_length, "config.json": positions}
    for name, tokens in limits.items():
        if type(tokens) is float and tokens >= NO_LIMIT:  # 1e30, as transformers writes "no limit"
            limits[name] = NO_LIMIT
        elif type(tokens) is not int or tokens < MIN_TOKENS:
            found = f"a length of {tokens!r:.40} tokens"
            raise UsageError(folder / name, found, f"{MIN_TOKENS} or more", "Download the model again.")
    return list(limits.values())
