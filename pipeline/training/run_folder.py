"""A RUN folder: what `train-heads` writes and all later commands read.

config.yaml              the resolved config
digests.json             the digests of these, seeds' files included (cache.digests); evaluation.json has its own
run.json                 the stores it was trained from, their fingerprints, each seed's best epoch
metrics.jsonl            a line an epoch and seed
heads.safetensors        the heads of the seed with the lowest development loss
seeds/S/heads.safetensors
evaluation.json          what evaluate-heads measured of all seeds
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, StringConstraints, ValidationError

from cache.digests import FileDigests
from cache.disk import make_folder, remove, remove_tree, write_atomic, write_text
from cache.fingerprint import describe_differences, describe_encoders, differences
from cache.stores import Stores, stores_named
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import dump, validate_file
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError, required_library
from pipeline.core.files import check_digest, deeper_than, json_with_digest
from pipeline.training.heads import Heads, load_heads, one_line_reason

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)

_CONFIG, _ABOUT, _METRICS, _HEADS = "config.yaml", "run.json", "metrics.jsonl", "heads.safetensors"
_EVALUATION = "evaluation.json"
SEARCH_FOLDER = "search"  # what search-speech keeps in a RUN
TRAIN_AGAIN = "Restore it, or train again (with --fresh where that does not help)."
_MAX_DEPTH = 32  # of run.json; a fingerprint has 3
# a seed names a folder, so it is a number as Python writes it and nothing else
_SeedName = Annotated[str, StringConstraints(pattern=r"^(0|-?[1-9][0-9]{0,18})$")]


class _SeedResult(BaseModel, strict=True):
    """A seed whose training has ended."""

    epoch: int = Field(ge=1, lt=2**31)
    dev_loss: FiniteFloat
    threads: int = Field(ge=0, lt=2**31)


class _RunJson(BaseModel, strict=True):
    stores: str | list[str]
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
    def digests(self) -> FileDigests:
        """The digests of its files, those of seeds that have ended included."""
        return FileDigests(self.folder, "train-heads", TRAIN_AGAIN)

    @property
    def config(self) -> TrainConfig:
        return validate_file(TrainConfig, self.folder / _CONFIG)

    @property
    def about(self) -> dict[str, Any]:
        """The contents of run.json. Raises StoreCorrupt where it cannot be read or is invalid."""
        path = self.folder / _ABOUT
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
        path = (self.folder if seed is None else self.seed_folder(seed)) / _HEADS
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

    @property
    def metrics(self) -> DataFrame:
        """The curves of all seeds, a row an epoch: seed, epoch, train_loss, dev_loss, temperature, threads.

        Raises StoreCorrupt, and UsageError without pandas.
        """
        pandas = required_library("pandas", "pandas", "run.metrics")
        lines = [line for seed in self.seeds for line in self.metrics_text(seed).splitlines()]
        return pandas.DataFrame(map(json.loads, lines))

    def metrics_text(self, seed: int) -> str:
        """metrics.jsonl of a seed that has ended, a line an epoch. Raises StoreCorrupt."""
        path = self.seed_folder(seed) / _METRICS
        try:
            text = text_of(path)
            epochs = [json.loads(line)["epoch"] for line in text.splitlines()]
            if epochs != list(range(1, self.config.last_epoch + 1)) or not text.endswith("\n"):
                raise ValueError(f"{len(epochs)} lines of {self.config.last_epoch} epochs")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            found = f"cannot be read ({one_line_reason(error)})"
            raise StoreCorrupt(path, found, "a line an epoch", TRAIN_AGAIN) from None
        return text

    def evaluation(self) -> dict[str, Any] | None:
        """What evaluate-heads wrote; None where there is nothing. Raises StoreCorrupt where its bytes changed."""
        path = self.folder / _EVALUATION
        if not path.exists():
            return None
        try:
            return check_digest(text_of(path))
        except (OSError, ValueError, RecursionError) as error:
            found, action = f"corrupt ({one_line_reason(error)})", "Run evaluate-heads again."
            raise StoreCorrupt(path, found, "the bytes that evaluate-heads wrote", action) from None

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """evaluation.json: `result`, and its digest."""
        write_text(self.folder / _EVALUATION, json_with_digest(result))

    def corruption(self, seed: int) -> str:
        """What is wrong with the files of a seed that has ended; empty where they are whole."""
        try:
            self.digests.check(*_seed_files(seed))
            self.heads(seed)
            self.metrics_text(seed)
        except StoreCorrupt as error:
            return f"{error.subject}: {error.found}"
        return ""

    def seed_folder(self, seed: int) -> Path:
        return self.folder / "seeds" / str(seed)

    def stores(self, stores: Stores | str | Path | None = None) -> Stores:
        """`stores`, or those it was trained from, reading the layers it was trained on.

        Raises StoreMismatch where the encoders differ, UsageError where the rows do not hold those layers.
        """
        stores = stores_named(stores or self.about["stores"])
        choice = self.config.speech.choice, self.config.text.choice
        with suppress(UsageError):  # other encoders may lack those layers; the difference says more
            stores = stores.selected(*choice)
        if fields := differences(self.about["fingerprint"], stores.fingerprint()):
            found = describe_encoders(fields, "the heads have", "the stores")
            expected = "the encoders the heads were trained on"
            raise StoreMismatch(stores.folder, found, expected, "Pass those stores, or train heads on these.")
        return stores.selected(*choice)

    def finish(self, seed: int, result: dict[str, Any]) -> None:
        """Record a seed's result, join the metrics, and copy the best seed's heads."""
        self.record(self.about["seeds"] | {str(seed): result})

    def record(self, seeds: dict[str, Any]) -> None:
        """Make `seeds` those of run.json, and the joined metrics and the best heads theirs; what is so stays.

        Without any seed the metrics and heads stay as they are: no command reads them.
        """
        about = self.about | {"seeds": {name: seeds[name] for name in sorted(seeds, key=int)}}
        about.pop("best_seed", None)
        files, listed = {}, [_CONFIG, _ABOUT]
        if seeds:
            best = about["best_seed"] = int(min(about["seeds"], key=lambda name: float(seeds[name]["dev_loss"])))
            files[_METRICS] = "".join(self.metrics_text(int(name)) for name in about["seeds"]).encode()
            files[_HEADS] = (self.seed_folder(best) / _HEADS).read_bytes()
            listed += [_METRICS, _HEADS, *(name for seed in about["seeds"] for name in _seed_files(int(seed)))]
        files[_ABOUT] = (json.dumps(about, indent=2) + "\n").encode()  # last: it names the others
        changed = {name: contents for name, contents in files.items() if not _holds(self.folder / name, contents)}
        if changed or not self.digests.lists(listed):
            corrupt = self.digests.changed(files)
            with self.digests.rewritten(listed):
                for name, contents in changed.items():
                    if name in corrupt:
                        log.warning(f"{self.folder / name}: {corrupt[name]}; it is written again")
                    write_atomic(self.folder / name, [contents])


def open_run(folder: str | Path) -> Run:
    """A finished RUN folder.

    Raises UsageError when there is none, StoreCorrupt where a file is not what its digest in digests.json says.
    """
    run = Run(Path(folder))
    if (run.folder / _ABOUT).is_file():
        run.digests.note_unlisted()
        run.digests.check()
    if not (run.folder / _ABOUT).is_file() or not run.seeds:
        raise UsageError(run.folder, "no trained heads", "a RUN folder", "Run train-heads first, with --out naming it.")
    return run


def begin_run(folder: Path, config: TrainConfig, origin: dict[str, Any], *, fresh: bool) -> Run:
    """The run of `config` (seeds aside) on the data of `origin` in `folder`, resumed or new.

    Raises StoreMismatch, field by field, where the folder holds a run of another config or other data, StoreCorrupt.
    """
    run, about_path = Run(folder), folder / _ABOUT
    if fresh and about_path.is_file():
        run.digests.remove()
        for name in ("seeds", "report", SEARCH_FOLDER):
            remove_tree(folder / name)
        for name in ("report.html", _EVALUATION, _HEADS, _METRICS, _CONFIG):
            remove(folder / name)
        remove(about_path)  # last, so that an interrupted removal still leaves a run
    make_folder(folder)
    resumed = about_path.is_file()
    if resumed:
        _restore_config(run, config)
        if changes := list(_changes(run, config, origin)):
            expected, action = (
                "the settings and data of the run in this folder",
                "Choose another --out, or --fresh, which deletes that run.",
            )
            raise StoreMismatch(folder, "; ".join(changes), expected, action)
    if not (resumed and _holds(folder / _CONFIG, dump(config).encode())):
        run.digests.remove()  # it is written again when seeds are recorded
        write_text(folder / _CONFIG, dump(config))
    if not resumed:  # after the config: a folder with a run.json has both
        write_text(about_path, json.dumps(origin | {"seeds": {}}, indent=2) + "\n")
    return run


def _restore_config(run: Run, config: TrainConfig) -> None:
    """Raises StoreCorrupt where config.yaml or run.json is not as listed; `config` may be what was listed."""
    changed = run.digests.changed((_CONFIG, _ABOUT))
    if changed.keys() == {_CONFIG} and run.digests.lists_contents(_CONFIG, dump(config).encode()):
        log.warning(f"{run.folder / _CONFIG}: {changed[_CONFIG]}; it is written again")
        write_text(run.folder / _CONFIG, dump(config))
    else:
        run.digests.check(_CONFIG, _ABOUT)


def _seed_files(seed: int) -> tuple[str, str]:
    return f"seeds/{seed}/{_METRICS}", f"seeds/{seed}/{_HEADS}"


def _holds(path: Path, contents: bytes) -> bool:
    return path.is_file() and path.read_bytes() == contents


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
    then, now = (c.model_dump(mode="json", exclude={"seeds", "min_steps"}) for c in (run.config, config))
    if settings := differences(then, now):
        yield describe_differences(settings, "the run has")
    about = run.about
    if encoders := differences(about["fingerprint"], origin["fingerprint"]):
        yield describe_differences(encoders)
    if about["data"] != origin["data"]:
        yield "the training data changed"
