"""Where a model lies: a folder of one's own, or the hub's cache, or (if the hub may be asked) a download into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import UsageError

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_LONGEST_REASON = 300
_DESCRIPTION = ["*.json", "*.txt", "*.model"]
_SAFE, _PICKLED = ["model*.safetensors"], ["pytorch_model*.bin"]  # pickles are fetched only if nothing else is there


def find_folder(name: str | None, revision: str | None = None) -> Path:
    """The folder of the model `name`: a local one, else a hub model's snapshot (cache first, then download).

    `HF_HUB_OFFLINE=1` forbids the download. Raises UsageError that lists what was tried.
    """
    if not name:
        action = "Set -o audio.model=... or -o text.model=..., or take the embedded encoder."
        raise UsageError("audio.model or text.model", "not given", "a folder or a hub name", action)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(name, "no such folder", "a folder with config.json and weights", "Check the path.")
    return _from_hub(name, revision)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UsageError."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(path, "no such file", "a complete model folder", "Download the model again.") from None
    except (OSError, ValueError, RecursionError) as error:
        found = f"cannot be read ({first_line(error)})"
        raise UsageError(path, found, "a JSON file", "Download the model again.") from None
    if not isinstance(tree, dict):
        raise UsageError(path, f"a {type(tree).__name__}", "a JSON object", "Download the model again.")
    return tree


def feature_settings(folder: Path) -> dict[str, Any]:
    """How the model's waveforms are prepared: preprocessor_config.json, or its place in processor_config.json."""
    combined = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").is_file() and combined.is_file():
        nested = read_json(combined).get("feature_extractor")
        if isinstance(nested, dict):
            return nested
    return read_json(folder / "preprocessor_config.json")


def sampling_rate(features: dict[str, Any], subject: object) -> int:
    """The rate in Hz that `feature_settings` name; 16 kHz where they do not. Raises UsageError for no such number."""
    rate = features.get("sampling_rate", 16_000)
    if type(rate) is not int or not 1000 <= rate <= 384_000:
        raise UsageError(subject, f"sampling_rate {rate!r:.40}", "Hz, such as 16000", "Download the model again.")
    return rate


def first_line(error: Exception) -> str:
    """What `error` says, in one line: a library quotes whole files, and a file may hold anything."""
    line = str(error).strip().partition("\n")[0][:_LONGEST_REASON]
    return "".join(letter if letter.isprintable() else "?" for letter in line) or type(error).__name__


def _from_hub(name: str, revision: str | None) -> Path:
    tried = [f"no folder `{name}`"]
    for source, local, patterns in (
        ("hub cache", True, None),
        ("hub", False, _DESCRIPTION + _SAFE),
        ("hub", False, _DESCRIPTION + _PICKLED),
    ):
        snapshot = _snapshot(name, revision, local, patterns)
        if isinstance(snapshot, str):
            tried.append(f"{source}: {snapshot}")
        elif any((snapshot / weights).is_file() for weights in WEIGHTS):
            return snapshot
        else:
            tried.append(f"{source}: no weights")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    found = f"not found ({'; '.join(dict.fromkeys(tried))})"
    raise UsageError(name, found, "a model's folder or a hub model", f"Get it where there is a network: {command}")


def _snapshot(name: str, revision: str | None, local: bool, patterns: list[str] | None) -> Path | str:
    """The snapshot's folder, or the first line of why there is none."""
    from huggingface_hub import errors, snapshot_download

    network = getattr(errors, "HTTPError", OSError)  # of httpx or its successor, whichever the hub client uses
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=local, allow_patterns=patterns))
    except (OSError, ValueError, network) as error:
        return first_line(error)


_MOST_LAYERS = 1000  # a hundred thousand take hours to build
_SHAPING = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "feat_extract_norm",
    "do_stable_layer_norm",
)


def read_config(folder: Path) -> Any:
    """The model's config as a class of transformers. A folder's own code is never executed (F21).

    Nor are the kernels that a config may name (`attn_implementation: somebody/kernels` is fetched and run as machine
    code): how a model attends is not its config's to say. Raises UsageError for a model type that transformers does
    not know, with or without code of its own.
    """
    from transformers import AutoConfig

    tree = read_json(folder / "config.json")
    _is_no_tower(tree, folder / "config.json")
    try:
        with quietly():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            config._attn_implementation = config._experts_implementation = None
    except Exception as error:  # transformers raises what a wrong value happens to break
        kind = f"model_type {tree.get('model_type')!r:.40}"
        reason = "with code of its own (never executed)" if "auto_map" in tree else first_line(error)
        raise UsageError(
            folder / "config.json", f"{kind}, {reason}", "a model of transformers' own", "Choose another model."
        ) from error
    return config


def _is_no_tower(tree: dict[str, Any], subject: object) -> None:
    """Raises UsageError for more layers than are ever built: a model is built before its weights can tell."""
    for name, value in tree.items():
        if name.endswith("layers") and isinstance(value, int | float) and value > _MOST_LAYERS:
            found = f"{name!r:.60} {value:g}"
            raise UsageError(subject, found, f"at most {_MOST_LAYERS:,}", "Download the model again.")


def bare_model(config: Any, subject: object) -> Any:
    """The model without heads that a config describes, one of transformers' own classes, its weights not yet set."""
    from transformers import AutoModel

    auto: Any = AutoModel
    return skeleton(lambda: auto.from_config(config, trust_remote_code=False), subject)


def skeleton(build: Callable[[], Any], subject: object) -> Any:
    """What `build` makes, as float32 in eval mode, its weights not yet set. Raises UsageError for a bad config."""
    from transformers.initialization import no_init_weights

    try:
        with quietly(), no_init_weights():
            model = build()
    except Exception as error:  # see `read_config`
        found = f"cannot be built ({first_line(error)})"
        raise UsageError(subject, found, "a sound config.json", "Download it again.") from error
    return model.to(torch.float32).eval().requires_grad_(False)


def architecture(config: Any) -> dict[str, Any]:
    """The declared fields of a config that change a vector and that the weights do not show."""
    return {name: getattr(config, name) for name in _SHAPING if hasattr(config, name)}


@contextmanager
def quietly() -> Iterator[None]:
    """transformers without progress bars and advice; its errors still come through."""
    from transformers import utils

    logging: Any = utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
