"""What captions are written from, and what a style is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions
from cache.manifest import Manifest
from pipeline.config import CaptionsConfig


@dataclass(frozen=True)
class Acoustics:
    """Acoustic features of every utterance: `values` is (N, F), NaN where a row is not done."""

    names: tuple[str, ...]
    values: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Source:
    """A corpus. `acoustics` is there only for styles that need it."""

    manifest: Manifest
    acoustics: Acoustics | None = None


Style = Callable[[Source, CaptionsConfig], Captions]
