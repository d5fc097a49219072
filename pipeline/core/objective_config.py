"""The objectives, a typed model each, and the texts of the whole plane that may stand beside any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from pipeline.core.config_files import REQUIRE_PLUGINS, Model, Number, Whole, require_plugin
from pipeline.core.plugins import BUILT_IN, CUSTOM_OBJECTIVE, SettingValue, check_settings, find, is_valid_name


class RankingConfig(Model):
    """Rank-N-Contrast over any labels; the paper's are valence and arousal in the plane (F4-F8)."""

    name: Literal["rank_n_contrast"] = Field("rank_n_contrast", description="chooses this loss")
    labels: tuple[Literal["valence", "arousal", "dominance"], ...] = Field(
        ("valence", "arousal"), min_length=1, description="labels whose distance orders the texts"
    )
    weights: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(
        None, description="weights of the labels, in their order; null: equal weights"
    )
    distance: Literal["l2", "l1"] = Field(
        "l2", description="distance of labels: l2 (Euclidean) or l1 (sum of absolute differences)"
    )
    denominator: Literal["at_least", "beyond", "beyond_and_self"] = Field(
        "at_least",
        description="texts in the denominator of a positive at distance d: at >= d, > d, or > d and the positive (F5)",
    )
    symmetric: bool = Field(False, description="add the loss from text to audio")

    @model_validator(mode="after")
    def _one_weight_per_label(self) -> RankingConfig:
        if self.weights is not None and len(self.weights) != len(self.labels):
            raise ValueError(f"{len(self.weights)} weights for {len(self.labels)} labels")
        return self


class SoftTargetsConfig(Model):
    """One similarity matrix, one target matrix, one divergence (F23-F27)."""

    name: Literal["soft_targets"] = Field(description="chooses this loss")
    targets: Literal["identity", "same_emotion", "gemo", "smooth", "kernel"] = Field(
        "identity",
        description="targets. identity: each pair alone (CLAP); same_emotion: pairs of one emotion (SupCon); gemo: "
        "emotion and gender; smooth: self-similarities; kernel: by the distance of the labels",
    )
    divergence: Literal["cross_entropy", "kl"] = Field(
        "cross_entropy", description="divergence of the similarities' softmax from the targets"
    )
    alpha: Number = Field(1.0, ge=0, le=1, description="gemo: share of emotion; gender has the rest (F26)")
    mix: Literal["losses", "targets"] = Field(
        "losses", description="gemo: mix the two losses (ML) or the two target matrices (SL) (F26)"
    )
    beta: Number = Field(0.5, ge=0, le=1, description="smooth: share of the self-similarities in the targets (F27)")
    gamma: Number = Field(0.1, ge=0, le=1, description="smooth: share of text in the self-similarities (F27)")
    temperature: Number = Field(0.07, gt=0, description="smooth: temperature of the self-similarities (F27)")
    kernel_width: Number = Field(
        0.7, gt=0, description="kernel: bandwidth h of exp(-d^2 / 2 h^2), with the distance d on the 1-7 plane"
    )
    class_share: Number = Field(0.0, ge=0, le=1, description="kernel: share of the targets of same_emotion in the sum")
    votes: bool = Field(
        False,
        description="use the shares of the raters' votes as an utterance's category, where they are known; for "
        "same_emotion, gemo and kernel with class_share",
    )

    @model_validator(mode="after")
    def _votes_are_for_categories(self) -> SoftTargetsConfig:
        without = self.targets in ("identity", "smooth") or (self.targets == "kernel" and not self.class_share)
        if self.votes and without:
            found = f"targets {self.targets}{' without class_share' if self.targets == 'kernel' else ''}"
            raise ValueError(f"votes: {found} have no categories; same_emotion, gemo and kernel do")
        return self


class GridConfig(Model):
    """Texts of the whole valence-arousal plane in every batch (captions.grid)."""

    texts: Whole = Field(
        0, ge=0, le=2**16, description="sentences of the training grammar to draw in each step; 0: none"
    )
    share: Number = Field(
        1.0, ge=0, description="weight of the loss of these texts; a custom loss gets the texts without it"
    )
    width: Number = Field(
        0.7, gt=0, description="bandwidth h of exp(-d^2 / 2 h^2), with the distance d on the 1-7 plane"
    )
    classes: Number = Field(
        0.0, ge=0, description="weight of the loss of texts that name a category, in other templates than the test's"
    )

    @model_validator(mode="after")
    def _classes_come_with_texts(self) -> GridConfig:
        if self.classes and not self.texts:
            raise ValueError("classes without texts: set grid.texts too")
        return self


class GapConfig(Model):
    """A penalty on the gap between the modalities, added to any objective; 0: no penalty."""

    centroid: Number = Field(
        0.0, ge=0, description="weight of the squared distance of the batch's speech and text centroids"
    )
    covariance: Number = Field(0.0, ge=0, description="weight of the squared distance of their covariances")


class RidgeConfig(Model):
    """Ridge regressions of valence and arousal from speech and from text: a method without gradient steps."""

    name: Literal["ridge"] = Field(description="chooses this method")
    texts: Literal["grid", "captions"] = Field(
        "grid", description="texts for the text regression: the whole training grammar, or the corpus's own captions"
    )


class NoHeadsConfig(Model):
    """No heads at all: vectors of two encoders that share a space already, such as another CLAP's, as they are."""

    name: Literal["no_heads"] = Field(description="chooses this method")


CLOSED_FORMS = RidgeConfig, NoHeadsConfig  # which take no steps


class CustomObjectiveConfig(Model):
    """A custom loss, by its registered name (docs/objectives.md)."""

    name: str = Field(description="name under which the plugin registered it")
    version: Whole | None = Field(
        None, validate_default=True, description="version of the code; null: the registered one"
    )
    settings: dict[str, SettingValue] = Field({}, validate_default=True, description="named arguments of the loss")

    @model_validator(mode="before")
    @classmethod
    def _name_is_registered(cls, config: Any, info: ValidationInfo) -> Any:
        if info.context == REQUIRE_PLUGINS and isinstance(config, Mapping):
            require_plugin("objective", config["name"])
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


AnyObjective = RankingConfig | SoftTargetsConfig | RidgeConfig | NoHeadsConfig | CustomObjectiveConfig
ObjectiveConfig = Annotated[
    Annotated[RankingConfig, Tag("rank_n_contrast")]
    | Annotated[SoftTargetsConfig, Tag("soft_targets")]
    | Annotated[RidgeConfig, Tag("ridge")]
    | Annotated[NoHeadsConfig, Tag("no_heads")]
    | Annotated[CustomObjectiveConfig, Tag(CUSTOM_OBJECTIVE)],
    Discriminator(_objective_tag, "no_name", "it has no name, such as rank_n_contrast or soft_targets"),
]
