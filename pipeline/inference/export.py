"""An exported model: what `save_pretrained` writes and `from_pretrained` reads.

model.safetensors    the heads, with a checksum
config.json          what they are: encoders, fingerprints, method, data, figures
README.md            the model card
*_head.onnx          where they are asked for, the heads for other programs; nothing here reads them
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from cache.disk import make_folder, remove, write_atomic, write_text
from cache.joint import SideBySide
from cache.stores import CONFIG
from pipeline.core.config import AudioConfig, ExtractConfig, TextConfig, TrainConfig
from pipeline.core.config_files import validate_file
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.core.files import deeper_than, open_regular, parse_json
from pipeline.core.hub import looks_like_hub_name
from pipeline.inference.onnx_heads import ONNX_FILES, SIDES, onnx_head
from pipeline.training.heads import Heads, load_heads, save_heads
from pipeline.training.run_folder import Run, first_wrong

log = logging.getLogger(__name__)

HEADS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
EXPORT_AGAIN = "Export it again, or download it again."
MAX_CONFIG_BYTES = 1 << 20
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

    def portable(self) -> Encoders:
        """Without the paths of local folders, which do not exist on other machines."""
        return Encoders(audio=_without_path(self.audio), text=_without_path(self.text))


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


def read_model(folder: Path) -> tuple[Heads, Description]:
    """An exported model. Nothing is unpickled. Raises StoreCorrupt where a file is corrupt or of another model."""
    described, settings = _description(folder / SETTINGS)
    try:
        heads, identity = load_heads(folder / HEADS)
    except StoreCorrupt as error:
        raise StoreCorrupt(error.subject, error.found, "what save_pretrained wrote", EXPORT_AGAIN) from None
    expected = described.identity(settings)
    digest = expected.pop(SETTINGS)
    if identity.pop(SETTINGS, digest) != digest:  # a release of before had only `trained` and `fingerprint` there
        expected_bytes = "the bytes that save_pretrained wrote"
        raise StoreCorrupt(folder / SETTINGS, "corrupt or edited: other bytes", expected_bytes, EXPORT_AGAIN)
    if identity != expected:
        found = f"other heads than {SETTINGS} describes"
        raise StoreCorrupt(folder / HEADS, found, "those it was exported with", EXPORT_AGAIN)
    return heads, described


def write_model(
    folder: Path,
    heads: Heads,
    described: Description,
    card: Callable[[Description, Mapping[str, bytes]], str],
    *,
    onnx: bool = False,
) -> None:
    """Export, with `onnx` the heads as ONNX files as well, which the card is given by name. A failure leaves no file.

    config.json is removed first and written last: a folder that has one is whole. An earlier export's ONNX files are
    removed too. Raises UsageError where `folder` holds a run or another model's files, and without the package onnx.
    """
    described = described.model_copy(update={"encoders": described.encoders.portable()})
    settings = described.encode()
    graphs = _onnx_files(heads, described, settings) if onnx else {}
    text = card(described, graphs)
    _refuse_foreign(folder)
    make_folder(folder)
    remove(folder / SETTINGS)
    try:
        for name in ONNX_FILES:
            remove(folder / name)
        save_heads(heads, folder / HEADS, described.identity(settings))
        for name, contents in graphs.items():
            write_atomic(folder / name, [contents])
        write_text(folder / CARD, text)
        write_atomic(folder / SETTINGS, [settings])
    except BaseException:
        for name in (SETTINGS, *ONNX_FILES, CARD, HEADS):
            remove(folder / name)
        raise


def _onnx_files(heads: Heads, described: Description, settings: bytes) -> dict[str, bytes]:
    """Both heads as ONNX, by file name. Their metadata are JSON: the encoder, and what model.safetensors has too."""
    files = {}
    for name, side in zip(ONNX_FILES, SIDES, strict=True):
        identity = described.identity(settings)
        metadata = identity | {
            "format": "emotionrankclap-onnx/1",
            "encoder": getattr(described.encoders, side).model_dump(mode="json"),
            "fingerprint": identity["fingerprint"][side],
            "vectors": getattr(described.training, SIDES[side]).model_dump(mode="json"),
            "similarity": described.similarity,
        }
        files[name] = onnx_head(heads, side, {key: json.dumps(value) for key, value in metadata.items()})
    return files


def _description(path: Path) -> tuple[Description, bytes]:
    """What config.json describes, and its bytes."""
    with open_regular(path, "rb", expected="an exported model's") as file:
        raw = file.read(MAX_CONFIG_BYTES + 1)
    try:
        if len(raw) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES:,} bytes")
        described = Description.model_validate(parse_json(raw))
        for config in (described.encoders.audio, described.encoders.text):
            if config.model is not None and not looks_like_hub_name(config.model):
                raise ValueError("a path as an encoder's model")
    except (ValueError, RecursionError) as error:  # pydantic's is a ValueError
        found = f"cannot be read ({first_wrong(error)})"
        raise StoreCorrupt(path, found, "what save_pretrained wrote", EXPORT_AGAIN) from None
    return described, raw


def _refuse_foreign(folder: Path) -> None:
    """Refuse a run, and files of these names unless one of them is an export of ours."""
    if (folder / "run.json").exists():
        raise UsageError(folder, "a RUN folder", "one of the model's own", "Choose another folder.")
    if any((folder / name).exists() for name in (HEADS, SETTINGS, CARD, *ONNX_FILES)):
        for read, name in ((_description, SETTINGS), (load_heads, HEADS)):
            with suppress(StoreCorrupt, UsageError):
                read(folder / name)
                return
        raise UsageError(folder, "files of something else", "an empty folder", "Choose another folder.")


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
