"""One small typed model per stage. Defaults are the paper's; unknown keys are refused with a suggestion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cache.errors import UsageError
from pipeline.core.plugins import BUILT_IN, Kind, SettingValue, check_settings, find, is_valid_name

REQUIRE_PLUGINS = {"require_plugins": True}  # validation context: the plugins that a config names must be registered
CUSTOM_OBJECTIVE = "custom_objective"  # pydantic's tag of an objective that is not built in
_INT_LIMIT = 2**31  # of any whole number: beyond it C code overflows, and nothing here counts that far


def _not_bool(value: object) -> object:
    """`epochs: yes` is a mistake, not one epoch."""
    if isinstance(value, bool):
        raise ValueError("yes or no where a number is expected")
    return value


Whole = Annotated[int, BeforeValidator(_not_bool), Field(gt=-_INT_LIMIT, lt=_INT_LIMIT)]
Number = Annotated[float, BeforeValidator(_not_bool)]
Seed = Annotated[
    int, BeforeValidator(_not_bool), Field(ge=0, lt=2**63)
]  # numpy refuses negative ones, torch larger ones


class Model(BaseModel):
    """A part of a config: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RankingConfig(Model):
    """Rank-N-Contrast over any labels; the paper's are valence and arousal in the plane (F4-F8)."""

    name: Literal["rank_n_contrast"] = "rank_n_contrast"
    labels: tuple[Literal["valence", "arousal", "dominance"], ...] = Field(("valence", "arousal"), min_length=1)
    weights: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(
        None, description="of the labels, in their order; none is equal"
    )
    distance: Literal["l2", "l1"] = "l2"
    denominator: Literal["at_least", "beyond", "beyond_and_self"] = Field(
        "at_least",
        description="texts in it for a positive at distance d: at >= d, at > d, or at > d and the positive (F5)",
    )
    symmetric: bool = Field(False, description="text -> audio as well")

    @model_validator(mode="after")
    def _one_weight_per_label(self) -> RankingConfig:
        if self.weights is not None and len(self.weights) != len(self.labels):
            raise ValueError(f"{len(self.weights)} weights for {len(self.labels)} labels")
        return self


class SoftTargetsConfig(Model):
    """One similarity matrix, one target matrix, one divergence (F23-F27)."""

    name: Literal["soft_targets"]
    targets: Literal["identity", "same_emotion", "gemo", "smooth", "kernel"] = "identity"
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy"
    alpha: Number = Field(1.0, ge=0, le=1, description="gemo: emotion's share against gender's (F26)")
    mix: Literal["losses", "targets"] = Field("losses", description="gemo: ML mixes two losses, SL one target (F26)")
    beta: Number = Field(0.5, ge=0, le=1, description="smooth: the share of the self-similarities (F27)")
    gamma: Number = Field(0.1, ge=0, le=1, description="smooth: the text's share of the self-similarities (F27)")
    temperature: Number = Field(0.07, gt=0, description="smooth: of the self-similarities (F27)")
    kernel_width: Number = Field(0.7, gt=0, description="kernel: h of exp(-d^2 / 2 h^2), d on the 1-7 plane")
    class_share: Number = Field(0.0, ge=0, le=1, description="kernel: the share of SupCon's targets in the sum")


class GridConfig(Model):
    """Texts of the whole valence-arousal plane in every batch (captions.grid)."""

    texts: Whole = Field(0, ge=0, le=2**16, description="sentences of the training grammar drawn anew each step")
    share: Number = Field(1.0, ge=0, description="weight of their loss; a custom loss gets the texts alone")
    width: Number = Field(0.7, gt=0, description="h of exp(-d^2 / 2 h^2), d on the 1-7 plane")
    classes: Number = Field(
        0.0, ge=0, description="weight of the loss of texts that name a category, in other templates than the test's"
    )

    @model_validator(mode="after")
    def _classes_come_with_texts(self) -> GridConfig:
        if self.classes and not self.texts:
            raise ValueError("classes without texts: set grid.texts too")
        return self


class RidgeConfig(Model):
    """Ridge regressions of valence and arousal from speech and from text: a method without gradient steps."""

    name: Literal["ridge"]
    texts: Literal["grid", "captions"] = Field(
        "grid", description="what the text side is fitted on: the whole training grammar, or the corpus's own captions"
    )


def _require_plugin(kind: Kind, name: str) -> None:
    """Raises ValueError for a name that is neither built in nor registered."""
    try:
        if name not in BUILT_IN[kind]:
            find(kind, name)
    except UsageError as error:
        raise ValueError(f"{error.found}; {error.action}") from None


def _encoder_name(kind: Kind) -> AfterValidator:
    def check(name: str, info: ValidationInfo) -> str:
        if not is_valid_name(name) or info.context == REQUIRE_PLUGINS:
            _require_plugin(kind, name)
        return name

    return AfterValidator(check)


class CustomObjectiveConfig(Model):
    """A custom loss, by its registered name (docs/objectives.md)."""

    name: str
    version: Whole | None = Field(None, validate_default=True, description="of the code; none is what is registered")
    settings: dict[str, SettingValue] = Field({}, validate_default=True, description="named arguments of the loss")

    @model_validator(mode="before")
    @classmethod
    def _name_is_registered(cls, config: Any, info: ValidationInfo) -> Any:
        if info.context == REQUIRE_PLUGINS and isinstance(config, Mapping):
            _require_plugin("objective", config["name"])
            settings = find("objective", config["name"]).settings.keys() - cls.model_fields
            for key in config:
                if key in settings:
                    raise ValueError(f"a setting of a custom loss belongs under settings: objective.settings.{key}")
        return config

    @field_validator("version")
    @classmethod
    def _version_is_registered(cls, version: int | None, info: ValidationInfo) -> int | None:
        if info.context != REQUIRE_PLUGINS or "name" not in info.data:
            return version
        registered = find("objective", info.data["name"]).version
        if version not in (None, registered):
            raise ValueError(f"the code that is registered is version {registered}; leave it out, or restore the code")
        return registered

    @field_validator("settings")
    @classmethod
    def _settings_fit_the_loss(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.context != REQUIRE_PLUGINS or "name" not in info.data:
            return settings
        return check_settings(find("objective", info.data["name"]), settings)


def _objective_tag(config: Any) -> str | None:
    """Which model checks an objective's config; None where it has no valid name."""
    name = config.get("name") if isinstance(config, Mapping) else getattr(config, "name", None)
    if name in BUILT_IN["objective"]:
        return str(name)
    return CUSTOM_OBJECTIVE if is_valid_name(name) else None


AnyObjective = RankingConfig | SoftTargetsConfig | RidgeConfig | CustomObjectiveConfig
ObjectiveConfig = Annotated[
    Annotated[RankingConfig, Tag("rank_n_contrast")]
    | Annotated[SoftTargetsConfig, Tag("soft_targets")]
    | Annotated[RidgeConfig, Tag("ridge")]
    | Annotated[CustomObjectiveConfig, Tag(CUSTOM_OBJECTIVE)],
    Discriminator(_objective_tag, "no_name", "it has no name, such as rank_n_contrast or soft_targets"),
]

_Point = Annotated[Number, Field(ge=-1e6, le=1e6)]
_Share = Annotated[Number, Field(ge=0, le=1)]


class CorpusConfig(Model):
    """Where the labels are and how they are read."""

    reader: Literal["msp_podcast", "iemocap", "ravdess", "emodb", "cremad", "tess", "manifest"] = "manifest"
    root: Path | None = Field(None, description="the corpus folder; audio paths are relative to it")
    manifest: Path | None = Field(None, description="the CSV or JSONL file of reader `manifest`")
    scale: tuple[_Point, _Point] | None = Field(
        None, description="lowest and highest label, mapped to 1-7; none is the corpus's, or 1-7 for a manifest"
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
    files: tuple[Path, ...] = Field((), description="captions of write-captions or your own, in place of the built-in")
    per_utterance: Whole = Field(4, ge=1, le=8, description="paraphrases linked to one utterance")
    prompt_variants: Whole = Field(8, ge=1, le=8, description="paraphrases of each prompt of the ordinality test (F13)")
    grid: bool = Field(
        True, description="whole-grammar texts, for text sides trained on the whole plane and for folds (dimensional)"
    )
    lexicon: Path | None = Field(None, description="the NRC word-level file, for clap4emo; none is a small one here")
    word_norms: Path | None = Field(
        None, description="a CSV of rated words (word, valence, arousal), for prompts by other hands; none makes none"
    )
    word_norms_scale: tuple[_Point, _Point] = Field((1, 9), description="lowest and highest rating, mapped to 1-7")
    quantiles: tuple[_Share, _Share] = Field((0.3, 0.7), description="below is low, above is high, for acoustic (F28)")
    acoustic_labels: tuple[Literal["emotion", "gender"], ...] = Field(
        ("emotion", "gender"), description="labels in captions of the acoustic style; () describes the voice alone"
    )
    seed: Seed = 0

    @field_validator("word_norms_scale")
    @classmethod
    def _low_comes_first(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("the lowest rating comes first, and is below the highest")
        return scale


class AudioConfig(Model):
    """The frozen speech encoder and what it is fed (F2, F9, F17-F19, F35-F36)."""

    encoder: Annotated[str, _encoder_name("audio encoder")] = Field(
        "embedded",
        description="built in, or a custom one (docs/encoders.md)",
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

    encoder: Annotated[str, _encoder_name("text encoder")] = Field(
        "embedded",
        description="built in, or a custom one (docs/encoders.md)",
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
    grid: GridConfig = GridConfig()
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
    start: Literal["random", "ridge"] = Field(
        "random", description="of the heads; ridge: units of the plane that ridge regressions find on both sides"
    )
    norm: Literal["none", "centre", "batch"] = Field(
        "none", description="of each unit over the batch, before its bias and activation; folded into the saved heads"
    )
    temperature: Number = Field(1.0, gt=0, description="at the start (F8)")
    temperature_schedule: Literal["learned", "fixed", "cosine"] = Field(
        "learned", description="cosine: from temperature to temperature_end over the training"
    )
    temperature_end: Number = Field(0.1, gt=0, description="of the cosine schedule")
    threads: Annotated[Whole, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto measures. Equal bits need equal threads"
    )
    step: Literal["auto", "reference"] = Field("auto", description="reference: plain autograd, slower; to check")
    memory: Literal["auto", "resident", "disk"] = Field(
        "auto", description="speech vectors in memory, or read from disk in shuffled blocks; auto: by what is free"
    )
    shuffle_seed: Seed | None = Field(None, description="of the batches; none is each training's (a sweep shares one)")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)

    @property
    def last_epoch(self) -> int:
        """Of the training; a closed form has one."""
        return 1 if isinstance(self.objective, RidgeConfig) else self.epochs


class EvaluateConfig(Model):
    """Both tests of the paper (F12, F13)."""

    split: str | None = Field(None, description="test1 where there is one, else test")
    style: str = Field("dimensional", description="of the captions for alignment and of the prompts for ordinality")
    trials: Whole = Field(30, ge=1)
    pairs: Whole = Field(5000, ge=2)
    mmd_gamma: Number | Literal["median"] = Field(1.0, description="k(x, y) = exp(-gamma |x - y|^2)")
    projections: Whole = Field(256, ge=1, description="directions of the sliced Wasserstein distance")
    lists: Whole = Field(100, ge=1)
    seed: Seed = 0
