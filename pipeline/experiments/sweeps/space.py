"""The space of a sweep: dimensions -> points -> trainings, checked before anything trains."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.config import TrainConfig, kept_as_asked
from pipeline.core.config_files import load_config
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.objective_config import CustomObjectiveConfig
from pipeline.core.settings import WrongSettings
from pipeline.experiments.sweeps.config import (
    DEFAULT_TRIALS,
    Choices,
    Dimension,
    Range,
    Scalar,
    SweepConfig,
    parse_dimension,
)

if TYPE_CHECKING:
    from optuna import Trial

RESERVED = ("seeds", "shuffle_seed", "memory", "step", "threads")  # the sweep sets them itself
MAY_BE_FIXED = ("threads", "step")  # but these


class Space:
    """The dimensions of `config`, by name. `source` is the file that `config` was read from, if any: errors name it.

    Raises UsageError, one line per problem: unknown settings, values that do not fit, dimensions that a grid cannot
    list.
    """

    def __init__(self, config: SweepConfig, source: str = "") -> None:
        self.config = config
        is_file = Path(source).suffix in (".yaml", ".yml")
        self._subject = source if is_file else f"sweep {config.name}"
        self.dimensions, problems = parse_dimensions(config)
        problems = problems or list(dict.fromkeys(self._problems()))
        if problems:
            lines = [f"{self._subject}: {problem}" for problem in problems]
            raise ManyProblems(self._subject, lines, f"Correct {'the file or ' if is_file else ''}the -o options.")
        if config.sampler == "grid" and config.halving and self._size < config.halving.factor**2:
            self.config = config.model_copy(update={"halving": None})  # so few that stopping some saves little
        self.auto_rungs = self.config.halving is not None and self.config.halving.rungs == "auto"
        if self.config.halving is not None and self.auto_rungs:
            self.set_rungs(self.config.halving.rungs_for(self.trials))

    def set_rungs(self, rungs: int) -> None:
        """In place of `auto`."""
        if self.config.halving is not None:
            halving = self.config.halving.model_copy(update={"rungs": rungs})
            self.config = self.config.model_copy(update={"halving": halving})

    @property
    def _size(self) -> int:
        """Points of the grid."""
        return math.prod(len(values) for values in self.grid.values())

    @property
    def grid(self) -> dict[str, list[Scalar]]:
        return {name: each.encoded for name, each in self.dimensions.items() if isinstance(each, Choices)}

    @property
    def trials(self) -> int:
        """How many trials the sweep makes. Raises UsageError for more than its grid has."""
        config = self.config
        if config.sampler != "grid":
            return config.trials or DEFAULT_TRIALS
        size = self._size
        if config.trials and config.trials > size:
            found = f"{config.trials} trials of a grid of {size}"
            raise UsageError(self._subject, found, f"at most {size}", "Leave trials out for the whole grid.")
        return config.trials or size

    def suggest(self, trial: Trial) -> dict[str, Scalar]:
        """Draw a point: the method first, then a value for each setting that the method has."""
        params: dict[str, Scalar] = {}
        for name in sorted(self.dimensions, key=lambda name: name != "method"):
            if self._applies(name, params.get("method", self.config.method)):
                params[name] = self.dimensions[name].suggest(trial, name)
        return params

    def contains(self, name: str, drawn: object) -> bool:
        """Whether a study can have drawn this value of dimension `name`."""
        return name in self.dimensions and self.dimensions[name].contains(drawn)

    def resolve_training(self, params: Mapping[str, Any]) -> TrainConfig:
        """The training that a point means: a method's preset, the fixed settings and the point's on top.

        Vectors are in memory and batches come from shuffle seed 0 in every trial, so that trials can share them.
        Raises UsageError.
        """
        return self._resolve({name: self.dimensions[name].decode(value) for name, value in params.items()})

    def checked_trainings(self) -> Iterator[TrainConfig]:
        """The training of each method, and with each listed value or end of each other dimension, one at a time."""
        for method in self._methods:
            yield self._resolve({"method": method})
            for name, dimension in self.dimensions.items():
                if name != "method" and self._applies(name, method):
                    for value in dimension.checked_values:
                        yield self._resolve({"method": method, name: value})

    def _resolve(self, values: Mapping[str, Any]) -> TrainConfig:
        method = str(values.get("method", self.config.method))
        presets = [method, f"training/{self.config.training}"] if self.config.training else [method]
        point = {name: value for name, value in values.items() if name != "method"}
        shared = {"seeds": list(range(self.config.repeats)), "shuffle_seed": 0, "memory": "resident"}
        settings = [*self.config.fixed.items(), *point.items(), *shared.items()]
        overrides = kept_as_asked([f"{key}={json.dumps(v)}" for key, v in settings])
        return load_config(TrainConfig, presets, overrides, kind="methods")

    @cached_property
    def _methods(self) -> tuple[str, ...]:
        listed = self.dimensions.get("method")
        return listed.values if isinstance(listed, Choices) else (self.config.method,)

    @cached_property
    def _objectives(self) -> dict[str, Any]:
        return {method: self._resolve({"method": method}).objective for method in self._methods}

    def _applies(self, name: str, method: Any) -> bool:
        """Whether `method` has the setting: objectives differ in theirs."""
        section, _, field = name.partition(".")
        if section != "objective" or not field:
            return True
        objective = self._objectives[method]
        if isinstance(objective, CustomObjectiveConfig) and field.startswith("settings."):
            return field.removeprefix("settings.") in objective.settings
        return field in type(objective).model_fields

    def _problems(self) -> Iterator[str]:
        """Each on one line. Where a method cannot be resolved, nothing can be said of the dimensions."""
        for name in RESERVED:
            sections = [("space", self.dimensions), ("fixed", () if name in MAY_BE_FIXED else self.config.fixed)]
            for section, settings in sections:
                if name in settings:
                    yield f"{section}.{name}: the sweep sets it itself (repeats is the number of seeds)"
        if self.config.fixed.get("step") == "reference":
            yield "fixed.step: reference, which trains one head at a time; expected auto or fused"
        if isinstance(self.dimensions.get("method"), Range):
            yield "space.method: a range; expected a list of presets"
            return
        for method in self._methods:
            if problems := self._refused({"method": method}, "fixed"):
                yield from problems
                return
        for name, dimension in self.dimensions.items():
            yield from self._problems_of(name, dimension)

    def _problems_of(self, name: str, dimension: Dimension) -> Iterator[str]:
        grid = self.config.sampler == "grid"
        if grid and isinstance(dimension, Range):
            yield f"space.{name}: a range; a grid needs a list of values, or sampler random or tpe"
        if name == "method" or name in RESERVED:
            return
        with_it = [method for method in self._methods if self._applies(name, method)]
        without = [method for method in self._methods if method not in with_it]
        if grid and with_it and without:
            yield f"space.{name}: method {without[0]} has no such setting; a grid needs one that all have"
        for method in with_it or self._methods[:1]:
            for value in dimension.checked_values:
                yield from self._refused({"method": method, name: value}, "space")

    def _refused(self, values: Mapping[str, Any], section: str) -> list[str]:
        """Why `values` make no training, settings named as in the `section` of a sweep; empty where they do."""
        try:
            self._resolve(values)
        except WrongSettings as error:
            given = self.config.fixed if section == "fixed" else self.dimensions
            return [each.line(section if _is_of(each.name, given) else "") for each in error.settings]
        except UsageError as error:
            return [str(error)]
        return []


def _is_of(name: str, given: Iterable[str]) -> bool:
    """Whether the setting `name` is one of `given`, a part of one, or holds one."""
    return any(f"{name}.".startswith(f"{each}.") or f"{each}.".startswith(f"{name}.") for each in given)


def parse_dimensions(config: SweepConfig) -> tuple[dict[str, Dimension], list[str]]:
    """Each dimension of `config.space`, by name, and a line for each that cannot be read."""
    dimensions: dict[str, Dimension] = {}
    problems: list[str] = []
    for name, given in config.space.items():
        try:
            dimensions[name] = parse_dimension(f"space.{name}", given, config.sampler)
        except ManyProblems as error:
            problems += error.problems
        except UsageError as error:
            problems.append(f"{error.subject}: {error.found}; expected {error.expected}")
    return dimensions, problems
