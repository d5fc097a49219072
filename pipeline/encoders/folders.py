"""Where a model lies: a folder of one's own, or the hub's cache, or (if the hub may be asked) a download into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError

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
