"""What a sentence-transformers folder publishes beside its transformer: pooling, dense layers, length, prompt.

`modules.json` lists the modules. Nothing is imported from a name in these files: what is not known is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import model_files
from pipeline.extraction.encoders.base import mean, uniform

MODULES = "modules.json"
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len", "lasttoken")
_FLAGS = {  # of 1_Pooling/config.json, until version 5
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.linear.Identity": nn.Identity,
}
_ACTION = "Choose another model, or a copy of the folder without modules.json and -o text.pooling=cls or mean."


@dataclass(frozen=True)
class SentenceModules:
    """The modules after the transformer, and what is done to a text before it; by default those of a bare model."""

    transformer: Path  # its folder
    pooling: str | None = None
    dense: tuple[nn.Module, ...] = ()
    normalise: bool = False
    lower_case: bool = False
    prompt: str = ""
    declared: dict[str, Any] = field(default_factory=dict)  # of the fingerprint
    dim: int | None = None  # of the last dense layer

    def finish(self, pooled: Tensor) -> Tensor:
        """(B, D) pooled vectors -> what the folder publishes."""
        for layer in self.dense:
            pooled = layer(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.normalise else pooled


def pool_tokens(kind: str, frames: Tensor, mask: Tensor) -> Tensor:
    """frames (B, T, D), mask (B, T) of 1 for a text's own tokens, padded on the right -> (B, D)."""
    if kind == "cls":
        return frames[:, 0]
    if kind == "max":
        return frames.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
    if kind == "lasttoken":
        return frames[torch.arange(len(frames), device=frames.device), mask.sum(1) - 1]
    pooled = mean(frames, uniform(mask))
    return pooled * mask.sum(1, keepdim=True).sqrt() if kind == "mean_sqrt_len" else pooled


def read_modules(folder: Path, device: str) -> SentenceModules:
    """The modules of `folder`; those of a bare model where there is no modules.json.

    Raises UsageError for a module, a pooling or an activation that is not read here, by name.
    """
    if not (folder / MODULES).is_file():
        return SentenceModules(folder)
    transformer, pooling, dense, normalise = folder, None, [], False
    for kind, path in _listed(folder):
        if kind == "Transformer":
            transformer = path
        elif kind == "Pooling":
            pooling = _pooling(path / "config.json")
        elif kind == "Dense":
            dense.append((path, _dense(path).to(device)))
        elif kind == "Normalize":
            normalise = True
        elif kind != "Dropout":  # which does nothing to a frozen model
            raise UsageError(folder / MODULES, f"module {kind:.60}", "Transformer, Pooling, Dense, Normalize", _ACTION)
    bert = transformer / "sentence_bert_config.json"
    lower_case = bert.is_file() and bool(model_files.read_json(bert).get("do_lower_case"))
    declared: dict[str, Any] = {}
    if dense:
        declared["dense_sha256"] = [model_files.sha256(model_files.weight_files(path)) for path, _ in dense]
        declared["dense_activation"] = [type(layer[1]).__name__ for _, layer in dense]
    declared |= {name: True for name, used in (("normalise", normalise), ("lower_case", lower_case)) if used}
    layers = tuple(layer for _, layer in dense)
    dim: Any = layers[-1][0].out_features if layers else None
    return SentenceModules(transformer, pooling, layers, normalise, lower_case, _prompt(folder), declared, dim)


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """(class name, folder) of each module, in their order."""
    path = folder / MODULES
    try:
        entries = sorted(model_files.read_json(path, list), key=lambda entry: int(entry["idx"]))
        listed = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in entries]
    except (KeyError, TypeError, ValueError):
        raise UsageError(path, "no list of modules", "idx, path and type of each", "Download it again.") from None
    if any(Path(name).is_absolute() or ".." in Path(name).parts for _, name in listed):
        raise UsageError(path, "a path out of this folder", "folders in it", "Download the model again.")
    return [(kind, folder / name) for kind, name in listed]


def _pooling(path: Path) -> str:
    tree = model_files.read_json(path)
    modes = tree.get("pooling_mode", [kind for flag, kind in _FLAGS.items() if tree.get(flag)])
    modes = [modes] if isinstance(modes, str) else modes
    names = [str(mode).removesuffix("_tokens") for mode in modes] if isinstance(modes, list) else []
    if len(names) != 1 or names[0] not in POOLINGS:
        raise UsageError(path, f"pooling {' + '.join(names) or 'none'}", f"one of {', '.join(POOLINGS)}", _ACTION)
    if tree.get("include_prompt") is False:
        raise UsageError(path, "a prompt that is left out of the pooling", "include_prompt: true", _ACTION)
    return names[0]


def _dense(folder: Path) -> nn.Sequential:
    path = folder / "config.json"
    tree = model_files.read_json(path)
    name = str(tree.get("activation_function"))
    if name not in _ACTIVATIONS:
        expected = ", ".join(each.rpartition(".")[2] for each in _ACTIVATIONS)
        raise UsageError(path, f"activation {name:.60}", f"one of {expected}", _ACTION)
    sizes = tree.get("in_features"), tree.get("out_features")
    if not all(type(size) is int and 0 < size < 1 << 20 for size in sizes):
        raise UsageError(path, f"features {sizes!r:.60}", "in_features and out_features", "Download it again.")
    linear = nn.Linear(*sizes, bias=bool(tree.get("bias", True)), dtype=torch.float32)
    state = model_files.read_state(model_files.weight_files(folder))
    model_files.load_strictly(linear, model_files.without_prefix(state, "linear."), folder)
    return nn.Sequential(linear, _ACTIVATIONS[name]()).eval().requires_grad_(False)


def _prompt(folder: Path) -> str:
    """The prompt that the folder puts before every text unless asked otherwise; most have none."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return ""
    tree = model_files.read_json(path)
    prompts, name = tree.get("prompts"), tree.get("default_prompt_name")
    return str(prompts.get(name, "")) if isinstance(prompts, dict) and isinstance(name, str) else ""
