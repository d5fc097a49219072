"""The space of a sweep: its dimensions, and the training that a point of it means."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pipeline.core.config import CustomObjectiveConfig, TrainConfig
from pipeline.core.config_files import load_config, validate
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.experiments.sweeps.config import TRIALS, Range, SweepConfig

Scalar = None | bool | int | float | str
Params = Mapping[str, Any]
_MOST_CHOICES = 1_000  # of a whole range in a grid
_OWN = ("seeds", "shuffle_seed", "memory", "threads")  # the sweep sets them itself; threads may be fixed


class Suggests(Protocol):
    """As much of `optuna.Trial` as a space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Choices:
    """A dimension of listed values. A study knows plain ones as they are, lists and mappings as JSON."""

    values: tuple[Any, ...]

    @property
    def known_as(self) -> list[Scalar]:
        return [value if isinstance(value, Scalar) else json.dumps(value) for value in self.values]

    def meant(self, known: Scalar) -> Any:
        return self.values[self.known_as.index(known)]


class Space:
    """The dimensions of `config`, every value of which makes a training.

    Raises UsageError, a line a problem, before anything trains: unknown settings, values that do not fit, dimensions
    that a grid cannot list.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.dimensions = _dimensions(config)
        problems = list(dict.fromkeys(self._problems()))
        if problems:
            raise ManyProblems(config.name, problems, "Correct the sweep or the -o overrides.")

    @property
    def grid(self) -> dict[str, list[Scalar]]:
        return {name: each.known_as for name, each in self.dimensions.items() if isinstance(each, Choices)}

    @property
    def trials(self) -> int:
        """How many trials the sweep makes. Raises UsageError for more than its grid has."""
        size = math.prod(len(values) for values in self.grid.values())
        if self.config.sampler == "grid" and (self.config.trials or 0) > size:
            found = f"{self.config.trials} trials of a grid of {size}"
            raise UsageError(self.config.name, found, f"at most {size}", "Leave trials out for the whole grid.")
        return self.config.trials or (size if self.config.sampler == "grid" else TRIALS)

    def suggest(self, trial: Suggests) -> dict[str, Scalar]:
        """The point that `trial` draws; what its method does not have is not asked for."""
        params: dict[str, Scalar] = {}
        for name in sorted(self.dimensions, key=lambda name: name != "method"):
            if not self._applies(name, params.get("method", self.config.method)):
                continue
            match self.dimensions[name]:
                case Choices() as choices:
                    params[name] = trial.suggest_categorical(name, choices.known_as)
                case Range(low=int(low), high=int(high), log=log, step=step):
                    params[name] = trial.suggest_int(name, low, high, step=int(step or 1), log=log)
                case Range(low=low, high=high, log=log, step=step):
                    params[name] = trial.suggest_float(name, low, high, step=step, log=log)
        return params

    def holds(self, name: str, known: Any) -> bool:
        """Whether a study may have drawn `known` for this dimension."""
        dimension = self.dimensions.get(name)
        if isinstance(dimension, Range):
            return type(known) in (int, float) and dimension.low <= known <= dimension.high
        return dimension is not None and any(type(known) is type(v) and known == v for v in dimension.known_as)

    def resolve_training(self, params: Params) -> TrainConfig:
        """The training that a point means: a method's preset, the fixed settings and the point's on top.

        Vectors are in memory and batches of shuffle seed 0 for every trial, so that trials may share them. Raises
        UsageError.
        """
        return self._resolved({name: self._meant(name, value) for name, value in params.items()})

    def resolved(self) -> Iterator[TrainConfig]:
        """What each method makes with each listed value or end of each other dimension, one at a time."""
        for method in self._methods:
            yield self._resolved({"method": method})
            for name, dimension in self.dimensions.items():
                if name != "method" and self._applies(name, method):
                    yield from (self._resolved({"method": method, name: value}) for value in _ends(dimension))

    def _meant(self, name: str, value: Scalar) -> Any:
        dimension = self.dimensions[name]
        return dimension.meant(value) if isinstance(dimension, Choices) else value

    def _resolved(self, values: Params) -> TrainConfig:
        method = values.get("method", self.config.method)
        names = [str(method), *([f"training/{self.config.training}"] if self.config.training else [])]
        own = {"seeds": list(range(self.config.repeats)), "shuffle_seed": 0, "memory": "resident"}
        chosen = [*self.config.fixed.items(), *(each for each in values.items() if each[0] != "method"), *own.items()]
        return load_config(TrainConfig, names, [f"{key}={json.dumps(value)}" for key, value in chosen], kind="methods")

    @cached_property
    def _methods(self) -> tuple[str, ...]:
        listed = self.dimensions.get("method")
        return listed.values if isinstance(listed, Choices) else (self.config.method,)

    @cached_property
    def _bases(self) -> dict[str, TrainConfig]:
        return {method: self._resolved({"method": method}) for method in self._methods}

    def _applies(self, name: str, method: Any) -> bool:
        """Whether `method` has the setting: those of an objective are not every objective's."""
        field = name.removeprefix("objective.")
        if field == name:
            return True
        objective = self._bases[method].objective
        if isinstance(objective, CustomObjectiveConfig) and field.startswith("settings."):
            return field.removeprefix("settings.") in objective.settings
        return field in type(objective).model_fields

    def _problems(self) -> Iterator[str]:
        for name in (*self.dimensions, *self.config.fixed):
            if name in _OWN and (name in self.dimensions or name != "threads"):
                yield f"{name}: the sweep sets it itself (repeats is how many seeds)"
        if isinstance(self.dimensions.get("method"), Range):
            yield "space.method: a range; expected a list of presets"
            return
        for method in self._methods:
            if problems := list(self._wrong({"method": method})):
                yield from problems
                return
        for name, dimension in self.dimensions.items():
            if self.config.sampler == "grid" and isinstance(dimension, Range):
                yield f"space.{name}: a range; a grid needs a list of values, or sampler random or tpe"
            if name in ("method", *_OWN):
                continue
            having = [method for method in self._methods if self._applies(name, method)]
            if self.config.sampler == "grid" and 0 < len(having) < len(self._methods):
                lacking = next(method for method in self._methods if method not in having)
                yield f"space.{name}: method {lacking} has no such setting; a grid needs one that all have"
            for method, value in itertools.product(having or self._methods[:1], _ends(dimension)):
                yield from (f"space.{line}" for line in self._wrong({"method": method, name: value}))

    def _wrong(self, values: Params) -> Iterator[str]:
        try:
            self._resolved(values)
        except ManyProblems as error:
            yield from (line.removeprefix(f"{error.subject}: ") for line in error.problems)
        except UsageError as error:
            yield str(error)


def _dimensions(config: SweepConfig) -> dict[str, Range | Choices]:
    """Each dimension of `config.space`, understood. Raises UsageError with every one that is not."""
    dimensions: dict[str, Range | Choices] = {}
    problems: list[str] = []
    for name, given in config.space.items():
        try:
            dimensions[name] = _dimension(f"space.{name}", given, grid=config.sampler == "grid")
        except ManyProblems as error:
            problems += error.problems
        except UsageError as error:
            problems.append(f"{error.subject}: {error.found}; expected {error.expected}")
    if problems:
        raise ManyProblems(config.name, problems, "Correct the sweep or the -o overrides.")
    return dimensions


def _dimension(subject: str, given: Any, *, grid: bool) -> Range | Choices:
    if isinstance(given, Mapping):
        found = validate(Range, given, subject=subject)
        if grid and found.whole:
            if (found.high - found.low) / (found.step or 1) >= _MOST_CHOICES:
                raise UsageError(
                    subject, f"{found.low} to {found.high}", f"at most {_MOST_CHOICES} values", "Give a step."
                )
            return Choices(tuple(range(int(found.low), int(found.high) + 1, int(found.step or 1))))
        return found
    if not isinstance(given, list) or not given:
        raise UsageError(subject, repr(given), "a list of values or {low, high}", "Correct the sweep.")
    choices = Choices(tuple(_number(value) for value in given))
    if len(set(choices.known_as)) < len(given):
        raise UsageError(subject, f"a value twice in {given}", "each once", "Correct the sweep.")
    return choices


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _ends(dimension: Range | Choices) -> Sequence[Any]:
    return dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
