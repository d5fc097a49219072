"""One small typed model per stage. Defaults are the paper's; unknown keys are refused with a suggestion.

A config is found by name (a preset in `configs/`), by path (YAML), or is a manifest's path (then the defaults and the
embedded encoders apply). `base:` names presets that are merged first; `-o a.b=value` is merged last.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.config_errors import explain, shown
from pipeline.config_types import Model as Model
from pipeline.config_types import Number, Whole
from pipeline.config_types import Seed as Seed
from pipeline.errors import ManyProblems, UsageError
from pipeline.objective_config import ObjectiveConfig, RankingConfig
from pipeline.objective_config import OwnObjectiveConfig as OwnObjectiveConfig
from pipeline.objective_config import SoftTargetsConfig as SoftTargetsConfig
from pipeline.own_parts import ASKED, encoder_name
from pipeline.registry import BUILT_IN
from pipeline.yaml_tree import ValuesRefused, parse_yaml, read_yaml

Tree = dict[str, Any]
_HERE = Path(__file__).resolve().parent
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".json")
_DEEPEST = 8  # levels of an override's key, and of presets that build on each other
_Point = Annotated[Number, Field(ge=-1e6, le=1e6)]
_Share = Annotated[Number, Field(ge=0, le=1)]


class CorpusConfig(Model):
    """Where the labels are and how they are read."""

    reader: Literal["msp_podcast", "iemocap", "ravdess", "emodb", "cremad", "tess", "manifest"] = "manifest"
    root: Path | None = Field(None, description="the corpus folder; audio paths are relative to it")
    manifest: Path | None = Field(None, description="the CSV or JSONL file of reader `manifest`")
    scale: tuple[_Point, _Point] | None = Field(
        None, description="lowest and highest label, mapped to 1-7; none is the corpus's own, or 1-7 for a manifest"
    )
    missing_audio: Literal["error", "drop"] = "error"
    outside_root: bool = Field(False, description="reader `manifest`: audio paths may lead out of the root")
    merge: dict[str, str] = Field({}, description="an emotion -> the one it counts as, e.g. {excited: happy} (F26)")
    keep: tuple[str, ...] | None = Field(
        None, min_length=1, description="only utterances of these emotions, after merging; none keeps all"
    )

    @model_validator(mode="after")
    def _only_a_manifest_leaves_the_root(self) -> CorpusConfig:
        if self.outside_root and self.reader != "manifest":
            raise ValueError(f"outside_root is for reader manifest; {self.reader} keeps to its folder")
        return self


class CaptionsConfig(Model):
    """Which texts describe each utterance."""

    styles: tuple[Literal["dimensional", "template", "clap4emo", "acoustic", "file"], ...] = (
        "dimensional",
        "template",
    )
    files: tuple[Path, ...] = Field((), description="captions of write-captions or one's own, in place of the built-in")
    per_utterance: Whole = Field(4, ge=1, le=8, description="paraphrases linked to one utterance")
    prompt_variants: Whole = Field(8, ge=1, le=8, description="paraphrases of each prompt of the ordinality test (F13)")
    lexicon: Path | None = Field(None, description="the NRC word-level file, for clap4emo; none is a small one of ours")
    quantiles: tuple[_Share, _Share] = Field((0.3, 0.7), description="below is low, above is high, for acoustic (F28)")
    acoustic_labels: tuple[Literal["emotion", "gender"], ...] = Field(
        ("emotion", "gender"), description="what the acoustic style says beside the voice; () is the voice alone"
    )
    seed: Seed = 0


class AudioConfig(Model):
    """The frozen speech encoder and what it is fed (F2, F9, F17-F19, F35-F36)."""

    encoder: Annotated[str, encoder_name("audio encoder")] = Field(
        "embedded",
        description="built in, or one of your own (docs/encoders.md)",
        examples=[*BUILT_IN["audio encoder"]],
    )
    model: str | None = Field(None, description="folder or hub name (the embedded encoder has none)")
    revision: str | None = None
    layer: Whole | None = Field(None, description="hidden state to pool; negative counts from the last")
    pooling: Literal["mean", "hidden", "mean_std"] = "mean"
    padding: Literal["masked", "fixed_masked", "fixed"] = Field(
        "masked", description="masked: to the batch's longest; fixed: zero-padded to max_seconds, unmasked (F9)"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the products; norms and residuals are float32. auto: bfloat16 for a WavLM on CUDA"
    )
    max_seconds: Number = Field(10.0, gt=0, le=30.0)
    crop: Literal["start", "center"] = "start"
    batch_seconds: Annotated[Number, Field(ge=0, le=1e6)] | Literal["auto"] = Field(
        "auto", description="padded seconds of audio in one batch; auto: one clip on a CPU, 160 s on CUDA"
    )


class TextConfig(Model):
    """The frozen text encoder (F3, F37)."""

    encoder: Annotated[str, encoder_name("text encoder")] = Field(
        "embedded",
        description="built in, or one of your own (docs/encoders.md)",
        examples=[*BUILT_IN["text encoder"]],
    )
    model: str | None = Field(None, description="folder or hub name (the embedded encoder has none)")
    revision: str | None = None
    pooling: Literal["cls", "mean"] = "mean"
    max_tokens: Whole = Field(512, ge=8)
    batch_size: Whole = Field(64, ge=1)


class ExtractConfig(Model):
    """Stage one: corpus, captions, encoders."""

    corpus: CorpusConfig = CorpusConfig()
    captions: CaptionsConfig = CaptionsConfig()
    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    store_dtype: Literal["float32", "float16"] = "float32"


class TrainConfig(Model):
    """Stage two: the heads of F1 trained as in F9."""

    method: str = "emotionrankclap"
    style: str = "dimensional"
    objective: ObjectiveConfig = RankingConfig()
    width: Whole = Field(512, ge=1, le=2**16)
    activation: Literal["relu", "identity"] = "relu"
    standardise: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: the embedded encoders' features only (F36); the paper has none"
    )
    learning_rate: Number = Field(1e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of the learning rate")
    warmup: Number = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: Number = Field(0.0, ge=0)
    batch_size: Whole = Field(64, ge=2)
    epochs: Whole = Field(15, ge=1)
    temperature: Number = Field(1.0, gt=0, description="at the start (F8)")
    threads: Annotated[Whole, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto measures. Equal bits need equal threads"
    )
    memory: Literal["auto", "resident", "disk"] = Field(
        "auto", description="speech vectors in memory, or read from disk in shuffled blocks; auto: by what is free"
    )
    shuffle_seed: Seed | None = Field(None, description="of the batches; none is each seed's own (a sweep shares them)")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)


class EvaluateConfig(Model):
    """Both tests of the paper (F12, F13)."""

    split: str | None = Field(None, description="test1 where there is one, else test")
    style: str = Field("dimensional", description="whose captions are aligned and whose prompts are asked")
    trials: Whole = Field(30, ge=1)
    pairs: Whole = Field(5000, ge=2)
    mmd_gamma: Number | Literal["median"] = Field(1.0, description="k(x, y) = exp(-gamma |x - y|^2)")
    projections: Whole = Field(256, ge=1, description="directions of the sliced Wasserstein distance")
    lists: Whole = Field(100, ge=1)
    seed: Seed = 0


M = TypeVar("M", bound=Model)


def load_config(
    model: type[M], name: str | Path | Sequence[str] | None, overrides: Sequence[str] = (), *, kind: str
) -> M:
    """Resolve `name` (presets, YAML or manifest paths, later ones on top) and `overrides` (`a.b=value`) into a `model`.

    `kind` is the folder of `configs/` that presets are looked up in. Raises UsageError with all problems at once.
    """
    names = [] if name is None else [str(name)] if isinstance(name, str | Path) else list(name)
    tree: Tree = {}
    for each in names:
        tree = merge(tree, _named(each, kind))
    for override in overrides:
        tree = merge(tree, _override(override))
    return validate(model, tree, subject=" + ".join(names) or "the settings", context=ASKED)


def validate(model: type[M], tree: Mapping[str, Any], *, subject: str, context: dict[str, bool] | None = None) -> M:
    """Check `tree` against `model`. Raises UsageError that lists every wrong key and value.

    In the `context` ASKED, encoders and objectives of one's own must be registered.
    """
    try:
        return model.model_validate(tree, context=context)
    except ValidationError as error:
        lines = dict.fromkeys(f"{subject}: {explain(model, detail)}" for detail in error.errors(include_url=False))
        raise ManyProblems(subject, list(lines), "Correct the config or the -o overrides.") from None


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """`base` with `over` laid on top, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def dump(config: Model) -> str:
    """The resolved config as YAML, every field written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def presets(kind: str) -> list[str]:
    """Names of the presets of `kind` (`corpora`, `methods`, `encoders`)."""
    return sorted(path.stem for path in (_configs() / kind).glob("*.yaml"))


def _configs() -> Path:
    inside = _HERE / "configs"  # in a wheel
    return inside if inside.is_dir() else _HERE.parent / "configs"


def _named(name: str, kind: str, under: tuple[str, ...] = ()) -> Tree:
    """The tree of one name; `under` are the files that name it as their base, outermost first."""
    path = Path(name)
    if path.suffix in MANIFEST_SUFFIXES and kind == "corpora":
        return {"corpus": {"reader": "manifest", "manifest": str(path)}}
    if path.suffix not in (".yaml", ".yml"):
        preset = _configs() / f"{name}.yaml" if "/" in name else _configs() / kind / f"{name}.yaml"
        if not os.path.isfile(preset):
            raise _no_preset(name, kind, under)
        path, kind = preset, preset.parent.name
    if len(under) >= _DEEPEST:
        raise UsageError(under[0], "base: it builds on itself", "presets that end somewhere", "Correct the file.")
    return _with_bases(read_yaml(path), kind, (*under, str(path)))


def _no_preset(name: str, kind: str, under: tuple[str, ...]) -> UsageError:
    folder, _, last = name.rpartition("/")
    known = presets(folder if folder in os.listdir(_configs()) else kind)
    close = difflib.get_close_matches(last[:60], known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Presets: {', '.join(known)}."
    expected = "a preset's name or a YAML file"
    if kind == "corpora" and not folder:
        expected = "a preset's name, a YAML file or a manifest (.csv, .jsonl)"
    subject = name if name.isprintable() and 0 < len(name) < 200 else shown(name)
    return UsageError(f"{under[-1]}: base {subject}" if under else subject, "no such preset or file", expected, hint)


def _with_bases(tree: Tree, kind: str, under: tuple[str, ...]) -> Tree:
    given = tree.pop("base", [])
    bases = [given] if isinstance(given, str) else given
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UsageError(under[-1], f"base = {shown(given)}", "a preset's name, or a list of them", "Correct the file.")
    merged: Tree = {}
    for base in bases:
        merged = merge(merged, _named(base, kind, under))
    return merge(merged, tree)


def _override(text: str) -> Tree:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    subject = f"-o {text if text.isprintable() and len(text) < 200 else shown(text)}"
    if not equals or not all(parts):
        found = "an empty name" if equals else "no `=`"
        raise UsageError(subject, found, "a.b=value", "Write for example -o audio.max_seconds=8.")
    if len(parts) > _DEEPEST:
        raise UsageError(subject, f"{len(parts)} levels of names", f"at most {_DEEPEST}", "Correct it.")
    try:
        tree = parse_yaml(value)
    except ValuesRefused as error:
        raise UsageError(subject, str(error.problem), "one setting's value", "Correct it.") from None
    except yaml.YAMLError:
        tree = value
    if isinstance(tree, str):  # YAML 1.1 reads 1e-3 as text
        try:
            tree = float(tree)
        except ValueError:
            pass
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)
