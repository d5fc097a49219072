"""A RUN folder: what `train-heads` leaves and everything after it reads.

config.yaml              the resolved config
run.json                 the stores it was trained from, their fingerprints, each seed's best epoch
metrics.jsonl            a line an epoch and seed
heads.safetensors        the heads of the seed with the lowest development loss
seeds/S/heads.safetensors
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.fingerprint import differences
from cache.stores import Stores, open_stores
from pipeline.config import TrainConfig, dump, read_yaml, validate
from pipeline.errors import StoreCorrupt, StoreMismatch, UsageError
from pipeline.heads import Heads, load_heads


@dataclass(frozen=True)
class Run:
    """Trained heads in a folder."""

    folder: Path

    @property
    def config(self) -> TrainConfig:
        return validate(TrainConfig, read_yaml(self.folder / "config.yaml"), subject=str(self.folder / "config.yaml"))

    @property
    def about(self) -> dict[str, Any]:
        """What run.json says. Raises StoreCorrupt when it cannot be read."""
        path = self.folder / "run.json"
        try:
            about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(about, dict) or not {"stores", "fingerprint", "data", "seeds"} <= about.keys():
                raise ValueError("keys are missing")
        except (OSError, ValueError) as error:
            raise StoreCorrupt(path, f"cannot be read ({error})", "what train-heads wrote", "Train again.") from None
        return about

    @property
    def seeds(self) -> list[int]:
        """The seeds whose training has ended."""
        return [int(seed) for seed in self.about["seeds"]]

    def heads(self, seed: int | None = None) -> Heads:
        """The heads of `seed`, or of the seed with the lowest development loss."""
        folder = self.folder if seed is None else self.seed_folder(seed)
        return load_heads(folder / "heads.safetensors")[0]

    def seed_folder(self, seed: int) -> Path:
        return self.folder / "seeds" / str(seed)

    def stores(self, stores: Stores | str | Path | None = None) -> Stores:
        """`stores`, or those it was trained from. Raises StoreMismatch when the encoders differ."""
        stores = stores if isinstance(stores, Stores) else open_stores(stores or self.about["stores"])
        fields = differences(self.about["fingerprint"], stores.fingerprint())
        if fields:
            raise StoreMismatch(
                stores.folder, "; ".join(fields), "the encoders the heads were trained on", "Name matching stores."
            )
        return stores

    def finish(self, seed: int, result: dict[str, Any]) -> None:
        """Record a seed's result, join the metrics, and put the best seed's heads in front."""
        about = self.about
        about["seeds"][str(seed)] = result
        seeds = sorted(about["seeds"], key=int)
        about["seeds"] = {name: about["seeds"][name] for name in seeds}
        about["best_seed"] = int(min(seeds, key=lambda name: float(about["seeds"][name]["dev_loss"])))
        lines = [(self.seed_folder(int(name)) / "metrics.jsonl").read_text(encoding="utf-8") for name in seeds]
        write_text(self.folder / "metrics.jsonl", "".join(lines))
        best = self.seed_folder(about["best_seed"]) / "heads.safetensors"
        partial = self.folder / "heads.safetensors.partial"
        shutil.copyfile(best, partial)
        os.replace(partial, self.folder / "heads.safetensors")
        write_text(self.folder / "run.json", json.dumps(about, indent=2) + "\n")


def open_run(folder: str | Path) -> Run:
    """A finished RUN folder. Raises UsageError when there is none."""
    run = Run(Path(folder))
    if not (run.folder / "run.json").is_file() or not run.seeds:
        raise UsageError(run.folder, "no trained heads", "a RUN folder", "Run train-heads first, with --out naming it.")
    return run


def begin_run(folder: Path, config: TrainConfig, origin: dict[str, Any], *, fresh: bool) -> Run:
    """Take up `folder` for `config` (seeds aside) and the data of `origin`, or make it new.

    Raises StoreMismatch, field by field, when it holds a run of another config or other data.
    """
    run = Run(folder)
    if fresh and (folder / "run.json").is_file():
        for name in ("run.json", "config.yaml", "metrics.jsonl", "heads.safetensors", "evaluation.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "seeds", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "run.json").is_file():
        fields = list(_changed(run, config, origin))
        if fields:
            raise StoreMismatch(folder, "; ".join(fields), "the same run", "Choose another --out, or --fresh.")
    else:
        write_text(folder / "run.json", json.dumps(origin | {"seeds": {}}, indent=2) + "\n")
    write_text(folder / "config.yaml", dump(config))
    return run


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _changed(run: Run, config: TrainConfig, origin: dict[str, Any]) -> Iterator[str]:
    then, now = (c.model_dump(mode="json", exclude={"seeds"}) for c in (run.config, config))
    yield from (line.replace("the store has", "the run has") for line in differences(then, now))
    about = run.about
    yield from differences(about["fingerprint"], origin["fingerprint"])
    if about["data"] != origin["data"]:
        yield "the training data changed"
