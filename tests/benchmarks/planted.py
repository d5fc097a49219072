"""Every method on a planted store of MSP-Podcast's size, and what decides between the losses (docs/planted.md).

    python -m tests.benchmarks.planted --stores FOLDER --out FOLDER [--seeds 3] [METHODS]
    python -m tests.benchmarks.planted --learnable --training small_corpus --stores FOLDER --out FOLDER [METHODS]

The second is a small store whose text must be learnt: vectors made of the sentences' words, labels of eight
categories and so few captions. `--word-norms FILE` adds prompts of rated words. Writes the tables of `compare-methods`
under OUT and goes on where it stopped. The paper's training takes one to two minutes a seed and method on one core,
ten trials of the exact Wasserstein distance half a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cache.stores import open_stores
from pipeline.experiments.compare import compare
from tests.planted import EVERY_STYLE, MSP_PODCAST, RELIABILITY, plant

SMALL = {"train": 1_200, "dev": 400, "test": 400}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--learnable", action="store_true")
    parser.add_argument("--training")
    parser.add_argument("--word-norms", type=Path)
    parser.add_argument("methods", nargs="*")
    arguments = parser.parse_args()
    if not (arguments.stores / "acoustic.h5").is_file():
        kept = {"styles": EVERY_STYLE, "grid": True, "word_norms": arguments.word_norms, "reliability": RELIABILITY}
        if arguments.learnable:
            plant(arguments.stores, SMALL, audio_width=384, text_width=384, text="words", nominal=True, **kept)
        else:
            plant(arguments.stores, MSP_PODCAST, **kept)
    _, text = compare(
        open_stores(arguments.stores),
        out=arguments.out,
        methods=arguments.methods,
        seeds=arguments.seeds,
        training=arguments.training,
        overrides=["threads=1"],
        evaluation=[f"trials={arguments.trials}"],
    )
    print(text)


if __name__ == "__main__":
    main()
