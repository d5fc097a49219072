"""run-demo: a rendered spoken corpus through both stages, in minutes on two cores (F38).

It shows the plumbing and the order of what was put in; it is no evidence about human emotion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.demo.corpus import render_corpus
from pipeline.demo.figure import draw
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.table import evaluation_table
from pipeline.extraction import extract
from pipeline.progress import Meter, say
from pipeline.retrieval import search
from pipeline.training import train

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

    Doing it again goes on where it stopped. Raises UsageError when the `demo` extra is not installed.
    """
    out = Path(out)
    say("1/5 rendering a spoken corpus")
    with Meter("render", utterances, unit="utterances") as meter:
        manifest = render_corpus(out / "corpus", utterances=utterances, progress=lambda _done, _total: meter.advance(1))
    say("2/5 running the frozen encoders")
    extract(manifest, out=out / "stores", fresh=fresh)
    say("3/5 training the heads")
    run = train(out / "stores", training="small_corpus", seeds=seeds, out=out / "run", fresh=fresh)
    say("4/5 evaluating")
    result = evaluate(run)
    say("5/5 searching and drawing")
    found = search(run, SENTENCES, split="test", top=3)
    draw(run, out / "embeddings.png")
    result["search"] = dict(zip(SENTENCES, found, strict=True))
    return result, "\n\n".join([evaluation_table({result["method"]: result}), _answers(result["search"]), _places(out)])


def _answers(search: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["Search (test voices)"]
    for sentence, hits in search.items():
        lines.append(f"  {sentence}")
        lines += [
            f"    {hit['similarity']:.3f}  valence {hit['valence']:.1f}  arousal {hit['arousal']:.1f}  {hit['audio']}"
            for hit in hits
        ]
    return "\n".join(lines)


def _places(out: Path) -> str:
    return "\n".join(
        [
            "Rendered speech shows that the plumbing works; it is no evidence about human emotion.",
            f"corpus  {out / 'corpus'}",
            f"stores  {out / 'stores'}",
            f"heads   {out / 'run' / 'heads.safetensors'}",
            f"tables  {out / 'run' / 'evaluation.json'}",
            f"figure  {out / 'embeddings.png'}",
        ]
    )
