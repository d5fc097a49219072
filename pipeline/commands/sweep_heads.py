"""sweep-heads: many configurations side by side, the worst stopped early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands import common
from pipeline.commands.completion import FOLDER, presets


@common.command("sweep-heads", presets_of="sweeps")
@click.argument("stores", type=FOLDER)
@click.argument("sweep", required=False, shell_complete=presets("sweeps"))
@click.option("--out", type=FOLDER, help="The sweep's folder.  [default: sweeps/STORES-SWEEP]")
@click.option(
    "--trials", type=click.IntRange(min=1), help="Total number of trials. Raise it to continue a finished sweep."
)
@click.option("--storage", metavar="URL", help="Optuna storage URL (database).  [default: a journal file in --out]")
@common.overrides_option("pipeline.experiments.sweeps.config:SweepConfig")
@common.device_option
@common.fresh_option
@common.plugin_option
@common.no_report_option
def main(stores: Path, sweep: str | None, out: Path | None, no_report: bool, as_json: bool, **options: Any) -> None:
    """Find the best settings of the heads on the development split.

    \b
    sweep-heads stores/msp --out sweeps/first
    sweep-heads stores/msp methods --trials 81 --out sweeps/methods
    sweep-heads stores/msp mine.yaml -o repeats=3 -o fixed.epochs=5 --out sweeps/mine
    train-heads stores/msp sweeps/first/best.yaml --out runs/best

    SWEEP is a preset ({presets}) or a YAML file (docs/sweeps.md). Running it again resumes. To add workers, run the
    same command in other terminals, or on other machines with the same disk. Writes trials.csv, sweep.json, best.yaml,
    and the page report.html with its figures in report. Needs pip install 'emotionrankclap[sweep]'.
    """
    from pipeline.experiments.sweeps.sweep import sweep as run_sweep

    folder = out or Path("sweeps") / f"{stores.name}-{Path(sweep or 'default').stem}"
    result, text = run_sweep(stores, sweep, out=folder, report=not no_report, **options)
    common.print_result(result, text, as_json)
