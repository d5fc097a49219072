"""A sweep's YAML (docs/sweeps.md): its settings, and the dimensions of its space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from cache.layers import WEIGHTED
from cache.stores import Stores
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import Model, Seed, Tree, Whole, load_config, number_or_text, validate
from pipeline.core.errors import UsageError
from pipeline.core.settings import short_repr

if TYPE_CHECKING:
    from optuna import Trial

ALL = "all"  # layers, in a space
DEFAULT_PRESET = "default"  # where a command names none
MAX_BRACKET = 243  # trials that `rungs: auto` starts together
DEFAULT_TRIALS = 27  # where neither the YAML nor a grid gives a number
MAX_GRID_VALUES = 1_000  # that a range of integers becomes in a grid
Scalar = None | bool | int | float | str


class Range(Model):
    """A dimension between two ends, both included; of integers where both ends are integers."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="drawn evenly in the logarithm")
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_consistent(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        if self.of_integers and isinstance(self.step, float):
            raise ValueError(f"step {self.step} between whole numbers")
        return self

    @property
    def of_integers(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def checked_values(self) -> Sequence[Any]:
        """The values that stand for the dimension when a space is checked: its ends."""
        return self.low, self.high

    def suggest(self, trial: Trial, name: str) -> Scalar:
        """Draw a value."""
        if self.of_integers:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, drawn: object) -> bool:
        """Whether a study can have drawn this value."""
        return type(drawn) in (int, float) and self.low <= drawn <= self.high  # type: ignore[operator]

    def decode(self, drawn: Scalar) -> Any:
        """The setting that a drawn value means."""
        return drawn


@dataclass(frozen=True)
class Choices:
    """A dimension of listed values. A study holds scalars as they are, lists and mappings as JSON."""

    values: tuple[Any, ...]

    @property
    def encoded(self) -> list[Scalar]:
        return [value if isinstance(value, Scalar) else json.dumps(value) for value in self.values]

    @property
    def checked_values(self) -> Sequence[Any]:
        """The values that stand for the dimension when a space is checked: all."""
        return self.values

    def suggest(self, trial: Trial, name: str) -> Scalar:
        """Draw a value."""
        drawn: Scalar = trial.suggest_categorical(name, self.encoded)
        return drawn

    def contains(self, drawn: object) -> bool:
        """Whether a study can have drawn this value."""
        return any(type(drawn) is type(value) and drawn == value for value in self.encoded)

    def decode(self, drawn: Scalar) -> Any:
        """The setting that a drawn value means."""
        return self.values[self.encoded.index(drawn)]


Dimension = Range | Choices


def parse_dimension(subject: str, given: object, sampler: str) -> Dimension:
    """A list of values or {low, high, log, step}; a grid lists the integers of a range. Raises UsageError."""
    if isinstance(given, Mapping):
        between = validate(Range, given, subject=subject)
        return _listed(subject, between) if sampler == "grid" and between.of_integers else between
    if not isinstance(given, list) or not given:
        raise UsageError(subject, short_repr(given), "a list of values or {low, high}", "Correct the sweep.")
    choices = Choices(tuple(map(number_or_text, given)))
    if len(set(choices.encoded)) < len(given):
        raise UsageError(subject, f"a value twice in {given}", "each once", "Correct the sweep.")
    return choices


def _listed(subject: str, between: Range) -> Choices:
    low, high, step = int(between.low), int(between.high), int(between.step or 1)
    if (high - low) / step >= MAX_GRID_VALUES:
        raise UsageError(subject, f"{low} to {high}", f"at most {MAX_GRID_VALUES} values", "Give a step.")
    return Choices(tuple(range(low, high + 1, step)))


class Halving(Model):
    """Successive halving: of `factor ** rungs` trials, 1 / factor are promoted at each rung."""

    factor: Whole = Field(3, ge=2, le=4096, description="one trial in so many is promoted")
    rungs: Annotated[Whole, Field(ge=1, le=16)] | Literal["auto"] = Field(
        "auto", description=f"auto: so many that all trials are one bracket, of {MAX_BRACKET} at most"
    )

    def rungs_for(self, trials: int) -> int:
        """What `auto` is."""
        rungs = 1
        while self.factor**rungs < trials and self.factor ** (rungs + 1) <= MAX_BRACKET:
            rungs += 1
        return rungs


class SweepConfig(Model):
    """Which trials a sweep makes, how they are stopped and what they are ranked by."""

    name: str = Field("", description="name of the study; empty: that of the preset or file")
    method: str = Field("emotionrankclap", description="a method's preset or file")
    training: str | None = Field(None, description="a preset of configs/training, laid on the method's")
    fixed: dict[str, Any] = Field({}, description="other settings of the training, laid on the method's")
    sampler: Literal["grid", "random", "tpe"] = Field("tpe", description="how Optuna draws trials from the space")
    seed: Seed = Field(0, description="seed of the sampler's draws")
    trials: PositiveInt | None = Field(None, description=f"null: the whole grid; {DEFAULT_TRIALS} with another sampler")
    repeats: PositiveInt = Field(1, description="seeds per trial; its score is their mean")
    halving: Halving | None = Field(Halving(), description="halving=null trains every trial to its end")
    slots: PositiveInt | Literal["auto"] = Field("auto", description="heads that train side by side, at most")
    score: Literal["ordinality", "dev_loss"] = Field(
        "ordinality", description="on the development split: the mean of AOC and VOC, or the loss"
    )
    space: dict[str, Any] = Field(min_length=1, description="setting -> [value, ...] or {low, high, log, step}")

    @model_validator(mode="before")
    @classmethod
    def _names_are_the_sweeps(cls, given: Any) -> Any:
        theirs = [each for each in given if each not in cls.model_fields] if isinstance(given, Mapping) else []
        for name in theirs:
            if name in TrainConfig.model_fields:
                value = given[name] if isinstance(given[name], int | float) else "..."
                raise ValueError(
                    f"{name} is a setting of each training: write -o fixed.{name}={value}, or list its values: "
                    f"-o 'space.{name}=[{value}, ...]'"
                )
        return given

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        return _flat(space) if isinstance(space, Mapping) else space

    @property
    def maximise(self) -> bool:
        """Whether a higher score is a better one."""
        return self.score == "ordinality"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The same, as Optuna says it."""
        return "maximize" if self.maximise else "minimize"


def load_sweep(name: str | Path | None, overrides: Sequence[str] = (), trials: int | None = None) -> SweepConfig:
    """A preset of configs/sweeps, a YAML path, or the default preset; `trials` on top. Raises UsageError."""
    config = load_config(SweepConfig, name or DEFAULT_PRESET, overrides, kind="sweeps")
    changed = {"name": config.name or Path(name or DEFAULT_PRESET).stem, "trials": trials or config.trials}
    return config.model_copy(update=changed)


def list_layers(config: SweepConfig, stores: Stores) -> SweepConfig:
    """`config` with `speech.layers: all` (and the text's) as the list of what `stores` hold, for a space is of values.

    That is each layer, their weighted sum, and the encoder's own vector where it stands beside them. Raises UsageError
    for stores of one vector a row.
    """
    space = dict(config.space)
    for name, store in (("speech.layers", stores.audio), ("text.layers", stores.text)):
        if space.get(name) == ALL:
            if store.axes is None:
                action = f"Run extract-features with -o {'audio' if name[0] == 's' else 'text'}.layers=all."
                found = f"{store.path} holds one vector per row"
                raise UsageError(f"space.{name}", found, "the vectors of several layers", action)
            space[name] = [*(["default"] if store.axes.own else []), *store.axes.layers, WEIGHTED]
    return config.model_copy(update={"space": space})


def _flat(space: Mapping[str, Any], prefix: str = "") -> Tree:
    """`{objective: {symmetric: [...]}}`, as an override makes it, is `{objective.symmetric: [...]}`."""
    flat: Tree = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and value and not value.keys() & Range.model_fields.keys():
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
