"""A model's files: its folder, its config without weights, and its weights, read without executing anything."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pipeline.core.errors import ManyProblems, UsageError
from pipeline.extraction.encoders.model_files import WEIGHTS, first_line, read_json

State = dict[str, torch.Tensor]
_GUESSES = 20  # a file of another model has hundreds of wrong keys: no guessing then


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, safetensors before pickles. Raises UsageError if there are none."""
    for name in WEIGHTS:
        path = folder / name
        if path.is_file():
            return _shards(path) if name.endswith(".index.json") else [path]
    raise UsageError(folder, "no weights", f"one of {', '.join(WEIGHTS)}", "Download the model again.")


def sha256(files: Iterable[Path]) -> str:
    """One hash over the bytes of `files`, in order; of a single file it is that file's published hash."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_state(files: Iterable[Path]) -> State:
    """All tensors by name. Pickles are read by torch's tensors-only reader, never by the unrestricted one."""
    state: State = {}
    for path in files:
        state.update(_read_file(path))
        if odd := [name for name in state if not name.isprintable()]:  # names go into messages
            raise UsageError(path, f"a weight named {odd[0]!r:.40}", "printable names", "Download it again.")
    return state


def renamed(state: State, pairs: Iterable[tuple[str, str]], subject: object) -> State:
    """`state` with every `old` in its names replaced by `new`. Raises UsageError if two names become one."""
    names = {name: name for name in state}
    for old, new in pairs:
        names = {name: current.replace(old, new) for name, current in names.items()}
    result = {names[name]: tensor for name, tensor in state.items()}
    if len(result) != len(state):
        raise UsageError(subject, "one weight under two names", "each weight once", "Download the model again.")
    return result


def base_weights(state: State, prefix: str) -> State:
    """Without the heads: what lies under `prefix.`, or all of a file that was saved without heads."""
    start = prefix + "."
    inside = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
    return inside or state


def load_strictly(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    subject: object,
    *,
    may_lack: Sequence[str] = (),
    may_ignore: Sequence[str] = (),
) -> None:
    """Copy `state` into `module`. Names may be missing or left over only under the prefixes given.

    Raises UsageError that names every missing, renamed, extra, misshaped or non-float weight.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state and not name.startswith(tuple(may_lack))]
    extra = [name for name in state if name not in wanted and not name.startswith(tuple(may_ignore))]
    problems = _absent(missing, extra, wanted, state) + _misfits(wanted, state)
    if problems:
        lines = [f"{subject}: {problem}" for problem in problems]
        raise ManyProblems(subject, lines, "Use the published weights of this architecture.")
    module.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted}, strict=False)


def _absent(
    missing: list[str], extra: list[str], wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> list[str]:
    problems, rest = [], list(extra)
    for name in missing:
        alike = [other for other in rest if state[other].shape == wanted[name].shape]
        close = difflib.get_close_matches(name, alike, n=1) if len(missing) <= _GUESSES else []
        if close:
            rest.remove(close[0])
            problems.append(f"weight `{name}` is missing; `{close[0]}` has its shape: was it renamed?")
        else:
            problems.append(f"weight `{name}` is missing")
    return problems + [f"weight `{name}` is left over: this model has no such weight" for name in rest]


def _misfits(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    problems = []
    for name in wanted.keys() & state.keys():
        here, there = state[name], wanted[name]
        if here.shape != there.shape:
            problems.append(f"weight `{name}` has shape {tuple(here.shape)}, expected {tuple(there.shape)}")
        elif there.is_floating_point() and not here.is_floating_point():
            problems.append(f"weight `{name}` is {here.dtype}, expected floats")
    return sorted(problems)


def _shards(index: Path) -> list[Path]:
    table = read_json(index).get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    inside = [index.parent / name for name in names if Path(name).name == name]
    if not names or len(inside) < len(names):
        raise UsageError(index, "no list of files in this folder", "a weight_map", "Download the model again.")
    lost = [path.name for path in inside if not path.is_file()]
    if lost:
        raise UsageError(index, f"{', '.join(lost)} missing", "every file it lists", "Download the model again.")
    return inside


def _read_file(path: Path) -> State:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch's tensors-only reader raises for bytes that are no such file: anything
        found = f"cannot be read ({first_line(error)})"
        raise UsageError(path, found, "a file of tensors only", "Download it again.") from error
    if not isinstance(tree, dict) or not all(isinstance(value, torch.Tensor) for value in tree.values()):
        raise UsageError(path, "something else than named tensors", "a state dict", "Download it again.")
    return {str(name): tensor for name, tensor in tree.items()}
