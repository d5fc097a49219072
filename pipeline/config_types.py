"""What the parts of a config are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_MOST = 2**31  # of any whole number: beyond it C code overflows, and nothing here counts that far


def _no_yes(value: object) -> object:
    """`epochs: yes` is a slip, not one epoch."""
    if isinstance(value, bool):
        raise ValueError("a yes or a no where a number stands")
    return value


Whole = Annotated[int, BeforeValidator(_no_yes), Field(gt=-_MOST, lt=_MOST)]
Number = Annotated[float, BeforeValidator(_no_yes)]
Seed = Annotated[int, BeforeValidator(_no_yes), Field(ge=0, lt=2**63)]  # numpy takes no negative one, torch none larger


class Model(BaseModel):
    """A part of a config: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
