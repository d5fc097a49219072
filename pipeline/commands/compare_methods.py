"""compare-methods: every method of the literature from one set of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from cache.errors import UsageError
from pipeline.commands.common import (
    device_option,
    fresh_option,
    guarded,
    json_option,
    overrides_option,
    plugin_option,
    show,
)
from pipeline.commands.completion import FOLDER, of_evaluation, of_training, presets, settings, values
from pipeline.commands.usage_errors import Command


@click.command("compare-methods", cls=Command)
@click.argument("stores", type=FOLDER)
@click.argument("methods", nargs=-1, shell_complete=presets("methods"))
@click.option("--out", type=FOLDER, help="Where the runs go.  [default: runs/STORES-comparison, or -folds-FOLDS]")
@click.option(
    "--training",
    help="A preset of configs/training: paper, small_corpus, fast.",
    shell_complete=presets("training", or_file=False),
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@overrides_option(settings(of_training))
@click.option(
    "-e",
    "evaluation",
    multiple=True,
    metavar="A=VALUE",
    help="Change one setting of the evaluation. Repeatable.",
    shell_complete=settings(of_evaluation),
)
@click.option(
    "--zero-shot",
    "others",
    multiple=True,
    type=FOLDER,
    help="Stores of another corpus. Repeatable.",
)
@click.option(
    "--folds",
    metavar="session|N",
    shell_complete=values("session"),
    help="Recognition in folds instead: one session of IEMOCAP left out at a time, or N folds of whole speakers.",
)
@device_option
@fresh_option
@click.option("--tensorboard", is_flag=True, help="Write curves for TensorBoard while it trains (extra tensorboard).")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@plugin_option
@json_option
@guarded
def main(
    stores: Path, methods: tuple[str, ...], out: Path | None, training: str | None, seeds: int,
    overrides: tuple[str, ...], evaluation: tuple[str, ...], others: tuple[Path, ...], folds: str | None, device: str,
    fresh: bool, tensorboard: bool, no_report: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train and evaluate METHODS (all that the stores can serve), and print both tables of the paper.

    \b
    compare-methods stores/msp --out runs/comparison
    compare-methods stores/msp emotionrankclap clap_sce supcon --seeds 10
    compare-methods stores/ravdess --training small_corpus --zero-shot stores/emodb
    compare-methods stores/iemocap sl_gemo_clap emo_clap --folds session

    Doing it again goes on where it stopped. Writes comparison.md, .tex, .csv and .json; with --folds,
    cross_validation.md and .json; and the page report.html with its figures in report.
    """
    scheme = _scheme(folds, evaluation, others)
    shared: dict[str, Any] = {
        "out": out or Path("runs") / f"{stores.name}-{f'folds-{scheme}' if scheme else 'comparison'}",
        "methods": methods,
        "seeds": seeds,
        "training": training,
        "overrides": overrides,
        "device": device,
        "fresh": fresh,
        "tensorboard": tensorboard,
    }
    if scheme:
        from pipeline.experiments.cross_validation import cross_validate

        result, text = cross_validate(stores, folds=scheme, **shared)
        if not no_report:
            from pipeline.evaluation.report.comparison_report import folds_report

            folds_report(shared["out"], result, stores)
    else:
        from pipeline.experiments.compare import compare

        result, text = compare(stores, evaluation=evaluation, zero_shot_on=others, **shared)
        if not no_report:
            from pipeline.evaluation.report.comparison_report import comparison_report

            comparison_report(shared["out"], result, stores)
    show(result, text, as_json)


def _scheme(
    folds: str | None, evaluation: tuple[str, ...], others: tuple[Path, ...]
) -> int | Literal["session"] | None:
    """`--folds` understood. Raises UsageError for what is no scheme, or does not go with it."""
    if folds is None:
        return None
    with_it = ["-e"] * bool(evaluation) + ["--zero-shot"] * bool(others)
    if with_it:
        raise UsageError("--folds", f"given with {' and '.join(with_it)}", "neither", "Run them as two commands.")
    if folds == "session":
        return "session"
    if not (folds.isascii() and folds.isdigit() and len(folds) < 10 and int(folds)):
        raise UsageError(f"--folds {folds}", "no such folds", "session, or a number of folds", "Write --folds 5.")
    return int(folds)
