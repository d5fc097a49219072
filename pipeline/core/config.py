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
        "manifest", description="whose files and labels are read; manifest: a table of your own"
    )
    root: Path | None = Field(None, description="the corpus folder; audio paths are relative to it")
    manifest: Path | None = Field(None, description="the CSV or JSONL file of reader `manifest`")
    scale: tuple[_Point, _Point] | dict[Literal["valence", "arousal", "dominance"], tuple[_Point, _Point]] | None = (
        Field(
            None,
            description="lowest and highest label, mapped to 1-7, of all or by name, {arousal: [1, 9]}; none is the "
            "corpus's, or 1-7 for a manifest whose labels do not look like another scale",
        )
    )
    spellings: Literal["one", "as_given"] = Field(
        "one", description="reader `manifest`: one name for Happy, happiness and joy, or emotions as they are spelt"
    )
    audio_dir: str | None = Field(
        None, description="reader `msp_podcast`: the folder of the audio, below the root; none is Audios or Audio"
    )
    channel: Literal["mean", "left", "right"] | Annotated[Whole, Field(ge=1, le=1024)] = Field(
        "mean", description="of audio with several: their mean, or one, by its number from 1"
    )
    keep_undecided: bool = Field(
        False,
        description="readers `msp_podcast` and `iemocap`: turns whose raters agree on no emotion, or on another one, "
        "stay with their valence and arousal, without an emotion; the papers drop them (F10)",
    )
    transcripts: bool = Field(
        False,
        description="reader `msp_podcast`: read Transcripts/*.txt; a manifest has them in its column `transcript`",
    )
    missing_audio: Literal["error", "drop"] = Field(
        "error", description="of utterances whose audio is not there: refuse them, or leave them out"
    )
    outside_root: bool = Field(False, description="reader `manifest`: audio paths may lead out of the root")
    merge: dict[str, str] = Field({}, description="an emotion -> the one it counts as, e.g. {excited: happy} (F26)")
    keep: tuple[str, ...] | None = Field(
        None, min_length=1, description="only utterances of these emotions, after merging; none keeps all"
    )

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
        description="what captions speak of: valence and arousal, the emotion's name, its words in a lexicon, the "
        "voice's acoustics; file: what captions.files hold",
    )
    files: tuple[Path, ...] = Field((), description="captions of write-captions or your own, in place of the built-in")
    per_utterance: Whole = Field(4, ge=1, le=8, description="paraphrases linked to one utterance")
    prompt_variants: Whole = Field(8, ge=1, le=8, description="paraphrases of each prompt of the ordinality test (F13)")
    grid: bool = Field(
        True, description="whole-grammar texts, for text sides trained on the whole plane and for folds (dimensional)"
    )
    lexicon: Path | None = Field(None, description="the NRC word-level file, for clap4emo; none is a small one here")
    word_norms: Path | None = Field(
        None, description="a CSV of rated words (word, valence, arousal, perhaps dominance), for prompts by other hands"
    )
    word_norms_scale: tuple[_Point, _Point] = Field((1, 9), description="lowest and highest rating, mapped to 1-7")
    quantiles: tuple[_Share, _Share] = Field((0.3, 0.7), description="below is low, above is high, for acoustic (F28)")
    acoustic_labels: tuple[Literal["emotion", "gender"], ...] = Field(
        ("emotion", "gender"), description="labels in captions of the acoustic style; [] describes the voice alone"
    )
    seed: Seed = Field(0, description="of the draw of paraphrases")

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
        description="built in, or a custom one (docs/encoders.md)",
        examples=[*BUILT_IN["audio encoder"]],
    )
    model: str | None = Field(None, description="folder or hub name (the embedded encoder has none)")
    revision: str | None = Field(None, description="of a hub model: branch, tag or commit; none is its main branch")
    layer: Whole | None = Field(None, description="hidden state to pool; negative counts from the last")
    pooling: Literal["mean", "hidden", "mean_std"] = Field(
        "mean", description="of the frames to one vector; hidden: wavlm_ser's last layer before its labels"
    )
    layers: Literal["auto", "all"] | tuple[Whole, ...] | None = Field(
        "auto",
        min_length=1,
        description="hidden states that a row holds side by side, of which training chooses; null: one vector a row; "
        "auto: all of the embedded encoder and of wavlm_ser, unless layer or pooling ask for one",
    )
    poolings: tuple[Literal["mean", "std"], ...] = Field(("mean",), min_length=1, description="of each of layers")
    padding: Literal["masked", "fixed_masked", "fixed"] = Field(
        "masked", description="masked: to the batch's longest; fixed: zero-padded to max_seconds, unmasked (F9)"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the products; norms and residuals are float32. auto: bfloat16 for a WavLM on CUDA"
    )
    max_seconds: Number = Field(
        10.0, gt=0, le=30.0, description="of a clip, which are encoded; a longer one is cropped"
    )
    crop: Literal["start", "center"] = Field("start", description="which part of a longer clip")
    batch_seconds: Annotated[Number, Field(ge=0, le=1e6)] | Literal["auto"] = Field(
        "auto", description="padded seconds of audio in one batch; auto: one clip on a CPU, 160 s on CUDA"
    )


class TextConfig(Model):
    """The frozen text encoder (F3, F37)."""

    encoder: Annotated[str, encoder_name("text encoder")] = Field(
        "embedded",
        description="built in, or a custom one (docs/encoders.md)",
        examples=[*BUILT_IN["text encoder"]],
    )
    model: str | None = Field(None, description="folder or hub name (the embedded encoder has none)")
    revision: str | None = Field(None, description="of a hub model: branch, tag or commit; none is its main branch")
    pooling: Literal["auto", "cls", "mean"] = Field(
        "auto", description="auto: as a sentence-transformers folder was published, else the mean"
    )
    layers: Literal["all"] | tuple[Whole, ...] | None = Field(
        None, min_length=1, description="hidden states that a row holds side by side; none: the last one alone"
    )
    poolings: tuple[Literal["cls", "mean"], ...] = Field((), description="of each of layers, beside pooling")
    prefix: str | None = Field(
        None,
        max_length=1000,
        description="before every text, as `query: ` of e5; none is the folder's own prompt",
    )
    max_tokens: Whole = Field(512, ge=8, description="of a text, which are encoded; the rest is cut off")
    batch_size: Whole = Field(64, ge=1, description="texts in one batch")


class ExtractConfig(Model):
    """Stage one: corpus, captions, encoders."""

    corpus: CorpusConfig = CorpusConfig()
    captions: CaptionsConfig = CaptionsConfig()
    audio: AudioConfig = AudioConfig()
    text: TextConfig = TextConfig()
    store_dtype: Literal["float32", "float16"] = Field("float32", description="of the vectors on disk")


class VectorsConfig(Model):
    """Which vectors of a layered row a side trains on. Rows of one vector have no choice."""

    layers: Literal["default", "last", "weighted"] | Whole | tuple[Literal["default", "last"] | Whole, ...] = Field(
        "default",
        description="hidden states: default (the encoder's own vector, or its usual layer), last, a number, several "
        "(concatenated), or weighted: the sum of all, its weights learned",
    )
    pooling: Literal["default", "mean", "std", "mean_std", "cls"] = Field("default", description="default: the first")

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

    method: str = Field("emotionrankclap", description="name of the run in tables; a preset gives its own")
    style: str = Field("dimensional", description="of the captions that are trained on")
    speech: VectorsConfig = VectorsConfig()
    text: VectorsConfig = VectorsConfig()
    objective: ObjectiveConfig = RankingConfig()
    grid: GridConfig = GridConfig()
    gap: GapConfig = GapConfig()
    width: Whole = Field(512, ge=1, le=2**16, description="of the shared space")
    activation: Literal["relu", "identity"] = Field("relu", description="of each head, after its one linear layer")
    standardise: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: the embedded encoders' features only (F36); the paper has none"
    )
    learning_rate: Number = Field(1e-4, gt=0, description="of Adam")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="of the learning rate")
    warmup: Number = Field(0.0, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: Number = Field(0.0, ge=0, description="L2 penalty, added to the gradient as Adam does")
    batch_size: Whole = Field(64, ge=2, description="pairs in one batch")
    epochs: Whole = Field(15, ge=1, description="passes over the training pairs")
    min_steps: Whole = Field(
        0, ge=0, description="where there are fewer steps, batches of an eighth of the pairs at most, then more epochs"
    )
    balance: Literal["none", "corpus"] = Field(
        "none", description="corpus: as many utterances of each of several stores in a batch; an epoch stays as long"
    )
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
        "auto", description="CPU threads; auto measures long trainings. Equal bits need equal threads"
    )
    step: Literal["auto", "reference", "fused"] = Field(
        "auto",
        description="auto: float32 by PyTorch; fused: products in bfloat16, compiled on first use, on a CPU, faster; "
        "reference: plain autograd, slower, to check",
    )
    memory: Literal["auto", "resident", "disk"] = Field(
        "auto", description="speech vectors in memory, or read from disk in shuffled blocks; auto: by what is free"
    )
    shuffle_seed: Seed | None = Field(None, description="of the batches; none is each training's (a sweep shares one)")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="a training each")

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

    split: str | None = Field(None, description="test1 where there is one, else test")
    style: str = Field("dimensional", description="of the captions for alignment and of the prompts for ordinality")
    trials: Whole = Field(30, ge=1, description="draws of pairs for each distance of alignment")
    pairs: Whole = Field(5000, ge=2, description="in one draw, at most")
    mmd_gamma: Number | Literal["median"] = Field(1.0, description="k(x, y) = exp(-gamma |x - y|^2)")
    projections: Whole = Field(256, ge=1, description="directions of the sliced Wasserstein distance")
    lists: Whole = Field(100, ge=1, description="of prompts, in each of the tests AOC and VOC")
    bootstrap: Whole = Field(
        500, ge=0, description="resamples of the test speakers, for intervals that speak of other speech; 0 makes none"
    )
    seed: Seed = Field(0, description="of all draws")
