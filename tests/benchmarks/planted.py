"""Every method on a planted store of MSP-Podcast's size, and what decides between the losses (docs/planted.md).

    python -m tests.benchmarks.planted --stores FOLDER --out FOLDER [--seeds 3]

Writes the tables of `compare-methods` under OUT and goes on where it stopped. The paper's training takes one to two
minutes a seed and method on one core, ten trials of the exact Wasserstein distance half a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cache.stores import open_stores
from pipeline.experiments.compare import compare
from tests.planted import EVERY_STYLE, MSP_PODCAST, RELIABILITY, plant


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("methods", nargs="*")
    arguments = parser.parse_args()
    if not (arguments.stores / "acoustic.h5").is_file():
        plant(arguments.stores, MSP_PODCAST, reliability=RELIABILITY, styles=EVERY_STYLE)
    _, text = compare(
        open_stores(arguments.stores),
        out=arguments.out,
        methods=arguments.methods,
        seeds=arguments.seeds,
        overrides=["threads=1"],
        evaluation=[f"trials={arguments.trials}"],
    )
    print(text)


if __name__ == "__main__":
    main()
