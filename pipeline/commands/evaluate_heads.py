"""evaluate-heads: both tests of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.commands import common
from pipeline.commands.completion import FOLDER


@common.command("evaluate-heads")
@click.argument("stores", type=FOLDER)
@click.argument("run", type=FOLDER)
@common.overrides_option("pipeline.core.config:EvaluateConfig")
@common.device_option
@common.no_report_option
def main(stores: Path, run: Path, overrides: tuple[str, ...], device: str, no_report: bool, as_json: bool) -> None:
    """Ordinality (AOC, VOC) and alignment (MMD, Wasserstein) on the test split, as in the paper's two tables.

    \b
    evaluate-heads stores/msp runs/erc
    evaluate-heads stores/msp runs/erc -o mmd_gamma=median -o trials=5 --json

    MMD is the maximum mean discrepancy; AOC and VOC are Kendall's tau of arousal and of valence (docs/reports.md).
    Writes RUN/evaluation.json, and the page RUN/report.html with its figures in RUN/report.
    """
    evaluate_and_print(stores, run, overrides=overrides, device=device, report=not no_report, as_json=as_json)


def evaluate_and_print(
    stores: Path, run: Path, *, overrides: Sequence[str] = (), device: str, report: bool = True, as_json: bool
) -> None:
    """What the command does; `train-heads --then evaluate` as well."""
    from cache.stores import open_stores
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.references import references_beside
    from pipeline.evaluation.tables import evaluation_table

    opened = open_stores(stores)  # once for all three
    result = evaluate(run, stores=opened, overrides=overrides, device=device)
    references = references_beside(result, opened, device=device)
    if report:
        from pipeline.evaluation.report.evaluation_report import evaluation_report

        evaluation_report(run, result, stores=opened, references=references, device=device)
    common.print_result(result, evaluation_table({result["method"]: result, **references}), as_json)
