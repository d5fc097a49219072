"""train-heads: projection heads from STORES, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cache.errors import UsageError
from pipeline.commands import common
from pipeline.commands.completion import FOLDER, presets


@common.command("train-heads")
@click.argument("stores", type=FOLDER, metavar="STORES...")
@click.argument("config", nargs=-1, metavar="[CONFIG]", shell_complete=presets("methods"))
@click.option("--out", type=FOLDER, help="The RUN folder.  [default: runs/STORES-CONFIG]")
@common.training_option
@click.option("--seeds", type=click.IntRange(min=1), help="Train this many seeds, 0 upwards.")
@common.everyday_option("--seed", "seeds=[{}]", type=click.IntRange(min=0), help="Train this one seed.  [default: 0]")
@common.everyday_training_options
@common.overrides_option("pipeline.core.config:TrainConfig")
@common.device_option
@common.fresh_option
@common.tensorboard_option
@common.wandb_option
@common.trackio_option
@common.plugin_option
@click.option("--then", type=click.Choice(["evaluate"]), help="Then do what evaluate-heads does, without a new start.")
def main(
    stores: Path, config: tuple[str, ...], out: Path | None, then: str | None, as_json: bool, **options: Any
) -> None:
    """Train projection heads from cached tensors.

    \b
    train-heads stores/msp --seeds 5 --out runs/erc
    train-heads stores/msp --learning-rate 3e-4 -o objective.symmetric=true --out runs/symmetric
    train-heads stores/mine supcon --training small_corpus
    train-heads stores/mine --plugin my_loss.py -o objective.name=my_triplet --out runs/triplet
    train-heads stores/ravdess stores/emodb -o balance=corpus
    train-heads stores/mine --training small_corpus --then evaluate

    Several STORES of the same encoders are trained on together; with a comma between them, of the same utterances by
    several encoders, their vectors lie side by side. CONFIG is a method's preset (emotionrankclap,
    clap_template, clap4emo, clap_sce, supcon, paraclap, emo_clap, ml_gemo_clap, sl_gemo_clap, smoothclap) or a YAML
    file. Running it again resumes. With `--then evaluate`, --json prints the evaluation.
    """
    from pipeline.training.train import train

    named, rest = common.more_stores(stores, config)
    if len(rest) > 1:
        raise UsageError(" ".join(rest), f"{len(rest)} methods", "one", "Name one, or take compare-methods.")
    if then and len(named) > 1:
        raise UsageError(f"--then {then}", f"{len(named)} STORES", "one", "Take evaluate-heads for each, afterwards.")
    others = [each for each in options["overrides"] if each.startswith("seeds=")]
    if options["seeds"] and others:
        found, action = f"{others[0]} beside it", "--seed N trains the one seed N, --seeds N those from 0 to N-1."
        raise UsageError(f"--seeds {options['seeds']}", found, "one of the two", action)
    method = rest[0] if rest else "emotionrankclap"
    folder = out or Path("runs") / f"{common.joint_name(named)}-{Path(method).stem}"
    run = train(named, method=method, out=folder, **options)
    lines = [
        f"seed {seed}: epoch {result['epoch']}, dev loss {result['dev_loss']:.4f}"
        for seed, result in run.about["seeds"].items()
    ]
    text = "\n".join([*lines, f"heads: {folder / 'heads.safetensors'}"])
    if not (then and as_json):  # one object
        common.print_result({"run": str(folder)} | run.about, text, as_json)
    if then:
        from pipeline.commands.evaluate_heads import evaluate_and_print

        evaluate_and_print(stores, folder, device=options["device"], as_json=as_json)
