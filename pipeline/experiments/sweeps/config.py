"""What a sweep's YAML says (docs/sweeps.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pipeline.core.config import Model, Seed, Whole
from pipeline.core.config_files import Tree, load_config

DEFAULT = "default"  # the preset of a sweep that names none
TRIALS = 27  # where neither the YAML nor a grid says how many


class Range(Model):
    """A dimension between two ends, both included; of whole numbers where both ends are."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="drawn evenly in the logarithm")
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log wants low above 0 and no step")
        if self.whole and isinstance(self.step, float):
            raise ValueError(f"step {self.step} between whole numbers")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


class Halving(Model):
    """Successive halving: of `factor ** rungs` trials, 1 / factor go on from each rung."""

    factor: Whole = Field(3, ge=2, le=4096)
    rungs: Whole = Field(3, ge=1, le=16)


class SweepConfig(Model):
    """Which trials a sweep makes, how they are stopped and what they are ranked by."""

    name: str = Field("", description="of the study; none is the preset's or the file's")
    method: str = "emotionrankclap"
    training: str | None = None
    fixed: dict[str, Any] = Field({}, description="other settings of the training, laid on the method's")
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    seed: Seed = 0
    trials: PositiveInt | None = Field(None, description=f"none is the whole grid, {TRIALS} elsewhere")
    repeats: PositiveInt = Field(1, description="seeds a trial; its score is their mean")
    halving: Halving | None = Halving()
    slots: PositiveInt | Literal["auto"] = Field("auto", description="heads side by side at most")
    score: Literal["ordinality", "dev_loss"] = "ordinality"
    space: dict[str, Any] = Field(min_length=1, description="setting -> [value, ...] or {low, high, log, step}")

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        return _flat(space) if isinstance(space, Mapping) else space


def load_sweep(name: str | Path | None, overrides: Sequence[str] = (), trials: int | None = None) -> SweepConfig:
    """A preset of configs/sweeps, a YAML path, or the default preset; `trials` on top. Raises UsageError."""
    config = load_config(SweepConfig, name or DEFAULT, overrides, kind="sweeps")
    changed = {"name": config.name or Path(name or DEFAULT).stem, "trials": trials or config.trials}
    return config.model_copy(update=changed)


def _flat(space: Mapping[str, Any], prefix: str = "") -> Tree:
    """`{objective: {symmetric: [...]}}`, as an override makes it, is `{objective.symmetric: [...]}`."""
    flat: Tree = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and value and not value.keys() & Range.model_fields.keys():
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
