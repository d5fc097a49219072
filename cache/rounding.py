"""What is lost where a store keeps less than an encoder gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Rounding:
    """What a float16 store's rows lost against the float32 vectors they came from."""

    rows: int = 0
    largest_error: float = 0.0  # of any number
    largest_value: float = 0.0
    least_cosine: float = 1.0  # between a vector and what is stored of it

    def add(self, exact: NDArray[np.floating[Any]], stored: NDArray[np.floating[Any]]) -> None:
        """Take (width,) `exact` into account, of which `stored` is kept."""
        x, y = exact.astype(np.float64), stored.astype(np.float64)
        self.rows += 1
        self.largest_error = max(self.largest_error, float(np.abs(x - y).max()))
        self.largest_value = max(self.largest_value, float(np.abs(x).max()))
        self.least_cosine = min(self.least_cosine, float(x @ y / np.sqrt((x @ x) * (y @ y))))

    def __str__(self) -> str:
        return (
            f"float16 of {self.rows:,} rows: cosine at least {self.least_cosine:.8f}, largest difference "
            f"{self.largest_error:.1e} of values up to {self.largest_value:.1e}"
        )
