"""A RUN folder: what `train-heads` writes and all later commands read.

config.yaml              the resolved config
run.json                 the stores it was trained from, their fingerprints, each seed's best epoch
metrics.jsonl            a line an epoch and seed
heads.safetensors        the heads of the seed with the lowest development loss
seeds/S/heads.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, StringConstraints, ValidationError

from cache.disk import make_folder, remove, remove_tree, write_atomic, write_text
from cache.fingerprint import describe_differences, differences
from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import dump, validate_file
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError
from pipeline.core.files import deeper_than
from pipeline.training.heads import Heads, load_heads, one_line_reason

TRAIN_AGAIN = "Train again; with --fresh where that does not help."
_MAX_DEPTH = 32  # of run.json; a fingerprint has 3
# a seed names a folder, so it is a number as Python writes it and nothing else
_SeedName = Annotated[str, StringConstraints(pattern=r"^(0|-?[1-9][0-9]{0,18})$")]


class _SeedResult(BaseModel, strict=True):
    """A seed whose training has ended."""

    epoch: int = Field(ge=1, lt=2**31)
    dev_loss: FiniteFloat
    threads: int = Field(ge=0, lt=2**31)


class _RunJson(BaseModel, strict=True):
    stores: str
    fingerprint: dict[str, Any]
    data: str
    memory: Literal["resident", "disk"]
    seeds: dict[_SeedName, _SeedResult]
    best_seed: int | None = None


@dataclass(frozen=True)
class Run:
    """Trained heads in a folder."""

    folder: Path

    @property
    def config(self) -> TrainConfig:
        return validate_file(TrainConfig, self.folder / "config.yaml")

    @property
    def about(self) -> dict[str, Any]:
        """The contents of run.json. Raises StoreCorrupt where it cannot be read or is invalid."""
        path = self.folder / "run.json"
        try:
            about: dict[str, Any] = json.loads(text_of(path))
            if deeper_than(_MAX_DEPTH, about):
                raise ValueError("nested too deeply")
            checked = _RunJson.model_validate(about)
            if checked.seeds and str(checked.best_seed) not in checked.seeds:
                raise ValueError(f"best_seed {checked.best_seed} is not one of its seeds")
        except (OSError, ValueError, RecursionError) as error:
            found = f"cannot be read ({first_wrong(error)})"
            raise StoreCorrupt(path, found, "what train-heads wrote", TRAIN_AGAIN) from None
        return about

    @property
    def seeds(self) -> list[int]:
        """The seeds whose training has ended."""
        return [int(seed) for seed in self.about["seeds"]]

    def heads(self, seed: int | None = None) -> Heads:
        """The heads of `seed`, or of the seed with the lowest development loss.

        Raises StoreCorrupt where they are corrupt, or are not those that run.json names.
        """
        about = self.about
        path = (self.folder if seed is None else self.seed_folder(seed)) / "heads.safetensors"
        heads, origin = load_heads(path)
        seed = about["best_seed"] if seed is None else seed
        expected = about["seeds"][str(seed)] | {"seed": seed}
        if any(origin.get(name) != expected[name] for name in ("seed", "epoch", "dev_loss")):
            raise StoreCorrupt(path, "other heads than run.json names", f"those of seed {seed}", TRAIN_AGAIN)
        return heads

    def heads_for(self, stores: Stores, seed: int | None = None) -> Heads:
        """`heads(seed)`, for the vectors of `stores`. Raises StoreMismatch where these have other dimensions."""
        heads = self.heads(seed)
        found, expected = heads.input_dims, (stores.audio.dim, stores.text.dim)
        if found != expected:
            folder = self.folder if seed is None else self.seed_folder(seed)
            mismatch = f"heads of vectors {found} wide", f"{expected} as in {stores.folder}"
            raise StoreMismatch(folder, *mismatch, TRAIN_AGAIN)
        return heads

    def metrics(self, seed: int) -> str:
        """metrics.jsonl of a seed that has ended, a line an epoch. Raises StoreCorrupt."""
        path = self.seed_folder(seed) / "metrics.jsonl"
        try:
            text = text_of(path)
            epochs = [json.loads(line)["epoch"] for line in text.splitlines()]
            if epochs != list(range(1, self.config.last_epoch + 1)) or not text.endswith("\n"):
                raise ValueError(f"{len(epochs)} lines of {self.config.last_epoch} epochs")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            found = f"cannot be read ({one_line_reason(error)})"
            raise StoreCorrupt(path, found, "a line an epoch", TRAIN_AGAIN) from None
        return text

    def corruption(self, seed: int) -> str:
        """What is wrong with the files of a seed that has ended; empty where they are whole."""
        try:
            self.heads(seed)
            self.metrics(seed)
        except StoreCorrupt as error:
            return f"{error.subject}: {error.found}"
        return ""

    def seed_folder(self, seed: int) -> Path:
        return self.folder / "seeds" / str(seed)

    def stores(self, stores: Stores | str | Path | None = None) -> Stores:
        """`stores`, or those it was trained from, reading the layers it was trained on.

        Raises StoreMismatch where the encoders differ, UsageError where the rows do not hold those layers.
        """
        stores = stores if isinstance(stores, Stores) else open_stores(stores or self.about["stores"])
        if fields := differences(self.about["fingerprint"], stores.fingerprint()):
            # of encoders of another kind, the fields that only one side has are counted
            shared = [field for field in fields if field.then is not None and field.now is not None] or fields
            found, rest = describe_differences(shared, "the heads have", "the stores"), len(fields) - len(shared)
            found += f"; and {rest} fields that one of them has not" if rest else ""
            expected = "the encoders the heads were trained on"
            raise StoreMismatch(stores.folder, found, expected, "Name matching stores.")
        config = self.config
        return stores.selected(config.speech.choice, config.text.choice)

    def finish(self, seed: int, result: dict[str, Any]) -> None:
        """Record a seed's result, join the metrics, and copy the best seed's heads."""
        self.record(self.about["seeds"] | {str(seed): result})

    def record(self, seeds: dict[str, Any]) -> None:
        """Make `seeds` those of run.json, and the joined metrics and the best heads theirs; what is so stays.

        Without any seed the metrics and heads stay as they are: no command reads them.
        """
        about = self.about | {"seeds": {name: seeds[name] for name in sorted(seeds, key=int)}}
        about.pop("best_seed", None)
        files = {}
        if seeds:
            best = about["best_seed"] = int(min(about["seeds"], key=lambda name: float(seeds[name]["dev_loss"])))
            files["metrics.jsonl"] = "".join(self.metrics(int(name)) for name in about["seeds"]).encode()
            files["heads.safetensors"] = (self.seed_folder(best) / "heads.safetensors").read_bytes()
        files["run.json"] = (json.dumps(about, indent=2) + "\n").encode()  # last: it names the others
        for name, contents in files.items():
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != contents:
                write_atomic(path, [contents])


def open_run(folder: str | Path) -> Run:
    """A finished RUN folder. Raises UsageError when there is none."""
    run = Run(Path(folder))
    if not (run.folder / "run.json").is_file() or not run.seeds:
        raise UsageError(run.folder, "no trained heads", "a RUN folder", "Run train-heads first, with --out naming it.")
    return run


def begin_run(folder: Path, config: TrainConfig, origin: dict[str, Any], *, fresh: bool) -> Run:
    """The run of `config` (seeds aside) on the data of `origin` in `folder`, resumed or new.

    Raises StoreMismatch, field by field, where the folder holds a run of another config or other data.
    """
    run, about_path = Run(folder), folder / "run.json"
    if fresh and about_path.is_file():
        for name in ("seeds", "report"):
            remove_tree(folder / name)
        for name in ("report.html", "evaluation.json", "heads.safetensors", "metrics.jsonl", "config.yaml"):
            remove(folder / name)
        remove(about_path)  # last, so that an interrupted removal still leaves a run
    make_folder(folder)
    resumed = about_path.is_file()
    if resumed and (changes := list(_changes(run, config, origin))):
        raise StoreMismatch(folder, "; ".join(changes), "the same run", "Choose another --out, or --fresh.")
    write_text(folder / "config.yaml", dump(config))
    if not resumed:  # after the config: a folder with a run.json has both
        write_text(about_path, json.dumps(origin | {"seeds": {}}, indent=2) + "\n")
    return run


def text_of(path: Path) -> str:
    """A small file's contents. Raises OSError or UnicodeDecodeError."""
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError("no such file")
    return path.read_text(encoding="utf-8")


def first_wrong(error: Exception) -> str:
    """The first thing that is wrong; pydantic lists all, a few lines each."""
    if not isinstance(error, ValidationError):
        return one_line_reason(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return one_line_reason(ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"))


def _changes(run: Run, config: TrainConfig, origin: dict[str, Any]) -> Iterator[str]:
    then, now = (c.model_dump(mode="json", exclude={"seeds"}) for c in (run.config, config))
    if settings := differences(then, now):
        yield describe_differences(settings, "the run has")
    about = run.about
    if encoders := differences(about["fingerprint"], origin["fingerprint"]):
        yield describe_differences(encoders)
    if about["data"] != origin["data"]:
        yield "the training data changed"
