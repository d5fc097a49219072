"""What an extraction is of: its config, by presets, files, options and stores there are; its labels and captions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache.captions import Captions
from cache.manifest import Manifest
from cache.reader import Store
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import load_config, merge, validate
from pipeline.core.errors import EmotionRankError, ManyProblems, UsageError
from pipeline.data.captions import Acoustics, CaptionSource, assign_captions
from pipeline.data.captions.word_norms import WORD_NORMS
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.data_tables import DataTable, is_table
from pipeline.data.corpora.make_manifest import table_manifest

log = logging.getLogger(__name__)

ACOUSTIC = "acoustic"  # the caption style that is written from acoustic features


def with_table_written(
    config: str | Path | ExtractConfig | DataTable, folder: Path, audio_root: str | Path | None
) -> tuple[Any, str | Path | None]:
    """`config` and `audio_root`; of a table in memory the manifest in `folder` that it is written as, and its root."""
    return table_manifest(config, folder, audio_root) if is_table(config) else (config, audio_root)


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


def read_labels(config: ExtractConfig, *, strict: bool = False) -> tuple[Manifest, Captions]:
    """Read the corpus and plan its captions, but acoustic ones; log what was found.

    With `strict` a corpus is refused of which voices, recordings or sentences stand in more than one split.
    """
    manifest = read_corpus(config.corpus)
    for note in manifest.notes:
        log.log(logging.WARNING if note.startswith("WARNING") else logging.INFO, note)
    if strict and manifest.leaks:
        subject = config.corpus.manifest or config.corpus.root
        action = "Correct the splits, or leave --strict out."
        raise ManyProblems(subject, [f"{subject}: {leak}" for leak in manifest.leaks], action)
    if not len(manifest):
        subject = config.corpus.manifest or config.corpus.root
        raise UsageError(subject, "no utterances", "at least one", "Check the corpus.")
    captions = plan_captions(manifest, config)
    norms = captions.prompts.of_style(WORD_NORMS)
    if norms:
        words = norms.columns["variant"].count(0)
        log.info(f"{config.captions.word_norms}: {words:,} words for the ordinality test, {len(norms):,} prompts")
    return manifest, captions


def plan_captions(manifest: Manifest, config: ExtractConfig, acoustics: Acoustics | None = None) -> Captions:
    """The captions of every style; without `acoustics`, of those that need none."""
    styles = tuple(style for style in config.captions.styles if acoustics or style != ACOUSTIC)
    return assign_captions(CaptionSource(manifest, acoustics), config.captions.model_copy(update={"styles": styles}))
