"""Emotional CLAP for speech: encode once, train heads in seconds.

    from pipeline import EmotionRankCLAP, extract, train, evaluate
    extract("msp_podcast", out="stores/msp", audio_root="/data/MSP-PODCAST")
    run = train("stores/msp", method="emotionrankclap", seeds=5, out="runs/erc")
    print(evaluate(run))
    model = EmotionRankCLAP.from_pretrained("runs/erc")
    model.similarity(model.encode_text(["The person is speaking calmly."]), model.encode_speech(["clip.wav"]))

Names are imported when they are used: `--help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cross_validation import cross_validate as cross_validate
    from pipeline.evaluation.evaluate import evaluate as evaluate
    from pipeline.extraction import extract as extract
    from pipeline.method_comparison import compare as compare
    from pipeline.model import EmotionRankCLAP as EmotionRankCLAP
    from pipeline.retrieval import search as search
    from pipeline.sweeps.sweep import sweep as sweep
    from pipeline.training import train as train

_HOME = {
    "EmotionRankCLAP": "pipeline.model",
    "compare": "pipeline.method_comparison",
    "cross_validate": "pipeline.cross_validation",
    "evaluate": "pipeline.evaluation.evaluate",
    "extract": "pipeline.extraction",
    "search": "pipeline.retrieval",
    "sweep": "pipeline.sweeps.sweep",
    "train": "pipeline.training",
}
__all__ = ["EmotionRankCLAP", "compare", "cross_validate", "evaluate", "extract", "search", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
