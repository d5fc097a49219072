"""Captions: the texts of each utterance and the prompts that ask for a point of the valence-arousal plane."""

from __future__ import annotations

from pipeline.data.captions.assign import STYLES, assign_captions
from pipeline.data.captions.base import Acoustics, CaptionSource, Style

__all__ = ["STYLES", "Acoustics", "CaptionSource", "Style", "assign_captions"]
