"""compare-methods: every method of the literature from one set of stores."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import device_option, fresh_option, guarded, json_option, overrides_option, show


@click.command()
@click.argument("stores", type=click.Path(path_type=Path))
@click.argument("methods", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="Where the runs go.  [default: runs/STORES-comparison]")
@click.option("--training", help="A preset of configs/training: paper, small_corpus.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@overrides_option
@click.option("-e", "evaluation", multiple=True, metavar="A=VALUE", help="Change one setting of the evaluation.")
@click.option(
    "--zero-shot",
    "others",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Stores of another corpus; repeatable.",
)
@device_option
@fresh_option
@json_option
@guarded
def main(
    stores: Path, methods: tuple[str, ...], out: Path | None, training: str | None, seeds: int,
    overrides: tuple[str, ...], evaluation: tuple[str, ...], others: tuple[Path, ...], device: str, fresh: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Train and evaluate METHODS (all that the stores can serve), and print both tables of the paper.

    \b
    compare-methods stores/msp --out runs/comparison
    compare-methods stores/msp emotionrankclap clap_sce supcon --seeds 10
    compare-methods stores/ravdess --training small_corpus --zero-shot stores/emodb

    Doing it again goes on where it stopped. Writes comparison.md, .tex, .csv and .json.
    """
    from pipeline.method_comparison import compare

    result, text = compare(
        stores,
        out=out or Path("runs") / f"{stores.name}-comparison",
        methods=methods,
        seeds=seeds,
        training=training,
        overrides=overrides,
        evaluation=evaluation,
        zero_shot_on=others,
        device=device,
        fresh=fresh,
    )
    show(result, text, as_json)
