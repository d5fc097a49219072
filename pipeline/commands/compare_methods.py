"""compare-methods: every method of the literature from one set of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from cache.errors import UsageError
from pipeline.commands import common
from pipeline.commands.completion import FOLDER, presets, values


@common.command("compare-methods", presets_of="methods")
@click.argument("stores", type=FOLDER, metavar="STORES...")
@click.argument("methods", nargs=-1, metavar="[METHODS]...", shell_complete=presets("methods"))
@click.option("--out", type=FOLDER, help="Where the runs go.  [default: runs/STORES-comparison, or -folds-FOLDS]")
@common.training_option
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Seeds per method, 0 to N-1."
)
@common.everyday_training_options
@common.overrides_option("pipeline.core.config:TrainConfig")
@common.overrides_option(
    "pipeline.core.config:EvaluateConfig", "-e", "evaluation", metavar="A=VALUE", of=" of the evaluation"
)
@click.option(
    "--encoders", multiple=True, type=FOLDER, help="Stores of the same utterances by another encoder. Repeatable."
)
@click.option("--zero-shot", "others", multiple=True, type=FOLDER, help="Stores of another corpus. Repeatable.")
@click.option(
    "--folds",
    metavar="session|speaker|N",
    shell_complete=values("session", "speaker"),
    help="Test every utterance once, in folds: one session of IEMOCAP or one speaker left out at a time, or N folds of "
    "whole speakers.",
)
@common.device_option
@common.fresh_option
@common.tensorboard_option
@common.no_report_option
@common.conventions_option
@common.plugin_option
def main(
    stores: Path, methods: tuple[str, ...], out: Path | None, evaluation: tuple[str, ...], encoders: tuple[Path, ...],
    others: tuple[Path, ...], folds: str | None, no_report: bool, conventions: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train and evaluate METHODS, and print both tables of the paper.

    \b
    compare-methods stores/msp --out runs/comparison
    compare-methods stores/msp emotionrankclap clap_sce supcon --seeds 10
    compare-methods stores/ravdess --training small_corpus --zero-shot stores/emodb
    compare-methods stores/ravdess emotionrankclap supcon --folds speaker
    compare-methods stores/iemocap sl_gemo_clap emo_clap --folds session
    compare-methods stores/whisper emotionrankclap supcon --encoders stores/wavlm

    METHODS are presets ({presets}) or YAML files; by default all presets whose captions and features are in the stores.
    Several STORES of the same encoders are one corpus. Running it again resumes. Writes comparison.md, .tex, .csv and
    .json; with --folds, cross_validation.md and .json; and the page report.html with its figures in report.
    """
    scheme = _fold_scheme(folds)
    from cache.stores import stores_named

    named, asked = common.more_stores(stores, methods)
    folder = out or Path("runs") / f"{common.joint_name(named)}-{f'folds-{scheme}' if scheme else 'comparison'}"
    options |= {"methods": asked, "out": folder, "evaluation": evaluation, "zero_shot_on": others}
    options["conventions"] = conventions
    opened = stores_named(named)
    if scheme:
        if encoders:
            action = "Run compare-methods --folds on each encoder's stores."
            raise UsageError("--folds", "given with --encoders", "one of the two", action)
        from pipeline.experiments.cross_validation import cross_validate

        result, text = cross_validate(opened, folds=scheme, **options)
    else:
        from pipeline.experiments.compare import compare

        result, text = compare(opened, encoders=encoders, **options)
    if not no_report:
        from pipeline.evaluation.report.comparison_report import comparison_report, folds_report

        (folds_report if scheme else comparison_report)(folder, result, opened)
    common.print_tables(result, text, conventions=conventions, as_json=as_json)


def _fold_scheme(folds: str | None) -> int | Literal["session", "speaker"] | None:
    """`--folds` as a number, "session" or "speaker". Raises UsageError."""
    match folds:
        case None | "session" | "speaker":
            return folds
    if not (folds.isascii() and folds.isdigit() and len(folds) < 10 and int(folds)):
        expected = "session, speaker, or a number of folds"
        raise UsageError(f"--folds {folds}", "no such folds", expected, "Write --folds 5.")
    return int(folds)
