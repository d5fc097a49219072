"""Speech and text as UMAP lays them out, where umap-learn is installed (the `umap` extra)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from cache.pairs import CachedPairs
from pipeline.heads import Heads
from pipeline.progress import say
from pipeline.report.exhibit import Exhibit
from pipeline.report.planes import COLUMNS, SHOWN, SIZE, draw, lines_of, shuffled, spaces

NAME = "umap"
MOST = 1_000  # utterances laid out: 2,000 points take seconds, and no approximation of the neighbours
NEIGHBOURS, DISTANCE = 15, 0.1  # UMAP's own defaults
_AXES = ("first coordinate (no unit)", "second (no unit)")


def umap_planes(heads: Heads, pairs: CachedPairs) -> Exhibit | None:
    """The panels of `planes`, by UMAP; None where it is not installed, or for too few utterances."""
    if len(pairs) <= NEIGHBOURS or (made := _umap()) is None:
        return None
    order = shuffled(len(pairs))
    rows, shown = order[:MOST].sort().values, order[:SHOWN].sort().values
    places = torch.searchsorted(rows, shown)
    points = {panel: _laid_out(made, _of(rows, vectors, len(pairs))) for panel, vectors in spaces(heads, pairs).items()}
    return Exhibit(
        NAME,
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
        say(f"report: UMAP is left out: {error}")
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
