"""An exported model: what `save_pretrained` writes and `from_pretrained` reads.

model.safetensors    the heads, with a checksum
config.json          what they are: encoders, fingerprints, method, data, figures
README.md            the model card
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from cache.disk import make_folder, remove, write_text
from cache.stores import CONFIG, Stores
from pipeline.core.config import AudioConfig, ExtractConfig, TextConfig, TrainConfig
from pipeline.core.config_files import validate
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.core.files import deeper_than, open_regular, parse_json, read_yaml
from pipeline.core.hub import looks_like_hub_name
from pipeline.training.heads import Heads, load_heads, one_line_reason, save_heads
from pipeline.training.run_folder import Run, first_wrong

log = logging.getLogger(__name__)

HEADS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
AGAIN = "Export it again, or download it again."
_MOST_BYTES = 1 << 20
_DEEPEST = 16  # of a fingerprint; an encoder's has 3
_TESTS = {"ordinality": ("aoc", "voc"), "alignment": ("mmd", "wasserstein", "sliced_wasserstein")}


def _shallow(tree: dict[str, Any]) -> dict[str, Any]:
    if deeper_than(_DEEPEST, tree):
        raise ValueError("nested too deeply")
    return tree


Encoder = TypeVar("Encoder", AudioConfig, TextConfig)
Fingerprint = Annotated[dict[str, Any], AfterValidator(_shallow)]
Name = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fingerprints(_Part):
    """Of both encoders, as the stores had them that the heads were trained from."""

    audio: Fingerprint
    text: Fingerprint


class Encoders(_Part):
    """The encoders' settings at extraction. In an export `model` is a hub's name; of a local folder nothing is told."""

    audio: AudioConfig
    text: TextConfig

    def portable(self) -> Encoders:
        """A folder of this machine is nobody else's: who loads the model names their own, and fingerprints compare."""
        return Encoders(audio=_without_path(self.audio), text=_without_path(self.text))


class Trained(_Part):
    """Which training the heads come from; stands in model.safetensors too."""

    model_config = ConfigDict(strict=True)
    seed: int = Field(ge=0, lt=2**63)
    epoch: int = Field(ge=1, lt=2**31)
    dev_loss: FiniteFloat


class Data(_Part):
    """What was encoded: the corpus's reader, and its usable utterances by split."""

    corpus: Name
    utterances: dict[Name, Count]


class MeasuredFigure(_Part):
    """Mean and standard deviation over lists or trials."""

    mean: FiniteFloat
    std: FiniteFloat
    convention: Annotated[str, Field(max_length=1000)]


class Evaluation(_Part):
    """The paper's tests on one split: of these heads, and of all seeds of the run together."""

    split: Name
    utterances: Count
    style: Name
    seeds: Count
    heads: dict[Name, MeasuredFigure]
    all_seeds: dict[Name, MeasuredFigure]


class Description(_Part):
    """config.json: everything about a model but its tensors."""

    format: Literal["emotionrankclap-model/1"] = "emotionrankclap-model/1"
    model_type: Literal["emotionrankclap"] = "emotionrankclap"
    encoders: Encoders
    fingerprint: Fingerprints
    training: TrainConfig
    trained: Trained
    label_scale: tuple[FiniteFloat, FiniteFloat] = (1.0, 7.0)
    similarity: Literal["cosine"] = "cosine"
    data: Data
    evaluation: Evaluation | None = None

    def identity(self) -> dict[str, Any]:
        """What model.safetensors says of itself, so that no other heads stand beside this description."""
        return {"trained": self.trained.model_dump(), "fingerprint": self.fingerprint.model_dump()}


def of_run(run: Run) -> tuple[Heads, Description]:
    """The heads of a run's best seed, described from the run and the stores it was trained from.

    Raises UsageError where the stores are gone, StoreMismatch where they changed, StoreCorrupt.
    """
    stores, about = run.stores(), run.about
    path = stores.folder / CONFIG
    made = validate(ExtractConfig, read_yaml(path), subject=str(path))
    seed = about["best_seed"]
    result = {name: about["seeds"][str(seed)][name] for name in ("epoch", "dev_loss")}
    described = Description(
        encoders=Encoders(audio=made.audio, text=made.text),
        fingerprint=Fingerprints(**about["fingerprint"]),
        training=run.config,
        trained=Trained(seed=seed, **result),
        data=Data(corpus=made.corpus.reader, utterances=_counts(stores)),
        evaluation=_evaluation(run, about),
    )
    return run.heads_for(stores), described


def read_model(folder: Path) -> tuple[Heads, Description]:
    """An exported model. Nothing is unpickled. Raises StoreCorrupt where a file is damaged or is of another model."""
    described = _description(folder / SETTINGS)
    try:
        heads, said = load_heads(folder / HEADS)
    except StoreCorrupt as error:
        raise StoreCorrupt(error.subject, error.found, "what save_pretrained wrote", AGAIN) from None
    if said != described.identity():
        raise StoreCorrupt(folder / HEADS, f"other heads than {SETTINGS} names", "those it was exported with", AGAIN)
    return heads, described


def write_model(folder: Path, heads: Heads, described: Description, card: Callable[[Description], str]) -> None:
    """Export. config.json goes first and comes last, so that a folder which has one is whole; a failure leaves none.

    Raises UsageError where `folder` holds a run, or another model's files.
    """
    described = described.model_copy(update={"encoders": described.encoders.portable()})
    text = card(described)
    settings = json.dumps(described.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
    _refuse_foreign(folder)
    make_folder(folder)
    remove(folder / SETTINGS)
    try:
        save_heads(heads, folder / HEADS, described.identity())
        write_text(folder / CARD, text)
        write_text(folder / SETTINGS, settings)
    except BaseException:
        for name in (SETTINGS, CARD, HEADS):
            remove(folder / name)
        raise


def _description(path: Path) -> Description:
    with open_regular(path, "rb", expected="an exported model's") as file:
        raw = file.read(_MOST_BYTES + 1)
    try:
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        described = Description.model_validate(parse_json(raw))
        for config in (described.encoders.audio, described.encoders.text):
            if config.model is not None and not looks_like_hub_name(config.model):
                raise ValueError("a path as an encoder's model")
    except (ValueError, RecursionError) as error:  # pydantic's is a ValueError
        found = f"cannot be read ({first_wrong(error)})"
        raise StoreCorrupt(path, found, "what save_pretrained wrote", AGAIN) from None
    return described


def _refuse_foreign(folder: Path) -> None:
    """A folder may be new, empty of these names, or an export of ours, even a broken one."""
    if (folder / "run.json").exists():
        raise UsageError(folder, "a RUN folder", "one of the model's own", "Choose another folder.")
    if any((folder / name).exists() for name in (HEADS, SETTINGS, CARD)):
        for ours in (lambda: _description(folder / SETTINGS), lambda: load_heads(folder / HEADS)):
            try:
                ours()
            except (StoreCorrupt, UsageError):
                continue
            return
        raise UsageError(folder, "files of something else", "an empty folder", "Choose another folder.")


def _without_path(config: Encoder) -> Encoder:
    name = config.model
    local = name is not None and (not looks_like_hub_name(name) or Path(name).is_dir())
    return config.model_copy(update={"model": None, "revision": None}) if local else config


def _counts(stores: Stores) -> dict[str, int]:
    split = stores.manifest.split
    done = stores.audio.done(np.arange(len(split)))
    return dict(Counter(name for name, there in zip(split, done.tolist(), strict=True) if there))


def _evaluation(run: Run, about: dict[str, Any]) -> Evaluation | None:
    """The figures of evaluation.json where it is of these very heads; said where it is not."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        return None
    try:
        found = parse_json(path.read_bytes())
        if found["trained"] != about["seeds"]:
            raise ValueError("of other heads")
        return Evaluation(
            split=found["split"],
            utterances=found["utterances"],
            style=found["settings"]["style"],
            seeds=len(about["seeds"]),
            heads=_figures(found["seeds"][str(about["best_seed"])]),
            all_seeds=_figures(found),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = first_wrong(error) if isinstance(error, ValidationError) else one_line_reason(error)
        log.warning(f"{path}: left out ({reason}); evaluate-heads writes it anew")
        return None


def _figures(found: dict[str, Any]) -> dict[str, MeasuredFigure]:
    named = ("mean", "std", "convention")
    return {
        name: MeasuredFigure(**{key: found[test][name][key] for key in named})
        for test, names in _TESTS.items()
        for name in names
    }
