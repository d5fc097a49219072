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
@common.conventions_option
@click.option(
    "--challenge",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Before evaluating, write predictions for MSP-Podcast Test3 to FOLDER, in the format of the Interspeech 2025 "
    "challenge.",
)
def main(
    stores: Path, run: Path, overrides: tuple[str, ...], device: str, no_report: bool, conventions: bool,
    challenge: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Ordinality (AOC, VOC) and alignment (MMD, Wasserstein) on the test split, as in the paper's two tables.

    \b
    evaluate-heads stores/msp runs/erc
    evaluate-heads stores/msp runs/erc -o mmd_gamma=median -o trials=5 --json
    evaluate-heads stores/msp runs/erc --challenge submission

    The tables say what each measure is; more on them: docs/reports.md.
    Writes RUN/evaluation.json, and the page RUN/report.html with its figures in RUN/report.
    """
    if challenge is not None:
        from pipeline.evaluation.challenge import write_challenge

        write_challenge(run, challenge, stores=stores, device=device)
    evaluate_and_print(
        stores, run, overrides=overrides, device=device, report=not no_report, conventions=conventions, as_json=as_json
    )


def evaluate_and_print(
    stores: Path, run: Path, *, overrides: Sequence[str] = (), device: str, report: bool = True,
    conventions: bool = False, as_json: bool,
) -> None:  # fmt: skip
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
    tables = evaluation_table({result["method"]: result, **references}, conventions=conventions)
    common.print_tables(result, tables, conventions=conventions, as_json=as_json)
