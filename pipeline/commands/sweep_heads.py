"""sweep-heads: many configurations side by side, the worst stopped early."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import (
    device_option,
    fresh_option,
    guarded,
    json_option,
    overrides_option,
    plugin_option,
    show,
)
from pipeline.commands.completion import FOLDER, of_sweep, presets, settings
from pipeline.commands.usage_errors import Command


@click.command("sweep-heads", cls=Command)
@click.argument("stores", type=FOLDER)
@click.argument("sweep", required=False, shell_complete=presets("sweeps"))
@click.option("--out", type=FOLDER, help="The sweep's folder.  [default: sweeps/STORES-SWEEP]")
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all; more than before goes on from there.")
@click.option("--storage", metavar="URL", help="A database that Optuna knows, instead of a journal in --out.")
@overrides_option(settings(of_sweep))
@device_option
@fresh_option
@plugin_option
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@json_option
@guarded
def main(
    stores: Path, sweep: str | None, out: Path | None, trials: int | None, storage: str | None,
    overrides: tuple[str, ...], device: str, fresh: bool, no_report: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the best settings of the heads on the development split.

    \b
    sweep-heads stores/msp --out sweeps/first
    sweep-heads stores/msp methods --trials 81 --out sweeps/methods
    sweep-heads stores/msp mine.yaml -o repeats=3 -o fixed.epochs=5 --out sweeps/mine
    train-heads stores/msp sweeps/first/best.yaml --out runs/best

    SWEEP is a preset (default, methods, grid) or a YAML file (docs/sweeps.md). Doing it again goes on where it
    stopped; the same command elsewhere on a shared disk helps. Writes trials.csv, sweep.json, best.yaml, and the page
    report.html with its figures in report. Needs pip install 'emotionrankclap[sweep]'.
    """
    from pipeline.experiments.sweeps.sweep import sweep as run_sweep

    folder = out or Path("sweeps") / f"{stores.name}-{Path(sweep or 'default').stem}"
    result, text = run_sweep(
        stores, sweep, out=folder, overrides=overrides, trials=trials, storage=storage, device=device, fresh=fresh,
        report=not no_report,
    )  # fmt: skip
    show(result, text, as_json)
