"""Rows of several vectors: the layers and poolings that a row holds, and the part of it that a reader chooses.

A layered row is one record: the encoder's own vector, where it has one, then a vector for each pooling of each layer.

    [own | layer 0 mean | layer 0 std | layer 1 mean | layer 1 std | ...]

A vector of a row is one of its columns. Each has a CRC of its own beside the row's, which is over these, so that a
column is checked without the rest of its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

from cache.errors import UsageError

DEFAULT, LAST, WEIGHTED, MEAN_STD = "default", "last", "weighted", "mean_std"
LayersChoice = str | int | Sequence[str | int]  # default, last, weighted, a layer, or several, which are concatenated
MAX_COLUMNS = 4096
_ACTION = "Choose among them, or run extract-features with other audio.layers or text.layers."


@dataclass(frozen=True)
class Axes:
    """What a layered row holds. In the header it is an object of these fields."""

    layers: tuple[int, ...]  # hidden states, ascending; 0 is the input of the first layer
    poolings: tuple[str, ...]  # over frames or tokens
    dim: int  # numbers of one layer's one pooling
    own: int = 0  # numbers of the encoder's own vector, ahead of all layers; 0 where it has none
    layer: int | None = None  # what is read where nothing is chosen, with the first pooling; None: its own vector

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Axes:
        """`as_json` again. Raises ValueError, TypeError or KeyError for anything that no store has."""
        layers, poolings = tuple(fields["layers"]), tuple(map(str, fields["poolings"]))
        axes = cls(layers, poolings, fields["dim"], fields["own"], fields["layer"])
        numbers = [*axes.layers, axes.dim, axes.own, *([] if axes.layer is None else [axes.layer])]
        if any(type(number) is not int or number < 0 for number in numbers) or len(fields) != len(asdict(axes)):
            raise ValueError(f"axes {dict(fields)!r:.80}")
        rising = all(before < after for before, after in pairwise(axes.layers))
        distinct = len(set(axes.poolings)) == len(axes.poolings) >= 1
        default = axes.own > 0 if axes.layer is None else axes.layer in axes.layers
        if not (axes.layers and axes.dim and rising and distinct and default and axes.columns <= MAX_COLUMNS):
            raise ValueError(f"axes {dict(fields)!r:.80}")
        return axes

    def as_json(self) -> dict[str, Any]:
        """The fields, as the header holds them."""
        return asdict(self) | {"layers": list(self.layers), "poolings": list(self.poolings)}

    @property
    def columns(self) -> int:
        """Vectors in a row."""
        return (self.own > 0) + len(self.layers) * len(self.poolings)

    @property
    def sizes(self) -> list[int]:
        """Numbers of each column, in the order of the row."""
        return [self.own] * (self.own > 0) + [self.dim] * (len(self.layers) * len(self.poolings))

    def column(self, layer: int, pooling: str) -> int:
        """Which column of the row it is."""
        return (self.own > 0) + self.layers.index(layer) * len(self.poolings) + self.poolings.index(pooling)

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.layers)) if len(self.layers) < 8 else f"{self.layers[0]} to {self.layers[-1]}"
        own = "its own vector, " if self.own else ""
        return f"{own}layers {listed} ({', '.join(self.poolings)})"


@dataclass(frozen=True)
class Selection:
    """The columns of a row that are read, one after the other: a vector of `dim` numbers."""

    columns: tuple[int, ...]
    dim: int
    weighted: int = 1  # layers that lie one after the other in it, to be summed with weights; 1: it is the vector

    def spans(self, sizes: Sequence[int]) -> list[range]:
        """The numbers of a row, of columns of these sizes, that it reads: those side by side are one range."""
        starts = [0, *accumulate(sizes)]
        spans: list[range] = []
        for column in self.columns:
            adjoins = bool(spans) and spans[-1].stop == starts[column]
            first = spans.pop().start if adjoins else starts[column]
            spans.append(range(first, starts[column + 1]))
        return spans


def speech_fingerprint(declared: Mapping[str, Any], axes: Axes | None, selection: Selection) -> dict[str, Any]:
    """The fingerprint of a speech encoder whose rows hold one vector, where `selection` of its layered rows is one.

    So heads, and other stores, know a layer whether it lies alone in its store or among others. `declared` is the
    encoder's own.
    """
    if axes is None or len(selection.columns) != 1:
        return dict(declared)
    rest = {name: value for name, value in declared.items() if name not in ("layers", "poolings")}
    place = selection.columns[0] - (axes.own > 0)
    if place < 0:
        return rest
    layer, pooling = divmod(place, len(axes.poolings))
    return rest | {"layer": axes.layers[layer], "pooling": axes.poolings[pooling]}


def chosen_numbers(axes: Axes | None, layers: LayersChoice, pooling: str, *, subject: object, dim: int) -> list[int]:
    """The numbers of a whole row that a choice means: `rows[:, chosen_numbers(...)]` of rows fresh from an encoder."""
    selection = select(axes, layers, pooling, subject=subject, dim=dim)
    return [number for span in selection.spans(axes.sizes if axes else [dim]) for number in span]


def select(axes: Axes | None, layers: LayersChoice, pooling: str, *, subject: object, dim: int) -> Selection:
    """The columns that a choice means, of rows of `dim` numbers; `axes` is None where a row is one vector.

    Raises UsageError for layers or poolings that the rows do not hold.
    """
    chosen = (layers,) if isinstance(layers, str | int) else tuple(layers)
    if axes is None:
        if chosen != (DEFAULT,) or pooling != DEFAULT:
            found = f"one vector per row, but layers={layers} and pooling={pooling} are asked for"
            action = "Run extract-features with -o audio.layers=all (or text.layers)."
            raise UsageError(subject, found, "rows of several layers", action)
        return Selection((0,), dim)
    if chosen == (DEFAULT,) and pooling == DEFAULT and axes.layer is None:
        return Selection((0,), axes.own)
    poolings = {DEFAULT: axes.poolings[:1], MEAN_STD: ("mean", "std")}.get(pooling, (pooling,))
    if missing := [name for name in poolings if name not in axes.poolings]:
        raise UsageError(subject, f"pooling {missing[0]}", str(axes), _ACTION)
    last = axes.layers[-1]
    numbers: list[int] = []
    for layer in chosen:
        if layer == WEIGHTED:
            numbers += axes.layers
        elif isinstance(layer, str):
            numbers.append(last if layer == LAST or axes.layer is None else axes.layer)
        else:
            numbers.append(layer if layer >= 0 else last + 1 + layer)
    if missing_layers := [number for number in numbers if number not in axes.layers]:
        raise UsageError(subject, f"layer {missing_layers[0]}", str(axes), _ACTION)
    columns = tuple(axes.column(number, name) for number in numbers for name in poolings)
    weighted = len(numbers) if chosen == (WEIGHTED,) else 1
    return Selection(columns, axes.dim * len(columns), weighted)
