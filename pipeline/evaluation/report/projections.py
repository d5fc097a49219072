"""2-D projections of speech and text, by principal components and by UMAP, before the heads and after; and the modality
gap between them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.linalg import eigh
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.evaluation.report.drawing import Figure
from pipeline.training.heads import Heads

log = logging.getLogger(__name__)

PROJECTION, UMAP = "projection", "umap"  # names of the figures
MAX_POINTS = 400  # utterances drawn
MAX_FITTED = 4_096  # utterances that components, shares and gaps are of
MAX_UMAP = 1_000  # utterances that UMAP lays out: 2,000 take seconds, and no approximation of the neighbours
NEIGHBOURS, MIN_DISTANCE = 15, 0.1  # UMAP's own defaults
PANELS = ("speech before", "text before", "both after")
GAP = (
    "distance between the centroids of the L2-normalised embeddings of speech and of text (Liang et al. 2022, Mind the "
    "gap), over utterances with the first caption of each, "
    f"{MAX_FITTED:,} drawn with a fixed seed where there are more; 0 is none, and for embeddings without negative "
    "entries (ReLU heads) √2 is the largest"
)
_MARKERS = {"speech": "o", "text": "^"}
_COLOURS = {"valence": "viridis", "arousal": "plasma"}


@dataclass(frozen=True)
class Projection:
    """(n, 2) coordinates on the first two principal components, and the share of the variance that each holds."""

    points: Tensor
    shares: tuple[float, float]


def modality_gap(speech: Tensor, text: Tensor) -> float:
    """Distance between the centroids of unit vectors (n, d) and (m, d)."""
    return float(torch.linalg.vector_norm(speech.double().mean(0) - text.double().mean(0)))


def gap_of(heads: Heads, pairs: CachedPairs) -> float:
    """`modality_gap` of up to `MAX_FITTED` utterances and the first caption of each."""
    rows = _sample(pairs, MAX_FITTED).to(pairs.speech.device)
    with torch.no_grad():
        speech = heads.embed_speech(pairs.speech[rows])
        return modality_gap(speech, heads.embed_text(pairs.text[first_captions(pairs)[rows]]))


def first_captions(pairs: CachedPairs) -> Tensor:
    """(n,) the row of `pairs.text` of each utterance's first caption."""
    return pairs.caption[pairs.offsets[:-1]]


def principal_components(vectors: Tensor) -> Projection:
    """The first two of (n, d). The entry of a component that is largest by size is positive."""
    centred = vectors - vectors.mean(0)
    products = (centred.T @ centred).double().cpu()  # d x d: n may be thousands
    largest = max(0, len(products) - 2), len(products) - 1
    variances, axes = map(torch.from_numpy, eigh(products.numpy(), subset_by_index=largest))
    chosen = axes.flip(1)
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
    points = centred.double().cpu() @ chosen
    shares = (variances.clamp(min=0) / products.trace().clamp(min=1e-30)).flip(0).tolist()
    if len(shares) == 1:  # heads of one dimension
        return Projection(torch.nn.functional.pad(points, (0, 1)), (shares[0], 0.0))
    return Projection(points, (shares[0], shares[1]))


def panel_vectors(heads: Heads, pairs: CachedPairs, rows: Tensor) -> dict[str, Tensor]:
    """What each panel shows of `rows` (r,): (r, d) of a modality before the heads, (2r, d) speech, then text, after."""
    rows = rows.to(pairs.speech.device)
    speech, text = pairs.speech[rows], pairs.text[first_captions(pairs)[rows]]
    with torch.no_grad():
        before = heads.standardise(speech, text)
        after = torch.cat([heads.embed_speech(speech), heads.embed_text(text)])
    return dict(zip(PANELS, (*before, after), strict=True))


def pca_figure(heads: Heads, pairs: CachedPairs) -> Figure:
    """Each modality on components of its own before the heads, and both on shared ones after them."""
    scatters = pca_scatters(heads, pairs)
    caption = (
        "Principal components of the test split. Before the heads the modalities have spaces of their own, so each has "
        "its own components (standardised encoder vectors); after them both are in one space, on shared components. "
        f"Circles are speech, triangles text; {len(scatters.rows)} of {len(pairs)} utterances are drawn, and "
        f"components and shares are those of {min(len(pairs), MAX_FITTED)}."
    )
    return _figure(PROJECTION, "Speech and text in two dimensions", caption, scatters)


def pca_scatters(heads: Heads, pairs: CachedPairs) -> Scatters:
    """The points of `pca_figure`."""
    fitted, rows = _sample(pairs, MAX_FITTED), _sample(pairs, MAX_POINTS)
    drawn = torch.searchsorted(fitted, rows)
    found = {panel: principal_components(vectors) for panel, vectors in panel_vectors(heads, pairs, fitted).items()}
    axes = {
        panel: (f"first component ({of.shares[0]:.0%})", f"second ({of.shares[1]:.0%})") for panel, of in found.items()
    }
    return Scatters(pairs, rows, {panel: _take(of.points, drawn, len(fitted)) for panel, of in found.items()}, axes)


def umap_figure(heads: Heads, pairs: CachedPairs) -> Figure | None:
    """The panels of `pca_figure`, by UMAP; None where it is not installed, or for too few utterances."""
    if len(pairs) <= NEIGHBOURS or (umap_class := _import_umap()) is None:
        return None
    fitted, rows = _sample(pairs, MAX_UMAP), _sample(pairs, MAX_POINTS)
    drawn = torch.searchsorted(fitted, rows)
    points = {}
    for panel, vectors in panel_vectors(heads, pairs, fitted).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # equal vectors fall apart into islands, as they should
            # one thread and a fixed seed: the same vectors give the same bits
            layout = umap_class(
                n_neighbors=NEIGHBOURS, min_dist=MIN_DISTANCE, metric="euclidean", random_state=0, n_jobs=1
            )
            embedded = layout.fit_transform(vectors.cpu().float().numpy())
        points[panel] = _take(torch.from_numpy(embedded), drawn, len(fitted))
    caption = (
        f"Neighbourhoods of the vectors above (UMAP, n_neighbors {NEIGHBOURS}, min_dist {MIN_DISTANCE}, Euclidean, "
        "random_state 0). What lies close together was close; distances between clusters, their sizes and their "
        "density mean nothing, and neither do the axes; captions that recur make islands of their own. "
        f"{len(fitted)} of {len(pairs)} utterances are laid out, {len(rows)} of them drawn."
    )
    axes = dict.fromkeys(points, ("first coordinate (no unit)", "second (no unit)"))
    return _figure(UMAP, "The same by UMAP", caption, Scatters(pairs, rows, points, axes))


def _sample(pairs: CachedPairs, most: int) -> Tensor:
    """Up to `most` rows, ascending; the rows of a smaller sample are among those of a larger one."""
    return torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:most].sort().values


def _take(vectors: Tensor, rows: Tensor, count: int) -> Tensor:
    """`rows` of the first `count` vectors, then of the next `count` where a panel has both modalities."""
    return torch.cat([part[rows] for part in torch.split(vectors, count)])


def _import_umap() -> Any:
    """UMAP's class; None where it is not installed, or, with a warning, where numba finds no folder for its cache."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for Tensorflow, which nothing here needs
            import umap
    except ImportError:
        return None
    except RuntimeError as error:
        log.warning(f"report: UMAP is left out: {error}")
        return None
    return umap.UMAP


@dataclass(frozen=True)
class Scatters:
    """The drawn `points` of each panel, (r, 2) or (2r, 2), of `rows` (r,) of `pairs`; `axes` names a panel's two."""

    pairs: CachedPairs
    rows: Tensor
    points: Mapping[str, Tensor]
    axes: Mapping[str, tuple[str, str]]

    def modalities(self, panel: str) -> list[tuple[str, Tensor]]:
        """The modalities of a panel, each with its (r, 2) points."""
        if panel != PANELS[2]:
            return [(panel.split()[0], self.points[panel])]
        return list(zip(_MARKERS, torch.split(self.points[panel], len(self.rows)), strict=True))

    def data(self) -> Sequence[Sequence[Any]]:
        """A line for each point: manifest row, panel, modality, coordinates, valence and arousal."""
        utterances = self.pairs.rows[self.rows.numpy()].tolist()
        labels = self.pairs.labels.cpu()[self.rows, :2].tolist()
        return [
            (utterance, panel, modality, *point, *label)
            for panel in self.points
            for modality, points in self.modalities(panel)
            for utterance, point, label in zip(utterances, points.tolist(), labels, strict=True)
        ]

    def draw(self, figure: Any) -> None:
        """A row of panels coloured by valence, and one by arousal."""
        grid = figure.subplots(2, len(self.points))
        self.draw_legend(grid[0, 0])
        figure.legend(loc="outside upper center", ncols=2, fontsize=8)
        for line, name in enumerate(_COLOURS):
            for axes, panel in zip(grid[line], self.points, strict=True):
                scatter = self.draw_panel(axes, panel, name)
                axes.set_title(panel if line == 0 else "")
            figure.colorbar(scatter, ax=list(grid[line]), label=f"{name} (1-7)", pad=0.01)

    def draw_panel(self, axes: Any, panel: str, name: str) -> Any:
        """The points of `panel` in the colours of valence or arousal; returns what a colour bar is made of."""
        values = self.pairs.labels.cpu()[self.rows, list(_COLOURS).index(name)].numpy()
        colour = {"c": values, "cmap": _COLOURS[name], "vmin": 1, "vmax": 7, "plotnonfinite": True}
        for modality, points in self.modalities(panel):
            look = {"marker": _MARKERS[modality], "s": 18, "edgecolors": "black", "linewidths": 0.3}
            scatter = axes.scatter(*points.T.numpy(), **colour, **look)
        across, up = self.axes[panel]
        axes.set(xlabel=across, ylabel=up)
        return scatter

    def draw_legend(self, axes: Any) -> None:
        """The markers of the modalities, without any point, for a legend."""
        for modality, marker in _MARKERS.items():
            axes.scatter([], [], facecolor="0.7", edgecolors="black", marker=marker, label=modality)


def _figure(name: str, title: str, caption: str, scatters: Scatters) -> Figure:
    columns = ("row", "panel", "modality", "first", "second", "valence", "arousal")
    return Figure(name, title, caption, columns, scatters.data(), scatters.draw, (10.5, 7.0))
