"""Both modalities in one plane, coloured by valence and by arousal."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cache.pairs import cached_pairs
from pipeline.errors import UsageError
from pipeline.run import Run


def draw(run: Run, path: Path, *, split: str = "test") -> None:
    """Write a PNG: the first two principal components of speech and text embeddings of `split`."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "matplotlib", "not installed", "the demo extra", "pip install 'emotionrankclap[demo]'"
        ) from None
    pairs = cached_pairs(run.stores(), split, style=run.config.style)
    heads = run.heads()
    with torch.no_grad():
        speech = heads.embed_speech(pairs.speech)
        text = heads.embed_text(pairs.text[pairs.caption[pairs.offsets[:-1]]])
    speech, text = plane(speech, text)
    figure = Figure(figsize=(11, 5), layout="constrained")
    for place, (name, colours) in enumerate((("valence", "viridis"), ("arousal", "plasma"))):
        axes = figure.add_subplot(1, 2, place + 1)
        values = pairs.labels[:, place].numpy()
        for points, marker, modality in ((speech, "o", "speech"), (text, "^", "text")):
            x, y = points.T.numpy()
            drawn = axes.scatter(x, y, c=values, cmap=colours, vmin=1, vmax=7, marker=marker, s=22, alpha=0.75)
            axes.scatter([], [], color="0.3", marker=marker, label=modality)  # the legend's, in one grey
        axes.set(title=f"coloured by {name}", xlabel="first component", ylabel="second component")
        axes.legend(loc="best")
        figure.colorbar(drawn, ax=axes, label=f"{name} (1-7)")
    figure.suptitle(f"{run.config.method}: speech and text of {len(pairs)} test utterances in the shared space (PCA)")
    FigureCanvasAgg(figure).print_figure(path, dpi=130)


def plane(speech: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) and (n, d) -> (n, 2) and (n, 2): one principal-component plane for both."""
    both = torch.cat([speech, text])
    mean = both.mean(0)
    axes = torch.linalg.svd(both - mean, full_matrices=False).Vh[:2].T
    return (speech - mean) @ axes, (text - mean) @ axes
