"""Captions: the texts of each utterance and the prompts that ask for a point of the valence-arousal plane."""

from pipeline.captions.plan import STYLES, plan_captions
from pipeline.captions.source import Acoustics, Source, Style

__all__ = ["STYLES", "Acoustics", "Source", "Style", "plan_captions"]
