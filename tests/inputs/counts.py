"""Many cases by one property: a few in every run, thousands behind the marker `exhaustive`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

Property = Callable[[bytes], None]


def cases(quick: int, exhaustive: int) -> pytest.MarkDecorator:
    """`count` is the number of cases: `quick` of them, or `exhaustive`."""
    return pytest.mark.parametrize("count", [quick, pytest.param(exhaustive, marks=pytest.mark.exhaustive)])


def hold(property_of: Callable[[object], object], inputs: st.SearchStrategy, count: int) -> None:
    """Check `property_of` on `count` of `inputs`, the same ones in every run."""
    asked = settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    @asked
    @given(inputs)
    def holds(each: object) -> None:
        property_of(each)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # of large inputs, when it shows the one that fails
        holds()
