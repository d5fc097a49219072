"""The config of an extraction: presets, files and the command line's choices, and what a folder of stores decides."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache.reader import Store
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import load_config, merge, validate
from pipeline.core.errors import EmotionRankError


def resolve_extraction(
    config: str | Path | ExtractConfig,
    *,
    audio_root: str | Path | None = None,
    encoders: str | None = None,
    overrides: Sequence[str] = (),
) -> ExtractConfig:
    """The config of a preset, a YAML file or a manifest, with the command line's choices laid on top."""
    if not isinstance(config, ExtractConfig):
        named = [str(config), *([f"encoders/{encoders}"] if encoders else [])]
        config = load_config(ExtractConfig, named, overrides, kind="corpora")
    if audio_root is not None:
        tree = merge(config.model_dump(mode="json"), {"corpus": {"root": str(audio_root)}})
        config = validate(ExtractConfig, tree, subject="--audio-root")
    return config


def with_layers(config: ExtractConfig, out: Path, *, fresh: bool = False) -> ExtractConfig:
    """`config` with `audio.layers=auto` decided: as the stores in `out` have it, else all layers where they are cheap.

    All of the embedded encoder and of the paper's, but for a `layer` or a `pooling` that asks for one vector.
    """
    audio = config.audio
    if audio.layers != "auto":
        return config
    layers: Any = "all" if audio.encoder in ("embedded", "wavlm_ser") else None
    if audio.layer is not None or audio.pooling != "mean":
        layers = None
    elif not fresh and (out / "audio.h5").exists():
        with suppress(EmotionRankError):  # whoever opens it to write says what is wrong
            axes = Store.open(out / "audio.h5").axes
            layers = None if axes is None else "all" if axes.layers[-1] + 1 == len(axes.layers) > 1 else axes.layers
    return config.model_copy(update={"audio": audio.model_copy(update={"layers": layers})})
