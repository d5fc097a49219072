"""run-demo: a rendered spoken corpus through both stages, in minutes on two cores (F38)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.pairs import cached_pairs
from pipeline.core.errors import required_library
from pipeline.core.progress import Meter
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.references import references_beside
from pipeline.evaluation.report.projections import first_captions
from pipeline.evaluation.tables import evaluation_table
from pipeline.experiments.demo.corpus import render_corpus
from pipeline.extraction.extract import extract
from pipeline.inference.search import search
from pipeline.training.run_folder import Run
from pipeline.training.train import train

log = logging.getLogger(__name__)


UTTERANCES = 800
SENTENCES = (
    "The person is speaking in a cheerful and lively way.",
    "The person is speaking softly, calm and content.",
    "The person is speaking gloomily and without energy.",
)


def run_demo(
    out: str | Path, *, seeds: int = 3, fresh: bool = False, utterances: int = UTTERANCES
) -> tuple[dict[str, Any], str]:
    """Render, extract, train, evaluate, search and draw into `out`; returns the results and their text.

        result, text = run_demo("emotionrankclap-demo", seeds=3)

    Doing it again resumes. Raises UsageError when the `demo` extra is not installed.
    """
    out = Path(out)
    log.info("1/5 rendering a spoken corpus")
    with Meter("render", utterances, unit="utterances") as meter:
        manifest = render_corpus(out / "corpus", utterances=utterances, progress=lambda _done, _total: meter.advance(1))
    log.info("2/5 running the frozen encoders")
    extract(manifest, out=out / "stores", fresh=fresh)
    log.info("3/5 training the heads")
    run = train(out / "stores", training="small_corpus", seeds=seeds, out=out / "run", fresh=fresh)
    log.info("4/5 evaluating")
    result = evaluate(run)
    tables = evaluation_table({result["method"]: result, **references_beside(result, run.stores())})
    log.info("5/5 searching and drawing")
    found = search(run, SENTENCES, split="test", top=3)
    draw_plane(run, out / "embeddings.png")
    result["search"] = dict(zip(SENTENCES, found, strict=True))
    return result, "\n\n".join([tables, _answers(result["search"]), _places(out)])


def _answers(search: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["Search (test voices; cosine similarity, valence and arousal on 1-7)"]
    for sentence, hits in search.items():
        lines.append(f"  {sentence}")
        lines += [
            f"    cosine {hit['similarity']:.3f}  valence {hit['valence']:.1f}  arousal {hit['arousal']:.1f}  "
            f"{hit['audio']}"
            for hit in hits
        ]
    return "\n".join(lines)


def _places(out: Path) -> str:
    return "\n".join(
        [
            "Rendered speech shows that the plumbing works; it is not evidence about human emotion.",
            f"corpus  {out / 'corpus'}",
            f"stores  {out / 'stores'}",
            f"heads   {out / 'run' / 'heads.safetensors'}",
            f"tables  {out / 'run' / 'evaluation.json'}, with how each measure is taken ([1], [2] ...)",
            f"figure  {out / 'embeddings.png'}",
        ]
    )


def draw_plane(run: Run, path: Path) -> None:
    """Write a PNG: the first two principal components of the test split, coloured by valence and by arousal."""
    required_library("matplotlib", "demo", "run-demo")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = cached_pairs(run.stores(), "test", style=run.config.style)
    heads = run.heads()
    with torch.no_grad():
        speech = heads.embed_speech(pairs.speech)
        text = heads.embed_text(pairs.text[first_captions(pairs)])
    speech, text = project_to_plane(speech, text)
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


def project_to_plane(speech: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) and (n, d) -> (n, 2) and (n, 2): one principal-component plane for both."""
    both = torch.cat([speech, text])
    mean = both.mean(0)
    axes = torch.linalg.svd(both - mean, full_matrices=False).Vh[:2].T
    return (speech - mean) @ axes, (text - mean) @ axes
