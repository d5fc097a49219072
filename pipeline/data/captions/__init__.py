"""Captions: which texts describe which utterances, and the prompts that ask for a point of the valence-arousal plane.

A style is a function of a `CaptionSource` and the config; registering it in `STYLES` is all that another one needs.
"""

from __future__ import annotations

from cache.captions import Captions
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions.acoustic import assign_acoustic
from pipeline.data.captions.base import Acoustics, CaptionSource, Style
from pipeline.data.captions.category import assign_clap4emo, assign_template
from pipeline.data.captions.dimensional import assign_dimensional
from pipeline.data.captions.files import assign_files
from pipeline.data.captions.word_norms import word_prompts

__all__ = ["STYLES", "Acoustics", "CaptionSource", "Style", "assign_captions"]

STYLES: dict[str, Style] = {
    "dimensional": assign_dimensional,
    "template": assign_template,
    "clap4emo": assign_clap4emo,
    "acoustic": assign_acoustic,
}
FILE = "file"  # the style of a file's lines that name none
_WITH_PROMPTS = ("dimensional", "template")


def assign_captions(source: CaptionSource, config: CaptionsConfig) -> Captions:
    """The captions, prompts and whole-grammar texts of every style in `config`, in its order.

    A function of its arguments alone: the same manifest and config give the same captions, line by line. Raises
    UsageError for a style that is not registered or a label outside 0.5-7. With `config.word_norms` the prompts of
    rated words follow those of the styles.
    """
    from_files = assign_files(source, config)
    styles = dict.fromkeys(config.styles)
    assigned = sum((_assign_style(name, source, config, from_files) for name in styles), Captions())
    return assigned + Captions(prompts=word_prompts(config))


def _assign_style(name: str, source: CaptionSource, config: CaptionsConfig, from_files: Captions) -> Captions:
    """A style's texts in `from_files`, with the built-in prompts and grid where these have none; else the built-in.

    Prompts and grid lines of a style are read beside captions of it; a style without captions in the files is built in.
    """
    captions = from_files.captions.of_style(name)
    if captions:
        built_in = STYLES[name](source, config) if name in _WITH_PROMPTS else Captions()
        prompts, grid = from_files.prompts.of_style(name), from_files.grid.of_style(name)
        return Captions(captions, prompts or built_in.prompts, built_in.classes, grid or built_in.grid)
    if name == FILE:
        found = f"no captions of style {FILE} in captions.files"
        raise UsageError("captions.styles", found, "a file that has them", "Name it: -o captions.files=[mine.jsonl].")
    if name not in STYLES:
        raise UsageError(f"captions.styles: {name}", "no such style", ", ".join((*STYLES, FILE)), "Correct the config.")
    return STYLES[name](source, config)
