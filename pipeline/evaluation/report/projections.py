"""Speech and text in one plane, before the heads and after, and the gap between them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.evaluation.report.drawing import Figure
from pipeline.training.heads import Heads

log = logging.getLogger(__name__)

NAME = "planes"
SHOWN = 400  # utterances drawn; components, shares and gaps are of all
PANELS = ("speech before", "text before", "both after")
COLUMNS = ("row", "panel", "modality", "first", "second", "valence", "arousal")
SIZE = (10.5, 7.0)
_MARKERS = {"speech": "o", "text": "^"}
GAP = (
    "distance between the centroids of the L2-normalised embeddings of speech and of text (Liang et al. 2022, Mind the "
    "gap), over utterances with the first caption of each; 0 is none, and for embeddings without negative entries "
    "(ReLU heads) √2 is the largest"
)


@dataclass(frozen=True)
class Plane:
    """(n, 2) coordinates on the first two principal components, and the share of the variance that each holds."""

    points: Tensor
    shares: tuple[float, float]

    @property
    def axes(self) -> tuple[str, str]:
        """What the axes are called."""
        return f"first component ({self.shares[0]:.0%})", f"second ({self.shares[1]:.0%})"


def modality_gap(speech: Tensor, text: Tensor) -> float:
    """Distance between the centroids of unit vectors (n, d) and (m, d)."""
    return float(torch.linalg.vector_norm(speech.double().mean(0) - text.double().mean(0)))


def first_captions(pairs: CachedPairs) -> Tensor:
    """(n, Dt) the vector of each utterance's first caption."""
    return pairs.text[pairs.caption[pairs.offsets[:-1]]]


def plane(vectors: Tensor) -> Plane:
    """The first two principal components of (n, d). The entry of a component that is largest by size is positive."""
    centred = vectors - vectors.mean(0)
    spread, axes = torch.linalg.eigh((centred.T @ centred).double().cpu())  # d x d: n may be 35,000
    chosen = axes[:, -2:].flip(1)
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
    points = centred.double().cpu() @ chosen
    held = (spread.clamp(min=0) / spread.clamp(min=0).sum().clamp(min=1e-30)).flip(0)[:2].tolist()
    lacking = 2 - points.shape[1]  # heads of one dimension
    first, second = held + [0.0] * lacking
    return Plane(torch.nn.functional.pad(points, (0, lacking)), (first, second))


def spaces(heads: Heads, pairs: CachedPairs) -> dict[str, Tensor]:
    """What each panel shows: (n, d) of a modality before the heads, (2n, d) of speech and then text after them."""
    text = first_captions(pairs)
    with torch.no_grad():
        before = heads.standardise(pairs.speech, text)
        after = torch.cat([heads.embed_speech(pairs.speech), heads.embed_text(text)])
    return dict(zip(PANELS, (*before, after), strict=True))


def shuffled(count: int) -> Tensor:
    """Rows 0 to `count` - 1 in an order that depends on nothing else: the first few are a sample."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def planes(heads: Heads, pairs: CachedPairs) -> Figure:
    """Each modality on components of its own before the heads, and both on shared ones after them."""
    found = {panel: plane(vectors) for panel, vectors in spaces(heads, pairs).items()}
    rows = shuffled(len(pairs))[:SHOWN].sort().values
    points = {panel: of.points for panel, of in found.items()}
    return Figure(
        NAME,
        "Speech and text in the plane",
        "Principal components of the test split. Before the heads the modalities have spaces of their own, so each has "
        "its own components (standardised encoder vectors); after them both are in one space, on shared components. "
        f"Circles are speech, triangles text; {len(rows)} of {len(pairs)} utterances are drawn.",
        COLUMNS,
        lines_of(points, rows, rows, pairs),
        lambda figure: draw(figure, points, {name: of.axes for name, of in found.items()}, rows, pairs.labels[rows]),
        SIZE,
    )


def lines_of(points: Mapping[str, Tensor], places: Tensor, rows: Tensor, pairs: CachedPairs) -> Sequence[Sequence[Any]]:
    """The data of a figure: of each panel the points at `places`, which are those of `rows` of `pairs`."""
    utterances, labels = pairs.rows[rows.numpy()].tolist(), pairs.labels.cpu()[rows, :2].tolist()
    return [
        (utterance, panel, modality, *point, *label)
        for panel, of in points.items()
        for modality, drawn in _series(panel, of, places)
        for utterance, point, label in zip(utterances, drawn.tolist(), labels, strict=True)
    ]


def draw(
    figure: Any, points: Mapping[str, Tensor], names: Mapping[str, tuple[str, str]], places: Tensor, labels: Tensor
) -> None:
    """The points at `places` in every panel, in the colours of their `labels`; `names` are the axes'."""
    grid, labels = figure.subplots(2, len(points)), labels.cpu()
    for modality, marker in _MARKERS.items():
        grid[0, 0].scatter([], [], facecolor="0.7", edgecolors="black", marker=marker, label=modality)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    for line, (name, colours) in enumerate((("valence", "viridis"), ("arousal", "plasma"))):
        for axes, (panel, of) in zip(grid[line], points.items(), strict=True):
            drawn = None
            for modality, chosen in _series(panel, of, places):
                look = {"c": labels[:, line].numpy(), "cmap": colours, "vmin": 1, "vmax": 7, "plotnonfinite": True}
                look |= {"marker": _MARKERS[modality], "s": 18, "edgecolors": "black", "linewidths": 0.3}
                drawn = axes.scatter(*chosen.T.numpy(), **look)
            across, up = names[panel]
            axes.set(xlabel=across, ylabel=up, title=panel if line == 0 else "")
        figure.colorbar(drawn, ax=list(grid[line]), label=f"{name} (1-7)", pad=0.01)


def _series(panel: str, points: Tensor, places: Tensor) -> list[tuple[str, Tensor]]:
    """The modalities of a panel and their points."""
    if panel != PANELS[2]:
        return [(panel.split()[0], points[places])]
    return [("speech", points[places]), ("text", points[places + len(points) // 2])]


UMAP_PLANES_NAME = "umap"
MOST = 1_000  # utterances laid out: 2,000 points take seconds, and no approximation of the neighbours
NEIGHBOURS, DISTANCE = 15, 0.1  # UMAP's own defaults
_AXES = ("first coordinate (no unit)", "second (no unit)")


def umap_planes(heads: Heads, pairs: CachedPairs) -> Figure | None:
    """The panels of `planes`, by UMAP; None where it is not installed, or for too few utterances."""
    if len(pairs) <= NEIGHBOURS or (made := _umap()) is None:
        return None
    order = shuffled(len(pairs))
    rows, shown = order[:MOST].sort().values, order[:SHOWN].sort().values
    places = torch.searchsorted(rows, shown)
    points = {panel: _laid_out(made, _of(rows, vectors, len(pairs))) for panel, vectors in spaces(heads, pairs).items()}
    return Figure(
        UMAP_PLANES_NAME,
        "The same by UMAP",
        f"Neighbourhoods of the vectors above (UMAP, n_neighbors {NEIGHBOURS}, min_dist {DISTANCE}, Euclidean, "
        "random_state 0). What lies close together was close; distances between clusters, their sizes and their "
        "density mean nothing, and neither do the axes; captions that recur make islands of their own. "
        f"{len(rows)} of {len(pairs)} utterances are laid out, {len(shown)} of them drawn.",
        COLUMNS,
        lines_of(points, places, shown, pairs),
        lambda figure: draw(figure, points, dict.fromkeys(points, _AXES), places, pairs.labels[shown]),
        SIZE,
    )


def _umap() -> Any:
    """The class; None where there is none, or where numba finds no folder for its cache (said)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for Tensorflow, which nothing here needs
            from umap import UMAP
    except ImportError:
        return None
    except RuntimeError as error:
        log.warning(f"report: UMAP is left out: {error}")
        return None
    return UMAP


def _of(rows: Tensor, vectors: Tensor, count: int) -> Tensor:
    """Those of `rows`; of both modalities where there are two."""
    return torch.cat([part[rows] for part in torch.split(vectors.cpu(), count)])


def _laid_out(made: Any, vectors: Tensor) -> Tensor:
    """(n, 2) of (n, d). One thread and a fixed seed: the same vectors give the same bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal vectors fall apart into islands, as they should
        fitted = made(n_neighbors=NEIGHBOURS, min_dist=DISTANCE, metric="euclidean", random_state=0, n_jobs=1)
        return torch.from_numpy(fitted.fit_transform(vectors.float().numpy()))
