"""The scale that labels were rated on: the reader's own, declared, or 1-7 unless the labels themselves say otherwise.

A wrong scale moves every label and breaks nothing, so it is never guessed: labels that look like another one are
refused with the line to add, and what every run reads stands in its notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.manifest import LABEL_COLUMNS
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError

Range = tuple[float, float]  # lowest and highest
STANDARD: Range = (1.0, 7.0)  # of the manifest (F10)
# those that corpora are rated on, the narrower first
KNOWN: tuple[Range, ...] = (
    (0, 1), (-1, 1), (0, 4), (1, 5), (-2, 2), (0, 5), (0, 6), (1, 7), (-3, 3), (1, 9), (-4, 4), (1, 10), (0, 10),
    (-5, 5), (-10, 10), (0, 100), (-100, 100),
)  # fmt: skip
_LEAST_WIDTH = 1e-6  # between lowest and highest: what is closer is lost in rounding
_NEAR = 1 / 8  # of the width: labels that come so near to both ends fill a scale
_FEW = 0.01  # of all labels: fewer that lie outside are slips of the pen


@dataclass(frozen=True)
class LabelScales:
    """(lowest, highest) of each label. Those in `assumed` were not declared, and are checked against the labels."""

    ranges: Mapping[str, Range]
    assumed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for lowest, highest in self.ranges.values():
            if not highest - lowest > _LEAST_WIDTH:
                raise UsageError("corpus.scale", f"{lowest:g} to {highest:g}", "lowest < highest", "Correct it.")

    @classmethod
    def of(cls, scale: Range | Mapping[str, Range] | None) -> LabelScales:
        """One scale for all labels, or one for each that is named; the others are assumed to be 1-7."""
        if scale is None:
            scale = {}
        declared = scale if isinstance(scale, Mapping) else dict.fromkeys(LABEL_COLUMNS, scale)
        ranges = {name: declared.get(name, STANDARD) for name in LABEL_COLUMNS}
        return cls(ranges, frozenset(name for name in LABEL_COLUMNS if name not in declared))

    def to_standard(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`values` of the label `name`, mapped linearly to 1-7; on it already they are kept to the last bit."""
        lowest, highest = self.ranges[name]
        return values if (lowest, highest) == STANDARD else 1.0 + (values - lowest) / (highest - lowest) * 6.0

    def notes(self, labels: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
        """What the labels are and how they are read, and what about it is worth a look."""
        for name, values in _present(labels).items():
            found = f"{name}: {len(values):,} label{'s' * (len(values) != 1)} from {_statistics(values)}"
            if name in self.assumed:
                yield f"{found}; scale 1-7 is assumed (set corpus.scale if it is another)"
            else:
                mapped = ", mapped to 1-7" if self.ranges[name] != STANDARD else ""
                yield f"{found}; scale {_text(self.ranges[name])}{mapped}"
        assumed = {name: values for name, values in _present(labels).items() if name in self.assumed}
        within = [name for name, values in assumed.items() if values.max() <= 5]
        if within:
            key = "corpus.scale" if len(within) == len(assumed) else f"corpus.scale.{within[0]}"
            yield f"WARNING: no {' and no '.join(within)} is above 5: if it was rated on 1-5, add -o {key}=[1,5]"

    def refusal(self, labels: Mapping[str, NDArray[np.float64]]) -> tuple[str, str] | None:
        """Why labels without a declared scale cannot be read on 1-7, and the line to add; None where they can.

        Refused are labels within 1-5 that come near both of its ends, and labels of which more than a few lie outside
        1-7 and which together fill another known scale, or of which most do.
        """
        assumed = {name: values for name, values in _present(labels).items() if name in self.assumed}
        if not assumed:
            return None
        values = np.concatenate(list(assumed.values()))
        outside = int(((values < STANDARD[0]) | (values > STANDARD[1])).sum())
        scale = _filled(values)
        if outside * 2 > len(values):
            scale = scale or next((known for known in KNOWN if _holds(known, values)), None)
        elif not (scale == (1, 5) or (scale and outside >= max(2, _FEW * len(values)))):
            return None
        summaries = ", ".join(f"{name} {_statistics(values)}" for name, values in assumed.items())
        looks = f"look like labels on {_text(scale)}" if scale else "are not on it"
        found = f"{summaries}: they {looks}, and no scale is declared (1-7 would be assumed)"
        action = f"Declare it: {_line(assumed, scale)}."
        if not outside:
            action += " If they were rated on 1-7 nevertheless: -o corpus.scale=[1,7]."
        return found, action


def _present(labels: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    present = {name: values[~np.isnan(values)] for name, values in labels.items()}
    return {name: values for name, values in present.items() if len(values)}


def _statistics(values: NDArray[np.float64]) -> str:
    return f"{values.min():.3g} to {values.max():.3g} (mean {values.mean():.3g}, std {values.std():.3g})"


def _text(scale: Range) -> str:
    lowest, highest = scale
    return f"{lowest:g}-{highest:g}" if lowest >= 0 else f"{lowest:g} to {highest:g}"


def _holds(scale: Range, values: NDArray[np.float64]) -> bool:
    return bool(scale[0] <= values.min() and values.max() <= scale[1])


def _filled(values: NDArray[np.float64]) -> Range | None:
    """The narrowest known scale that holds all `values` and that they come near both ends of."""
    for scale in KNOWN:
        near = (scale[1] - scale[0]) * _NEAR
        if _holds(scale, values) and values.min() <= scale[0] + near and values.max() >= scale[1] - near:
            return scale
    return None


def _line(labels: Mapping[str, NDArray[np.float64]], scale: Range | None) -> str:
    """The setting to add: one scale, or one for each label where they fill different ones."""
    own = {name: _filled(values) for name, values in labels.items()}
    if None not in own.values() and len(set(own.values())) > 1:
        parts = ", ".join(f"{name}: {_pair(each)}" for name, each in own.items() if each)
        return f"-o corpus.scale='{{{parts}}}'"
    return f"-o corpus.scale={_pair(scale)}" if scale else "-o corpus.scale=[lowest,highest]"


def _pair(scale: Range) -> str:
    return f"[{scale[0]:g},{scale[1]:g}]"


def corpus_scale(config: CorpusConfig, own: Range) -> Range:
    """The corpus's `own` label scale. Raises UsageError when the config explicitly says another."""
    declared = list(config.scale.values()) if isinstance(config.scale, dict) else [config.scale or own]
    others = [scale for scale in declared if scale != own]
    if others:
        found = f"{others[0][0]:g} to {others[0][1]:g}"
        action = f"Leave it out or set -o corpus.scale=[{own[0]:g},{own[1]:g}]."
        raise UsageError("corpus.scale", found, f"{own[0]:g} to {own[1]:g}, the scale of {config.reader}", action)
    return own
