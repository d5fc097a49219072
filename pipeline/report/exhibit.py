"""A figure of a report, its caption, and the data in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cache.errors import on_one_line
from pipeline.csv_text import csv_text


@dataclass(frozen=True)
class Exhibit:
    """`draw` draws into a matplotlib Figure of `size` inches; `rows` under `columns` are what is drawn.

    `name` is that of its files, `REPORT/NAME.{csv,svg,png}`.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    draw: Callable[[Any], None]
    size: tuple[float, float]

    def csv(self) -> str:
        """The data, in full precision."""
        return csv_text(self.columns, ([_plain(value) for value in row] for row in self.rows))


def _plain(value: Any) -> Any:
    return on_one_line(value) if isinstance(value, str) else value
