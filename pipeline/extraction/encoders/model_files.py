"""A model of transformers on disk: name -> folder -> config -> model without weights -> weights.

Nothing of a model is executed (F21): no code beside a config, no kernels that a config names, no pickled objects.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import ManyProblems, MissingEncoder, UsageError, broken_package
from pipeline.core.files import require_short_header
from pipeline.extraction.encoders.base import LFS_POINTER

State = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_LAYERS = 1000  # a hundred thousand take hours to build
_DOWNLOADS = (  # pickles are fetched only if nothing else is there
    ("hub cache", True, None),
    ("hub", False, ["*.json", "*.txt", "*.model", "model*.safetensors", "*_Dense/*"]),
    ("hub", False, ["*.json", "*.txt", "*.model", "pytorch_model*.bin", "*_Dense/*"]),
)
_ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "feat_extract_norm",
    "do_stable_layer_norm",
)


def configured_folder(part: Literal["audio", "text"], config: AudioConfig | TextConfig) -> Path:
    """`find_folder` of the model that `config` names. Raises UsageError where it names none."""
    if not config.model:
        action = f"Set -o {part}.model=NAME, or -o {part}.encoder=embedded."
        raise UsageError(f"{part}.model", f"not set for encoder {config.encoder}", "a folder or a hub name", action)
    return find_folder(config.model, config.revision)


def find_folder(name: str, revision: str | None = None) -> Path:
    """The folder of the model `name`: a local one, else a hub model's snapshot (cache first, then download).

    `HF_HUB_OFFLINE=1` forbids the download. Raises MissingEncoder, which lists what was tried.
    """
    from huggingface_hub import errors, snapshot_download

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MissingEncoder(name, "no such folder", "a folder with config.json and weights", "Check the path.")
    network = getattr(errors, "HTTPError", OSError)  # of httpx or its successor, whichever the hub client uses
    tried = [f"no folder `{name}`"]
    for source, local, patterns in _DOWNLOADS:
        options: dict[str, Any] = {"local_files_only": local, "allow_patterns": patterns}
        try:
            snapshot = Path(snapshot_download(name, revision=revision, **options))
        except (OSError, ValueError, network) as error:
            tried.append(f"{source}: {first_line(error)}")
            continue
        if any((snapshot / weights).is_file() for weights in WEIGHTS):
            return snapshot
        tried.append(f"{source}: no weights")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    found = f"not found ({'; '.join(dict.fromkeys(tried))})"
    raise MissingEncoder(name, found, "a model's folder or a hub model", f"Get it where there is a network: {command}")


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file that holds an object, or a list. Raises UsageError."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(path, "no such file", "a complete model folder", "Download the model again.") from None
    except (OSError, ValueError, RecursionError) as error:
        found = f"cannot be read ({first_line(error)})"
        raise UsageError(path, found, "a JSON file", "Download the model again.") from None
    if not isinstance(tree, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise UsageError(path, f"a {type(tree).__name__}", expected, "Download the model again.")
    return tree


def read_config(folder: Path) -> Any:
    """The model's config as a class of transformers.

    A config may name kernels (`attn_implementation: somebody/kernels` is fetched and run as machine code): that field
    is ignored. Raises UsageError for a model type that transformers does not know, with or without code of its own,
    and for more layers than are ever built.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    tree = read_json(path)
    for name, value in tree.items():  # a model is built before its weights can tell
        if name.endswith("layers") and isinstance(value, int | float) and value > MAX_LAYERS:
            raise UsageError(path, f"{name!r:.60} {value:g}", f"at most {MAX_LAYERS:,}", "Download the model again.")
    try:
        with quietly():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            config._attn_implementation = config._experts_implementation = None
    except Exception as error:  # transformers raises what a wrong value happens to break
        reason = "with code of its own (never executed)" if "auto_map" in tree else first_line(error)
        found = f"model_type {tree.get('model_type')!r:.40}, {reason}"
        raise UsageError(path, found, "a model of transformers' own", "Choose another model.") from error
    return config


def architecture(config: Any) -> dict[str, Any]:
    """The declared fields of a config that change a vector and that the weights do not show."""
    return {name: getattr(config, name) for name in _ARCHITECTURE if hasattr(config, name)}


def feature_settings(folder: Path) -> dict[str, Any]:
    """How the model's waveforms are prepared: preprocessor_config.json, or its place in processor_config.json."""
    combined = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").is_file() and combined.is_file():
        nested = read_json(combined).get("feature_extractor")
        if isinstance(nested, dict):
            return nested
    settings: dict[str, Any] = read_json(folder / "preprocessor_config.json")
    return settings


def sampling_rate(features: dict[str, Any], subject: object) -> int:
    """The rate in Hz in `feature_settings`; 16 kHz where there is none. Raises UsageError for an invalid one."""
    rate = features.get("sampling_rate", 16_000)
    if type(rate) is not int or not 1000 <= rate <= 384_000:
        raise UsageError(subject, f"sampling_rate {rate!r:.40}", "Hz, such as 16000", "Download the model again.")
    return rate


def bare_model(config: Any, subject: object) -> Any:
    """The model without heads that a config describes, one of transformers' own classes, without its weights."""
    from transformers import AutoModel

    auto: Any = AutoModel
    return without_weights(lambda: auto.from_config(config, trust_remote_code=False), subject)


def without_weights(build: Callable[[], Any], subject: object) -> Any:
    """The module that `build` makes, float32, in eval mode, not initialised. Raises UsageError for a bad config."""
    from transformers.initialization import no_init_weights

    try:
        with quietly(), no_init_weights():
            model = build()
    except Exception as error:  # see `read_config`
        found = f"cannot be built ({first_line(error)})"
        wrong = UsageError(subject, found, "a sound config.json", "Download it again.")
        raise broken_package(error) or wrong from error
    return model.to(torch.float32).eval().requires_grad_(False)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, safetensors before pickles. Raises UsageError if there are none."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UsageError(folder, "no weights", f"one of {', '.join(WEIGHTS)}", "Download the model again.")
    if path.suffix != ".json":
        return [path]
    table = read_json(path).get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise UsageError(path, "no list of files in this folder", "a weight_map", "Download the model again.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(path, f"{', '.join(missing)} missing", "every file it lists", "Download the model again.")
    return [folder / name for name in names]


def sha256(files: Iterable[Path]) -> str:
    """One hash over the bytes of `files`, in order; of a single file it is that file's published hash."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def read_state(files: Iterable[Path]) -> State:
    """All tensors by name. Pickles are read by torch's tensors-only reader, never by the unrestricted one."""
    from safetensors.torch import load_file

    state: State = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                with path.open("rb") as file:
                    require_short_header(file)
                tree: Any = load_file(path)
            else:
                tree = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's tensors-only reader raises anything for bytes that are not such a file
            if _is_lfs_pointer(path):
                found = "a git-lfs pointer, not weights"
                raise UsageError(path, found, "the file itself", "Run git lfs pull in its folder.") from None
            found = f"cannot be read ({first_line(error)})"
            raise UsageError(path, found, "a file of tensors only", "Download it again.") from error
        if not isinstance(tree, dict) or not all(isinstance(value, torch.Tensor) for value in tree.values()):
            raise UsageError(path, "something else than named tensors", "a state dict", "Download it again.")
        for name in map(str, tree):  # names go into messages
            if not name.isprintable():
                raise UsageError(path, f"a weight named {name!r:.40}", "printable names", "Download it again.")
        state.update({str(name): tensor for name, tensor in tree.items()})
    return state


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def renamed(state: State, pairs: Iterable[tuple[str, str]], subject: object) -> State:
    """`state` with every `old` in its names replaced by `new`. Raises UsageError if two names become one."""
    result: State = {}
    for name, tensor in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = tensor
    if len(result) != len(state):
        raise UsageError(subject, "one weight under two names", "each weight once", "Download the model again.")
    return result


def without_prefix(state: State, prefix: str) -> State:
    """The weights under `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def base_weights(state: State, prefix: str) -> State:
    """Without the heads: what lies under `prefix.`, or all of a file that was saved without heads."""
    return without_prefix(state, prefix + ".") or state


def load_strictly(module: nn.Module, state: Mapping[str, torch.Tensor], subject: object, *, optional: str = "") -> None:
    """Copy `state` into `module`. Only names that begin with `optional` may be missing.

    Raises UsageError that names every missing, renamed, extra, misshaped or non-float weight.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and not (optional and name.startswith(optional))]
    extra = [name for name in state if name not in expected]
    problems = []
    for name in missing:
        problem = f"weight `{name}` is missing"
        if len(missing) <= 20:  # a file of another model has hundreds of wrong names: no guessing then
            same_shape = [other for other in extra if state[other].shape == expected[name].shape]
            for close in difflib.get_close_matches(name, same_shape, n=1):
                extra.remove(close)
                problem += f"; `{close}` has its shape: was it renamed?"
        problems.append(problem)
    problems += [f"weight `{name}` is left over: this model has no such weight" for name in extra]
    for name in sorted(expected.keys() & state.keys()):
        found, wanted = state[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"weight `{name}` has shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
        elif wanted.is_floating_point() and not found.is_floating_point():
            problems.append(f"weight `{name}` is {found.dtype}, expected floats")
    if problems:
        lines = [f"{subject}: {problem}" for problem in problems]
        raise ManyProblems(subject, lines, "Use the published weights of this architecture.")
    module.load_state_dict(state, strict=False)


def first_line(error: Exception) -> str:
    """The first line of an error's message, printable: a library quotes whole files, and a file may hold anything."""
    line = str(error).strip().partition("\n")[0][:300]
    return "".join(letter if letter.isprintable() else "?" for letter in line) or type(error).__name__


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
