"""evaluate-heads: both tests of the paper."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import device_option, guarded, json_option, overrides_option, show
from pipeline.commands.completion import FOLDER, of_evaluation, settings
from pipeline.commands.usage_errors import Command


@click.command("evaluate-heads", cls=Command)
@click.argument("stores", type=FOLDER)
@click.argument("run", type=FOLDER)
@overrides_option(settings(of_evaluation))
@device_option
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@json_option
@guarded
def main(stores: Path, run: Path, overrides: tuple[str, ...], device: str, no_report: bool, as_json: bool) -> None:
    """Alignment (MMD, Wasserstein) and ordinality (AOC, VOC) on the test split, as in the paper's two tables.

    \b
    evaluate-heads stores/msp runs/erc
    evaluate-heads stores/msp runs/erc -o mmd_gamma=median -o trials=5 --json

    Writes RUN/evaluation.json, and the page RUN/report.html with its figures in RUN/report.
    """
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.tables import evaluation_table

    result = evaluate(run, stores=stores, overrides=overrides, device=device)
    if not no_report:
        from pipeline.evaluation.report.evaluation_report import evaluation_report

        evaluation_report(run, result, stores=stores, device=device)
    show(result, evaluation_table({result["method"]: result}), as_json)
