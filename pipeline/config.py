"""One small typed model per stage. Defaults are the paper's; unknown keys are refused with a suggestion.

A config is found by name (a preset in `configs/`), by path (YAML), or is a manifest's path (then the defaults and the
embedded encoders apply). `base:` names presets that are merged first; `-o a.b=value` is merged last.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pipeline.errors import ManyProblems, UsageError

Tree = dict[str, Any]
_HERE = Path(__file__).resolve().parent
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".json")


class Model(BaseModel):
    """A part of a config: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusConfig(Model):
    """Where the labels are and how they are read."""

    reader: Literal["msp_podcast", "iemocap", "ravdess", "emodb", "cremad", "tess", "manifest"] = "manifest"
    root: Path | None = Field(None, description="the corpus folder; audio paths are relative to it")
    manifest: Path | None = Field(None, description="the CSV or JSONL file of reader `manifest`")
    scale: tuple[float, float] | None = Field(
        None, description="lowest and highest label, mapped to 1-7; none is the corpus's own, or 1-7 for a manifest"
    )
    missing_audio: Literal["error", "drop"] = "error"
    merge: dict[str, str] = Field({}, description="an emotion -> the one it counts as, e.g. {excited: happy} (F26)")
    keep: tuple[str, ...] | None = Field(
        None, min_length=1, description="only utterances of these emotions, after merging; none keeps all"
    )


class CaptionsConfig(Model):
    """Which texts describe each utterance."""

    styles: tuple[Literal["dimensional", "template", "clap4emo", "acoustic", "file"], ...] = (
        "dimensional",
        "template",
    )
    files: tuple[Path, ...] = Field((), description="captions of write-captions or one's own, in place of the built-in")
    per_utterance: int = Field(4, ge=1, le=8, description="paraphrases linked to one utterance")
    prompt_variants: int = Field(8, ge=1, le=8, description="paraphrases of each prompt of the ordinality test (F13)")
    lexicon: Path | None = Field(None, description="the NRC word-level file, for clap4emo; none is a small one of ours")
    quantiles: tuple[float, float] = Field((0.3, 0.7), description="below is low, above is high, for acoustic (F28)")
    acoustic_labels: tuple[Literal["emotion", "gender"], ...] = Field(
        ("emotion", "gender"), description="what the acoustic style says beside the voice; () is the voice alone"
    )
    seed: int = 0


class AudioConfig(Model):
    """The frozen speech encoder and what it is fed (F2, F9, F17-F19, F35-F36)."""

    encoder: Literal["embedded", "wavlm_ser", "transformers"] = "embedded"
    model: str | None = Field(None, description="folder or hub name (the embedded encoder has none)")
    revision: str | None = None
    layer: int | None = Field(None, description="hidden state to pool; negative counts from the last")
    pooling: Literal["mean", "hidden", "mean_std"] = "mean"
    padding: Literal["masked", "fixed_masked", "fixed"] = Field(
        "masked", description="masked: to the batch's longest; fixed: zero-padded to max_seconds, unmasked (F9)"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the products; norms and residuals are float32. auto: bfloat16 for a WavLM on CUDA"
    )
    max_seconds: float = Field(10.0, gt=0, le=30.0)
    crop: Literal["start", "center"] = "start"
    batch_seconds: float | Literal["auto"] = Field(
        "auto", description="padded seconds of audio in one batch; auto: one clip on a CPU, 160 s on CUDA"
    )


class TextConfig(Model):
    """The frozen text encoder (F3, F37)."""

    encoder: Literal["embedded", "transformers"] = "embedded"
    model: str | None = Field(None, description="folder or hub name (the embedded encoder has none)")
    revision: str | None = None
    pooling: Literal["cls", "mean"] = "mean"
    max_tokens: int = Field(512, ge=8)
    batch_size: int = Field(64, ge=1)


class ExtractConfig(Model):
    """Stage one: corpus, captions, encoders."""

    corpus: CorpusConfig = CorpusConfig()
    captions: CaptionsConfig = CaptionsConfig()
    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    store_dtype: Literal["float32", "float16"] = "float32"


class RankingConfig(Model):
    """Rank-N-Contrast over any labels; the paper's are valence and arousal in the plane (F4-F8)."""

    name: Literal["rank_n_contrast"] = "rank_n_contrast"
    labels: tuple[Literal["valence", "arousal", "dominance"], ...] = Field(("valence", "arousal"), min_length=1)
    weights: tuple[PositiveFloat, ...] | None = Field(None, description="of the labels, in their order; none is equal")
    distance: Literal["l2", "l1"] = "l2"
    denominator: Literal["at_least", "beyond", "beyond_and_self"] = Field(
        "at_least", description="which texts stand against the positive: d >= , d > , or d > and the positive (F5)"
    )
    symmetric: bool = Field(False, description="text -> audio as well")

    @model_validator(mode="after")
    def _a_weight_a_label(self) -> RankingConfig:
        if self.weights is not None and len(self.weights) != len(self.labels):
            raise ValueError(f"{len(self.weights)} weights for {len(self.labels)} labels")
        return self


class SoftTargetsConfig(Model):
    """One similarity matrix, one target matrix, one divergence (F23-F27)."""

    name: Literal["soft_targets"]
    targets: Literal["identity", "same_emotion", "gemo", "smooth"] = "identity"
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy"
    alpha: float = Field(1.0, ge=0, le=1, description="gemo: emotion's share against gender's (F26)")
    mix: Literal["losses", "targets"] = Field("losses", description="gemo: ML mixes two losses, SL one target (F26)")
    beta: float = Field(0.5, ge=0, le=1, description="smooth: the share of the self-similarities (F27)")
    gamma: float = Field(0.1, ge=0, le=1, description="smooth: the text's share of the self-similarities (F27)")
    temperature: float = Field(0.07, gt=0, description="smooth: of the self-similarities (F27)")


ObjectiveConfig = Annotated[RankingConfig | SoftTargetsConfig, Field(discriminator="name")]
_TAGS = ("rank_n_contrast", "soft_targets")  # pydantic puts them into the path of an error


class TrainConfig(Model):
    """Stage two: the heads of F1 trained as in F9."""

    method: str = "emotionrankclap"
    style: str = "dimensional"
    objective: ObjectiveConfig = RankingConfig()
    width: int = Field(512, ge=1)
    activation: Literal["relu", "identity"] = "relu"
    standardise: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: the embedded encoders' features only (F36); the paper has none"
    )
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of the learning rate")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=2)
    epochs: int = Field(15, ge=1)
    temperature: float = Field(1.0, gt=0, description="at the start (F8)")
    threads: PositiveInt | Literal["auto"] = Field(
        "auto", description="CPU threads; auto measures. Equal bits need equal threads"
    )
    memory: Literal["auto", "resident", "disk"] = Field(
        "auto", description="speech vectors in memory, or read from disk in shuffled blocks; auto: by what is free"
    )
    shuffle_seed: int | None = Field(None, description="of the batches; none is each seed's own (a sweep shares them)")
    seeds: tuple[int, ...] = (0,)


class EvaluateConfig(Model):
    """Both tests of the paper (F12, F13)."""

    split: str | None = Field(None, description="test1 where there is one, else test")
    style: str = Field("dimensional", description="whose captions are aligned and whose prompts are asked")
    trials: int = Field(30, ge=1)
    pairs: int = Field(5000, ge=2)
    mmd_gamma: float | Literal["median"] = Field(1.0, description="k(x, y) = exp(-gamma |x - y|^2)")
    projections: int = Field(256, ge=1, description="directions of the sliced Wasserstein distance")
    lists: int = Field(100, ge=1)
    seed: int = 0


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
    return validate(model, tree, subject=" + ".join(names) or "the defaults")


def validate(model: type[M], tree: Mapping[str, Any], *, subject: str) -> M:
    """Check `tree` against `model`. Raises UsageError that lists every wrong key and value."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"{subject}: {_explain(model, detail)}" for detail in error.errors(include_url=False)]
        raise ManyProblems(subject, lines, "Correct the config or the -o overrides.") from None


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


def read_yaml(path: Path) -> Tree:
    """A YAML file that holds a mapping. Raises UsageError with the line of a syntax error."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(path, f"cannot be read ({error})", "a YAML file", "Check the path.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        found = str(getattr(error, "problem", None) or "not YAML")
        raise UsageError(where, found, "valid YAML", "Correct the file.") from None
    if not isinstance(tree, dict):
        raise UsageError(path, f"a {type(tree).__name__}", "a mapping of settings", "Correct the file.")
    return tree


def _configs() -> Path:
    inside = _HERE / "configs"  # in a wheel
    return inside if inside.is_dir() else _HERE.parent / "configs"


def _named(name: str, kind: str) -> Tree:
    path = Path(name)
    if path.suffix in MANIFEST_SUFFIXES and kind == "corpora":
        return {"corpus": {"reader": "manifest", "manifest": str(path)}}
    if path.suffix in (".yaml", ".yml"):
        return _with_bases(read_yaml(path), path)
    preset = _configs() / f"{name}.yaml" if "/" in name else _configs() / kind / f"{name}.yaml"
    if not preset.is_file():
        known = presets(kind)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Presets: {', '.join(known)}."
        raise UsageError(
            name, "no such preset or file", "a preset's name, a YAML file or a manifest (.csv, .jsonl)", hint
        )
    return _with_bases(read_yaml(preset), preset)


def _with_bases(tree: Tree, path: Path) -> Tree:
    bases = tree.pop("base", [])
    merged: Tree = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = merge(merged, _named(str(base), path.parent.name))
    return merge(merged, tree)


def _override(text: str) -> Tree:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"-o {text}", "no `=`", "a.b=value", "Write for example -o audio.max_seconds=8.")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        tree = value
    if isinstance(tree, str):  # YAML 1.1 reads 1e-3 as text
        try:
            tree = float(tree)
        except ValueError:
            pass
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return dict(tree)


def _explain(model: type[Model], detail: ErrorDetails) -> str:
    path = ".".join(str(part) for part in detail["loc"] if part not in _TAGS)
    if detail["type"] != "extra_forbidden":
        return f"{path} = {detail['input']!r}: {detail['msg'].lower()}"
    known = list(_fields(model))
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.5) or [
        name for name in known if name.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]
    ]
    return f"{path}: no such setting" + (f"; did you mean {close[0]}?" if close else "")


def _fields(model: type[Model], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, Model):
                yield from _fields(part, f"{prefix}{name}.")
