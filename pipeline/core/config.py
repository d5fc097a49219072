"""One small typed model per stage. Defaults are the paper's; unknown keys are refused with a suggestion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cache.layers import LayersChoice
from pipeline.core.config_files import Model, Number, Seed, Whole, encoder_name
from pipeline.core.objective_config import (
    CLOSED_FORMS,
    CustomObjectiveConfig,
    GapConfig,
    GridConfig,
    ObjectiveConfig,
    RankingConfig,
    RidgeConfig,
    SoftTargetsConfig,
)
from pipeline.core.plugins import BUILT_IN, find

SMALL_BATCH = 8  # pairs: a larger configured batch may be cut to what there is, but not to less than two of these

_Point = Annotated[Number, Field(ge=-1e6, le=1e6)]
_Share = Annotated[Number, Field(ge=0, le=1)]


class CorpusConfig(Model):
    """Where the labels are and how they are read."""

    reader: Literal["msp_podcast", "iemocap", "ravdess", "emodb", "cremad", "tess", "manifest"] = Field(
        "manifest", description="the corpus whose files and labels are read; manifest: your own table"
    )
    root: Path | None = Field(None, description="the corpus folder; audio paths are relative to it")
    manifest: Path | None = Field(None, description="the CSV or JSONL file of reader `manifest`")
    scale: tuple[_Point, _Point] | dict[Literal["valence", "arousal", "dominance"], tuple[_Point, _Point]] | None = (
        Field(
            None,
            description="lowest and highest label, mapped to 1-7, for all labels or by name, {arousal: [1, 9]}; null: "
            "the corpus's scale, or 1-7 for a manifest whose labels do not look like another one",
        )
    )
    spellings: Literal["one", "as_given"] = Field(
        "one", description="reader `manifest`: one: Happy, happiness and joy are one emotion; as_given: each is its own"
    )
    audio_dir: str | None = Field(None, description="reader `msp_podcast`: audio folder in root; null: Audios or Audio")
    channel: Literal["mean", "left", "right"] | Annotated[Whole, Field(ge=1, le=1024)] = Field(
        "mean", description="which channel of audio with several: their mean, or one, by its number from 1"
    )
    keep_undecided: bool = Field(
        False,
        description="readers `msp_podcast` and `iemocap`: keep turns whose raters agree on no emotion, or on one "
        "that is not used, with their valence and arousal and without an emotion; the papers drop them (F10)",
    )
    transcripts: bool = Field(
        False,
        description="reader `msp_podcast`: read Transcripts/*.txt; a manifest has them in its column `transcript`",
    )
    missing_audio: Literal["error", "drop"] = Field(
        "error", description="utterances without their audio file: stop with an error, or drop them"
    )
    outside_root: bool = Field(False, description="reader `manifest`: allow audio paths that lead out of the root")
    merge: dict[str, str] = Field({}, description="emotions to merge: {excited: happy} counts excited as happy (F26)")
    keep: tuple[str, ...] | None = Field(None, min_length=1, description="emotions to keep, after merging; null: all")

    @model_validator(mode="after")
    def _settings_are_of_the_reader(self) -> CorpusConfig:
        if self.outside_root and self.reader != "manifest":
            raise ValueError(f"outside_root is for reader manifest; {self.reader} keeps to its folder")
        if self.audio_dir is not None and self.reader != "msp_podcast":
            raise ValueError(f"audio_dir is for reader msp_podcast; {self.reader} knows its own")
        if self.transcripts and self.reader != "msp_podcast":
            raise ValueError(f"transcripts is for reader msp_podcast; {self.reader} reads no folder of them")
        if self.keep_undecided and self.reader not in ("msp_podcast", "iemocap"):
            raise ValueError(
                f"keep_undecided is for readers msp_podcast and iemocap; {self.reader} drops nobody's turn"
            )
        return self


class CaptionsConfig(Model):
    """Which texts describe each utterance."""

    styles: tuple[Literal["dimensional", "template", "clap4emo", "acoustic", "file"], ...] = Field(
        ("dimensional", "template"),
        description="what captions describe. dimensional: valence and arousal; template: the emotion's name; clap4emo: "
        "its words in a lexicon; acoustic: the voice; file: captions of captions.files",
    )
    files: tuple[Path, ...] = Field((), description="caption files whose captions replace the built-in ones")
    per_utterance: Whole = Field(4, ge=1, le=8, description="paraphrases per utterance")
    prompt_variants: Whole = Field(8, ge=1, le=8, description="paraphrases of each prompt of the ordinality test (F13)")
    grid: bool = Field(
        True, description="dimensional: add texts of the whole valence-arousal plane, for grid.texts, ridge and folds"
    )
    lexicon: Path | None = Field(None, description="NRC word-level file, for clap4emo; null: a small built-in one")
    word_norms: Path | None = Field(
        None, description="CSV of rated words (word, valence, arousal, optionally dominance), for independent prompts"
    )
    word_norms_scale: tuple[_Point, _Point] = Field((1, 9), description="range of the ratings, mapped to 1-7")
    quantiles: tuple[_Share, _Share] = Field((0.3, 0.7), description="acoustic: quantiles bounding low and high (F28)")
    acoustic_labels: tuple[Literal["emotion", "gender"], ...] = Field(
        ("emotion", "gender"), description="style acoustic: labels that captions name too; []: the voice alone"
    )
    seed: Seed = Field(0, description="seed for choosing paraphrases")

    @field_validator("word_norms_scale")
    @classmethod
    def _low_comes_first(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("the lowest rating comes first, and is below the highest")
        return scale


class AudioConfig(Model):
    """The frozen speech encoder and what it is fed (F2, F9, F17-F19, F35-F36)."""

    encoder: Annotated[str, encoder_name("audio encoder")] = Field(
        "embedded",
        description="the encoder: a built-in one, or a custom one (docs/encoders.md)",
        examples=[*BUILT_IN["audio encoder"]],
    )
    model: str | None = Field(None, description="model folder or hub name; null: the embedded encoder's")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model; null: its main branch")
    layer: Whole | None = Field(None, description="hidden state to pool; negative: from the last; null: the usual one")
    pooling: Literal["mean", "hidden", "mean_std"] = Field(
        "mean", description="how frames become one vector; hidden: wavlm_ser's last layer before its labels"
    )
    layers: Literal["auto", "all"] | tuple[Whole, ...] | None = Field(
        "auto",
        min_length=1,
        description="hidden states to store per row, among which training chooses; null: one vector per row; auto: all "
        "of the embedded encoder and of wavlm_ser, unless layer or pooling is set",
    )
    poolings: tuple[Literal["mean", "std"], ...] = Field(
        ("mean",), min_length=1, description="poolings to store for each of layers"
    )
    padding: Literal["masked", "fixed_masked", "fixed"] = Field(
        "masked", description="padding. masked: to the batch's longest clip; fixed: zeros to max_seconds, unmasked (F9)"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="type of products; norms and residuals are float32. auto: bfloat16 for a WavLM on CUDA"
    )
    max_seconds: Number = Field(10.0, gt=0, le=30.0, description="seconds encoded of a clip; the rest is cropped")
    crop: Literal["start", "center"] = Field("start", description="which part of a longer clip is kept")
    batch_seconds: Annotated[Number, Field(ge=0, le=1e6)] | Literal["auto"] = Field(
        "auto", description="padded seconds of audio in one batch; auto: one clip on a CPU, 160 s on CUDA"
    )


class TextConfig(Model):
    """The frozen text encoder (F3, F37)."""

    encoder: Annotated[str, encoder_name("text encoder")] = Field(
        "embedded",
        description="the encoder: a built-in one, or a custom one (docs/encoders.md)",
        examples=[*BUILT_IN["text encoder"]],
    )
    model: str | None = Field(None, description="model folder or hub name; null: the embedded encoder's")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model; null: its main branch")
    pooling: Literal["auto", "cls", "mean"] = Field(
        "auto", description="tokens to one vector. auto: as the sentence-transformers folder says, else the mean"
    )
    layers: Literal["all"] | tuple[Whole, ...] | None = Field(
        None, min_length=1, description="hidden states to store per row; null: only the last"
    )
    poolings: tuple[Literal["cls", "mean"], ...] = Field((), description="further poolings stored of each layer")
    prefix: str | None = Field(
        None,
        max_length=1000,
        description="text put before every text, such as e5's `query: `; null: the model folder's own prompt",
    )
    max_tokens: Whole = Field(512, ge=8, description="tokens of a text that are encoded; the rest is cut off")
    batch_size: Whole = Field(64, ge=1, description="texts in one batch")


class ExtractConfig(Model):
    """Stage one: corpus, captions, encoders."""

    corpus: CorpusConfig = CorpusConfig()
    captions: CaptionsConfig = CaptionsConfig()
    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    store_dtype: Literal["float32", "float16"] = Field("float32", description="type of the vectors on disk")


class VectorsConfig(Model):
    """Which vectors of a layered row a side trains on. Rows of one vector have no choice."""

    layers: Literal["default", "last", "weighted"] | Whole | tuple[Literal["default", "last"] | Whole, ...] = Field(
        "default",
        description="hidden states: default (the encoder's own vector, or its usual layer), last, a number, several "
        "(concatenated), or weighted (a weighted sum of all; the weights are learned)",
    )
    pooling: Literal["default", "mean", "std", "mean_std", "cls"] = Field(
        "default", description="pooling of the layers; default: the first that is stored"
    )

    @field_validator("layers")
    @classmethod
    def _at_least_one_layer(cls, layers: str | int | tuple[str | int, ...]) -> str | int | tuple[str | int, ...]:
        if layers == ():
            raise ValueError("no layers")
        return layers

    @property
    def choice(self) -> tuple[LayersChoice, str]:
        """As `cache.layers.select` takes it."""
        return self.layers, self.pooling


class TrainConfig(Model):
    """Stage two: the heads of F1 trained as in F9."""

    method: str = Field("emotionrankclap", description="name of the run in tables; a preset sets its own")
    style: str = Field("dimensional", description="style of the captions to train on")
    speech: VectorsConfig = VectorsConfig()
    text: VectorsConfig = VectorsConfig()
    objective: ObjectiveConfig = RankingConfig()
    grid: GridConfig = GridConfig()
    gap: GapConfig = GapConfig()
    width: Whole = Field(512, ge=1, le=2**16, description="dimension of the shared space (embedding_dim)")
    activation: Literal["relu", "identity"] = Field("relu", description="activation after the linear layer of a head")
    standardise: Literal["auto", "always", "never"] = Field(
        "auto", description="features to standardise; auto: only the embedded encoders' (F36); the paper has none"
    )
    learning_rate: Number = Field(1e-4, gt=0, description="learning rate of Adam")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="schedule of the learning rate")
    warmup: Number = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: Number = Field(0.0, ge=0, description="L2 penalty, added to the gradient as in Adam")
    batch_size: Whole = Field(64, ge=2, description="pairs in one batch")
    epochs: Whole = Field(15, ge=1, description="passes over the training pairs")
    min_steps: Whole = Field(
        0, ge=0, description="least number of steps: batches shrink to an eighth of the pairs, then epochs are added"
    )
    balance: Literal["none", "corpus"] = Field(
        "none", description="corpus: equally many utterances of each of several stores per batch; epochs keep length"
    )
    start: Literal["random", "ridge"] = Field(
        "random", description="initial heads; ridge: their units for valence and arousal are set by ridge regressions"
    )
    norm: Literal["none", "centre", "batch"] = Field(
        "none", description="normalise each unit over the batch, before bias and activation; saved heads include it"
    )
    temperature: Number = Field(1.0, gt=0, description="initial temperature (F8)")
    temperature_schedule: Literal["learned", "fixed", "cosine"] = Field(
        "learned", description="learned, fixed, or on a cosine from temperature to temperature_end over the training"
    )
    temperature_end: Number = Field(0.1, gt=0, description="last temperature of the cosine schedule")
    threads: Annotated[Whole, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto: measured in long trainings. Equal bits need an equal number"
    )
    step: Literal["auto", "reference", "fused"] = Field(
        "auto",
        description="implementation of a training step. auto: float32 in PyTorch; fused: bfloat16 products on a CPU, "
        "compiled on first use, faster; reference: plain autograd, slower, for checks",
    )
    memory: Literal["auto", "resident", "disk"] = Field(
        "auto", description="speech vectors in memory, or read from disk in shuffled blocks; auto: by free memory"
    )
    shuffle_seed: Seed | None = Field(None, description="seed of the order of pairs; null: each training's own")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="seeds; one training is run for each")

    @model_validator(mode="after")
    def _weights_of_layers_are_trained(self) -> TrainConfig:
        weighted = [side for side in ("speech", "text") if getattr(self, side).layers == "weighted"]
        closed_form = isinstance(self.objective, CLOSED_FORMS)
        closed = self.objective.name if closed_form else "the ridge regressions" if self.start == "ridge" else ""
        if weighted and (closed or self.norm != "none"):
            raise ValueError(f"{weighted[0]}.layers: weighted is not for {closed or f'norm {self.norm}'}; list layers")
        return self

    @property
    def last_epoch(self) -> int:
        """Of the training; a closed form has one."""
        return 1 if isinstance(self.objective, CLOSED_FORMS) else self.epochs

    @property
    def required_labels(self) -> tuple[str, ...]:
        """The numeric labels without which a row cannot be trained on. Categories may be unknown (soft_targets)."""
        objective = self.objective
        own: Sequence[str] = ()
        if isinstance(objective, CustomObjectiveConfig):
            own = find("objective", objective.name).labels
        elif isinstance(objective, RankingConfig):
            own = objective.labels
        kernel = isinstance(objective, SoftTargetsConfig) and objective.targets == "kernel"
        in_plane = kernel or isinstance(objective, RidgeConfig) or self.start == "ridge" or self.grid.texts > 0
        return tuple(dict.fromkeys((*own, *(("valence", "arousal") if in_plane else ()))))

    @property
    def sees_raters(self) -> bool:
        """Whether more of the raters than their mean decides on the loss."""
        votes = isinstance(self.objective, SoftTargetsConfig) and self.objective.votes
        return votes or isinstance(self.objective, CustomObjectiveConfig)

    @property
    def needs_grid(self) -> bool:
        """Whether it trains on the whole-grammar texts (captions.grid)."""
        objective = self.objective
        of_plane = objective.texts == "grid" if isinstance(objective, RidgeConfig) else self.start == "ridge"
        return of_plane or self.grid.texts > 0

    def with_min_steps(self, pairs: int) -> TrainConfig:
        """The same, with smaller batches and more epochs where `pairs` give fewer steps than `min_steps`."""
        if max(1, pairs // self.batch_size) * self.epochs >= self.min_steps:
            return self
        size = min(self.batch_size, max(SMALL_BATCH, pairs // 8))
        epochs = max(self.epochs, -(-self.min_steps // max(1, pairs // size)))
        return self.model_copy(update={"batch_size": size, "epochs": epochs})


def kept_as_asked(overrides: Sequence[str]) -> list[str]:
    """`overrides`; one of epochs or of the batch size also ends a preset's `min_steps`, which would change it."""
    asked = any(each.startswith(("epochs=", "batch_size=")) for each in overrides)
    return [*(["min_steps=0"] if asked else []), *overrides]


class EvaluateConfig(Model):
    """Both tests of the paper (F12, F13)."""

    split: str | None = Field(None, description="split to evaluate; null: test1 if the corpus has it, else test")
    style: str = Field("dimensional", description="style of the captions (alignment) and of the prompts (ordinality)")
    trials: Whole = Field(30, ge=1, description="number of draws of pairs for each distance of alignment")
    pairs: Whole = Field(5000, ge=2, description="most pairs in one draw")
    mmd_gamma: Number | Literal["median"] = Field(1.0, description="gamma of the MMD kernel exp(-gamma |x - y|^2)")
    projections: Whole = Field(256, ge=1, description="number of directions of the sliced Wasserstein distance")
    lists: Whole = Field(100, ge=1, description="lists of prompts in each of the tests AOC and VOC")
    bootstrap: Whole = Field(
        500, ge=0, description="resamples of the test speakers, for intervals that cover other speakers; 0: none"
    )
    seed: Seed = Field(0, description="seed of all draws")
