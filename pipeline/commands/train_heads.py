"""train-heads: projection heads from STORES, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cache.errors import UsageError
from pipeline.commands import common
from pipeline.commands.completion import FOLDER, presets


@common.command("train-heads", presets_of="methods")
@click.argument("stores", type=FOLDER, metavar="STORES...")
@click.argument("config", nargs=-1, metavar="[CONFIG]", shell_complete=presets("methods"))
@click.option("--out", type=FOLDER, help="The RUN folder.  [default: runs/STORES-CONFIG]")
@common.training_option
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Train seeds 0 to N-1.")
@common.everyday_option("--seed", "seeds=[{}]", type=click.IntRange(min=0), help="Train this one seed.  [default: 0]")
@common.everyday_training_options
@common.overrides_option("pipeline.core.config:TrainConfig")
@common.device_option
@common.fresh_option
@common.tensorboard_option
@common.wandb_option
@common.trackio_option
@common.plugin_option
@click.option(
    "--then", type=click.Choice(["evaluate"]), help="Evaluate the run in the same process, as evaluate-heads does."
)
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

    Give several STORES of the same encoders to train on all of them. Write A,B (with a comma) for two encoders' stores
    of the same utterances: their vectors are concatenated. CONFIG is a method's preset ({presets}) or a YAML file.
    Running it again resumes. With `--then evaluate`, --json prints the evaluation.
    """
    from pipeline.training.train import train

    named, rest = common.more_stores(stores, config)
    if len(rest) > 1:
        raise UsageError(" ".join(rest), f"{len(rest)} methods", "one", "Give one, or use compare-methods.")
    if then and len(named) > 1:
        raise UsageError(f"--then {then}", f"{len(named)} STORES", "one", "Run evaluate-heads on each afterwards.")
    others = [each for each in options["overrides"] if each.startswith("seeds=")]
    if options["seeds"] and others:
        given = click.get_current_context().get_parameter_source("seed") is ParameterSource.COMMANDLINE
        found = f"conflicts with {'--seed' if given else f'-o {others[0]}'}"
        action = "Remove one: --seed N trains seed N, --seeds N trains seeds 0 to N-1."
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
