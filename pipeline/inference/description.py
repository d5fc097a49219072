"""What an exported model says of itself: its config.json, described from a run and its stores."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from cache.joint import SideBySide
from cache.stores import CONFIG
from pipeline.core.config import AudioConfig, ExtractConfig, TextConfig, TrainConfig
from pipeline.core.config_files import validate_file
from pipeline.core.errors import UsageError
from pipeline.core.files import deeper_than
from pipeline.core.hub import looks_like_hub_name
from pipeline.training.heads import Heads
from pipeline.training.run_folder import Run, first_wrong

log = logging.getLogger(__name__)

SETTINGS = "config.json"
MAX_DEPTH = 16  # of a fingerprint; an encoder's has 3
_TESTS = {"ordinality": ("aoc", "voc"), "alignment": ("mmd", "wasserstein", "sliced_wasserstein")}


def _not_deep(tree: dict[str, Any]) -> dict[str, Any]:
    if deeper_than(MAX_DEPTH, tree):
        raise ValueError("nested too deeply")
    return tree


Encoder = TypeVar("Encoder", AudioConfig, TextConfig)
Fingerprint = Annotated[dict[str, Any], AfterValidator(_not_deep)]
Name = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fingerprints(_Frozen):
    """The fingerprints of both encoders, from the stores that the heads were trained on."""

    audio: Fingerprint
    text: Fingerprint


class Encoders(_Frozen):
    """The encoders' settings at extraction. In an export `model` is a name on the hub, or None for a local folder."""

    audio: AudioConfig
    text: TextConfig


class Trained(_Frozen):
    """The training that the heads come from; also in model.safetensors."""

    model_config = ConfigDict(strict=True)
    seed: int = Field(ge=0, lt=2**63)
    epoch: int = Field(ge=1, lt=2**31)
    dev_loss: FiniteFloat


class Data(_Frozen):
    """The corpus reader, and the number of usable utterances by split."""

    corpus: Name
    utterances: dict[Name, Count]


class MeasuredFigure(_Frozen):
    """Mean and standard deviation over lists or trials."""

    mean: FiniteFloat
    std: FiniteFloat
    convention: Annotated[str, Field(max_length=1000)]


class Evaluation(_Frozen):
    """The paper's tests on one split: of these heads, and over all seeds of the run."""

    split: Name
    utterances: Count
    style: Name
    seeds: Count
    heads: dict[Name, MeasuredFigure]
    all_seeds: dict[Name, MeasuredFigure]


class Description(_Frozen):
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

    def portable(self) -> Description:
        """Without the paths of local folders, which do not exist on other machines."""
        encoders = Encoders(audio=_without_path(self.encoders.audio), text=_without_path(self.encoders.text))
        return self.model_copy(update={"encoders": encoders})

    def encode(self) -> bytes:
        """The bytes of config.json."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n").encode()

    def identity(self, settings: bytes) -> dict[str, Any]:
        """The metadata of model.safetensors, by which heads of another config.json than `settings` are refused."""
        digest = hashlib.blake2b(settings, digest_size=16).hexdigest()
        return {"trained": self.trained.model_dump(), "fingerprint": self.fingerprint.model_dump(), SETTINGS: digest}


def of_run(run: Run) -> tuple[Heads, Description]:
    """The heads of a run's best seed, described from the run and the stores it was trained from.

    Raises UsageError where the stores are gone, StoreMismatch where they changed, StoreCorrupt.
    """
    stores, about = run.stores(), run.about
    if isinstance(stores.audio, SideBySide):
        found = "heads of several speech encoders' vectors side by side"
        raise UsageError(run.folder, found, "one encoder", "Train heads on the stores of one to export them.")
    config = validate_file(ExtractConfig, stores.folder / CONFIG)
    seed = about["best_seed"]
    best = about["seeds"][str(seed)]
    split = np.array(stores.manifest.split)
    done = split[stores.audio.done(np.arange(len(split)))]
    described = Description(
        encoders=Encoders(audio=config.audio, text=config.text),
        fingerprint=Fingerprints(**about["fingerprint"]),
        training=run.config,
        trained=Trained(seed=seed, epoch=best["epoch"], dev_loss=best["dev_loss"]),
        data=Data(corpus=config.corpus.reader, utterances=dict(Counter(done.tolist()))),
        evaluation=_evaluation(run, about),
    )
    return run.heads_for(stores), described


def _without_path(config: Encoder) -> Encoder:
    name = config.model
    local = name is not None and (not looks_like_hub_name(name) or Path(name).is_dir())
    return config.model_copy(update={"model": None, "revision": None}) if local else config


def _evaluation(run: Run, about: dict[str, Any]) -> Evaluation | None:
    """The figures of evaluation.json, if it is of these heads; a warning if it is not. Raises StoreCorrupt."""
    result = run.evaluation()
    if result is None:
        return None
    try:
        if result["trained"] != about["seeds"]:
            raise ValueError("of other heads")
        return Evaluation(
            split=result["split"],
            utterances=result["utterances"],
            style=result["settings"]["style"],
            seeds=len(about["seeds"]),
            heads=_figures(result["seeds"][str(about["best_seed"])]),
            all_seeds=_figures(result),
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning(f"{run.folder / 'evaluation.json'}: left out ({first_wrong(error)}); run evaluate-heads again")
        return None


def _figures(result: dict[str, Any]) -> dict[str, MeasuredFigure]:
    return {
        name: MeasuredFigure(**{key: result[test][name][key] for key in ("mean", "std", "convention")})
        for test, names in _TESTS.items()
        for name in names
    }
