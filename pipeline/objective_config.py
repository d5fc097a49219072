"""What a config says of the objective: one of the two built-in families, or one of the user's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from pipeline.config_types import Model, Number, Whole
from pipeline.own_parts import ASKED, OWN, Setting, known_objective, objective_tag, settings_of, version_of


class RankingConfig(Model):
    """Rank-N-Contrast over any labels; the paper's are valence and arousal in the plane (F4-F8)."""

    name: Literal["rank_n_contrast"] = "rank_n_contrast"
    labels: tuple[Literal["valence", "arousal", "dominance"], ...] = Field(("valence", "arousal"), min_length=1)
    weights: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(
        None, description="of the labels, in their order; none is equal"
    )
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
    alpha: Number = Field(1.0, ge=0, le=1, description="gemo: emotion's share against gender's (F26)")
    mix: Literal["losses", "targets"] = Field("losses", description="gemo: ML mixes two losses, SL one target (F26)")
    beta: Number = Field(0.5, ge=0, le=1, description="smooth: the share of the self-similarities (F27)")
    gamma: Number = Field(0.1, ge=0, le=1, description="smooth: the text's share of the self-similarities (F27)")
    temperature: Number = Field(0.07, gt=0, description="smooth: of the self-similarities (F27)")


class OwnObjectiveConfig(Model):
    """A loss of one's own, by its registered name (docs/objectives.md)."""

    name: str
    version: Whole | None = Field(None, validate_default=True, description="of the code; none is what is registered")
    settings: dict[str, Setting] = Field({}, validate_default=True, description="named arguments of the loss")

    @field_validator("version", "settings")
    @classmethod
    def _as_registered(cls, given: Any, info: ValidationInfo) -> Any:
        if info.context != ASKED or "name" not in info.data:
            return given
        return (version_of if info.field_name == "version" else settings_of)(info.data["name"], given)


AnyObjective = RankingConfig | SoftTargetsConfig | OwnObjectiveConfig
ObjectiveConfig = Annotated[
    Annotated[RankingConfig, Tag("rank_n_contrast")]
    | Annotated[SoftTargetsConfig, Tag("soft_targets")]
    | Annotated[OwnObjectiveConfig, BeforeValidator(known_objective), Tag(OWN)],
    Discriminator(objective_tag, "no_name", "it has no name, such as rank_n_contrast or soft_targets"),
]
