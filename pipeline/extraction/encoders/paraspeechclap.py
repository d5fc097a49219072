"""ParaSpeechCLAP (A. Diwan et al., arXiv 2603.28737) as it was published: both sides of another CLAP, to compare with.

    extract-features msp_podcast -o audio.encoder=paraspeechclap -o audio.model=MODEL -o text.encoder=paraspeechclap ...

MODEL is a folder with one checkpoint (`paraspeechclap-combined.pth.tar`, a bare state dict, or the same tensors as
safetensors) and beside it the folders of the two models that it was fine-tuned from, without their weights: wavlm-large
(config.json, preprocessor_config.json) and granite-embedding-278m-multilingual (config.json, tokenizer files).

    speech -> audio_branch.base (WavLM-large), mean over frames -> audio_projection -> unit length
    text   -> text_branch.base (XLM-RoBERTa), first token       -> text_projection  -> unit length
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import model_files, speech, text
from pipeline.extraction.encoders.sentence_modules import SentenceModules

SPEECH_BASE, TEXT_BASE = "wavlm-large", "granite-embedding-278m-multilingual"
_PARTS = ("audio_branch.base.", "audio_projection.", "text_branch.base.", "text_projection.")


class ClapProjection(nn.Module):
    """Pooled (B, D) -> unit (B, dim): layer_norm(h + linear2(gelu(h))), h = linear1(x). The dropout is training's."""

    def __init__(self, pooled_dim: int, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(pooled_dim, dim, bias=False)
        self.linear2 = nn.Linear(dim, dim, bias=False)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, pooled: Tensor) -> Tensor:
        hidden = self.linear1(pooled)
        projected = self.layer_norm(hidden + self.linear2(nn.functional.gelu(hidden)))
        return nn.functional.normalize(projected, dim=-1)


def load_speech_side(folder: Path, config: AudioConfig, device: str) -> speech.SpeechEncoder:
    """The speech side as an AudioEncoder, in this project's forward of WavLM.

    Raises UsageError for another layout, or a weight missing, renamed, left over or of another shape.
    """
    if (config.layer, config.layers, config.pooling) != (None, None, "mean"):
        raise UsageError("audio", "a layer or a pooling of paraspeechclap", "its own", "Leave both out.")
    base = folder / SPEECH_BASE
    shape = model_files.read_config(base)
    if shape.model_type != "wavlm":
        raise UsageError(base, f"model_type {shape.model_type}", "wavlm", "Use microsoft/wavlm-large's config.json.")
    checkpoint, state = _checkpoint(folder)
    head = _projection(state, "audio_projection.", shape.hidden_size, checkpoint).to(device)
    weights = model_files.without_prefix(state, "audio_branch.base.")
    return speech.build_speech_encoder(
        base, shape, weights, [checkpoint], config, device, head, len(head.layer_norm.weight)
    )


def load_text_side(folder: Path, config: TextConfig, device: str) -> text.TextModel:
    """The text side as a TextEncoder. Raises UsageError likewise."""
    if (config.pooling, config.layers) != ("auto", None):
        raise UsageError("text", "a layer or a pooling of paraspeechclap", "its own", "Leave both out.")
    checkpoint, state = _checkpoint(folder)
    shape = model_files.read_config(folder / TEXT_BASE)
    head = _projection(state, "text_projection.", shape.hidden_size, checkpoint).to(device)
    dim = len(head.layer_norm.weight)
    published = SentenceModules(folder / TEXT_BASE, dense=(head,), declared={"projection": dim}, dim=dim)
    weights = model_files.without_prefix(state, "text_branch.base.")
    return text.build_text_model(weights, [checkpoint], config, device, published, "cls")


def _checkpoint(folder: Path) -> tuple[Path, model_files.State]:
    """The one checkpoint in `folder`; the temperature, which no cosine needs, is left out, as its own code does."""
    found = sorted(path for path in folder.glob("*") if path.name.endswith((".pth.tar", ".safetensors")))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        action = "Name the folder that holds it as audio.model and text.model."
        raise UsageError(folder, f"checkpoints: {names}", "one, such as paraspeechclap-combined.pth.tar", action)
    state = {name: value for name, value in model_files.read_state(found).items() if "logit_scale" not in name}
    if extra := [name for name in state if not name.startswith(_PARTS)]:
        raise UsageError(found[0], f"weight `{extra[0]}` is left over", "ParaSpeechCLAP's", "Use a published one.")
    return found[0], state


def _projection(state: model_files.State, prefix: str, pooled_dim: int, subject: Path) -> ClapProjection:
    """The projection whose weights begin with `prefix`."""
    weights = model_files.without_prefix(state, prefix)
    norm = weights.get("layer_norm.weight", torch.zeros(1))  # absent: the strict load names it
    head: ClapProjection = model_files.without_weights(lambda: ClapProjection(pooled_dim, norm.numel()), subject)
    model_files.load_strictly(head, weights, subject)
    return head
