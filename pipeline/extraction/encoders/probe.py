"""Encoders that cannot tell their inputs apart, found before a corpus is encoded with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.base import AudioEncoder, Encoder, TextEncoder, exact_inference

SENTENCES = (  # that begin alike, as captions do
    "The person is speaking with joy.",
    "The person is speaking in a sad and quiet voice.",
    "The person is speaking loudly, full of anger.",
)
_PITCHES = (110.0, 180.0, 260.0)  # Hz
_SECONDS = (1.0, 0.8, 0.6)
_EQUAL = 1e-6  # of the largest value: vectors of one input in batches of other sizes differ by more


def refuse_equal_vectors(audio: AudioEncoder | None, text: TextEncoder | None) -> None:
    """Raises UsageError for an encoder that gives three different sentences, or clips, the same vector."""
    if text:
        _refuse(text, list(SENTENCES), "text", "sentences")
    if audio:
        clips = [_clip(*each, audio.sample_rate) for each in zip(_PITCHES, _SECONDS, strict=True)]
        _refuse(audio, clips, "audio", "clips")


def _refuse(encoder: Encoder[Any], inputs: list[Any], kind: str, what: str) -> None:
    vectors = torch.cat([encoder.encode([each]) for each in inputs]).double()  # each alone, so that none is padded
    if (vectors - vectors[0]).abs().max() <= _EQUAL * vectors.abs().max():
        found = f"three different {what} have the same vector"
        raise UsageError(f"the {kind} encoder", found, "vectors that differ", f"Check {kind}.pooling and {kind}.model.")


def _clip(pitch: float, seconds: float, rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A voice-like tone in noise."""
    t = np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 5))
    return (0.2 * wave + 0.01 * np.random.default_rng(round(pitch)).standard_normal(len(t))).astype(np.float32)


def refuse_causal(folder: object, model: Any, tokenizer: Any) -> None:
    """Raises UsageError where the first position of `model` knows nothing of what follows, as in a decoder."""
    with exact_inference():
        tokens = tokenizer(["one two three", "one four five"], return_tensors="pt", padding=True).to(model.device)
        first = model(**tokens).last_hidden_state[:, 0].double()
    same_token = bool(tokens["input_ids"][0, 0] == tokens["input_ids"][1, 0])
    if same_token and (first[0] - first[1]).abs().max() <= _EQUAL * first.abs().max():
        found = f"model_type {model.config.model_type} with pooling cls: a causal model's first token has seen nothing"
        raise UsageError(
            folder, found, "an encoder, or pooling mean", "Set -o text.pooling=mean, or choose an encoder."
        )
