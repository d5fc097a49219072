"""train-heads: projection heads from STORES, in seconds."""

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
from pipeline.commands.completion import FOLDER, of_training, presets, settings
from pipeline.commands.usage_errors import Command


@click.command("train-heads", cls=Command)
@click.argument("stores", type=FOLDER)
@click.argument("config", default="emotionrankclap", shell_complete=presets("methods"))
@click.option("--out", type=FOLDER, help="The RUN folder.  [default: runs/STORES-CONFIG]")
@click.option(
    "--training",
    help="A preset of configs/training: paper, small_corpus, fast.",
    shell_complete=presets("training", or_file=False),
)
@click.option("--seeds", type=click.IntRange(min=1), help="Train this many seeds, 0 upwards.")
@overrides_option(settings(of_training))
@device_option
@fresh_option
@click.option("--tensorboard", is_flag=True, help="Write curves for TensorBoard while it trains (extra tensorboard).")
@plugin_option
@json_option
@guarded
def main(
    stores: Path,
    config: str,
    out: Path | None,
    training: str | None,
    seeds: int | None,
    overrides: tuple[str, ...],
    device: str,
    fresh: bool,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train projection heads from cached tensors.

    \b
    train-heads stores/msp --seeds 5 --out runs/erc
    train-heads stores/msp -o learning_rate=3e-4 -o objective.symmetric=true --out runs/symmetric
    train-heads stores/mine supcon --training small_corpus
    train-heads stores/mine --plugin my_loss.py -o objective.name=my_triplet

    CONFIG is a method's preset (emotionrankclap, clap_template, clap4emo, clap_sce, supcon, paraclap, emo_clap,
    ml_gemo_clap, sl_gemo_clap, smoothclap) or a YAML file. Doing it again goes on where it stopped.
    """
    from pipeline.training.train import train

    folder = out or Path("runs") / f"{stores.name}-{Path(config).stem}"
    run = train(
        stores,
        method=config,
        out=folder,
        training=training,
        seeds=seeds,
        overrides=overrides,
        device=device,
        fresh=fresh,
        tensorboard=tensorboard,
    )
    about = run.about
    lines = [f"seed {seed}: epoch {r['epoch']}, dev loss {r['dev_loss']:.4f}" for seed, r in about["seeds"].items()]
    show({"run": str(folder)} | about, "\n".join([*lines, f"heads: {folder / 'heads.safetensors'}"]), as_json)
