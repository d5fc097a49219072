"""What every config is made of: a model without unknown keys, numbers that are numbers, and names of plugins."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from cache.errors import UsageError
from pipeline.core.plugins import BUILT_IN, Kind, find, is_valid_name

REQUIRE_PLUGINS = {"require_plugins": True}  # validation context: the plugins that a config names must be registered
_INT_LIMIT = 2**31  # of any whole number: beyond it C code overflows, and nothing here counts that far


def _not_bool(value: object) -> object:
    """`epochs: yes` is a mistake, not one epoch."""
    if isinstance(value, bool):
        raise ValueError("yes or no where a number is expected")
    return value


Whole = Annotated[int, BeforeValidator(_not_bool), Field(gt=-_INT_LIMIT, lt=_INT_LIMIT)]
Number = Annotated[float, BeforeValidator(_not_bool)]
Seed = Annotated[
    int, BeforeValidator(_not_bool), Field(ge=0, lt=2**63)
]  # numpy refuses negative ones, torch larger ones


class Model(BaseModel):
    """A part of a config: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def require_plugin(kind: Kind, name: str) -> None:
    """Raises ValueError for a name that is neither built in nor registered."""
    try:
        if name not in BUILT_IN[kind]:
            find(kind, name)
    except UsageError as error:
        raise ValueError(f"{error.found}; {error.action}") from None


def encoder_name(kind: Kind) -> AfterValidator:
    """The check of a setting that names an encoder: built in, or registered where plugins are required."""

    def check(name: str, info: ValidationInfo) -> str:
        if not is_valid_name(name) or info.context == REQUIRE_PLUGINS:
            require_plugin(kind, name)
        return name

    return AfterValidator(check)
