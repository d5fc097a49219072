"""Emotional CLAP for speech: encode once, train heads in seconds.

    from pipeline import EmotionRankCLAP, extract, train, evaluate
    extract("msp_podcast", out="stores/msp", audio_root="/data/MSP-PODCAST")
    run = train("stores/msp", method="emotionrankclap", seeds=5, out="runs/erc")
    print(evaluate(run))
    model = EmotionRankCLAP.from_pretrained("runs/erc")
    model.similarity(model.encode_text(["The person is speaking calmly."]), model.encode_speech(["clip.wav"]))

Every command is a function here, and every option of it an argument (docs/python.md):

    make-manifest       make_manifest
    write-captions      write_captions, plan_write_captions (--dry-run)
    extract-features    extract, plan_extraction (--dry-run), status_of, verify, verify_sources (--verify=deep), digest
    train-heads         train
    evaluate-heads      evaluate, evaluation_report, write_challenge (--challenge)
    compare-methods     compare, comparison_report; with --folds cross_validate, folds_report
    sweep-heads         sweep
    search-speech       search, describe; for repeated queries SpeechIndex, CaptionIndex, Filter; serve (--serve)
    run-demo            run_demo

`plot` draws the reports' figures, each by a function of its own. Custom encoders and objectives:
register_audio_encoder, register_text_encoder, register_objective, and load_plugins (--plugin). `EmotionRankCLAP` is a
trained model with its encoders, `MtebEncoder` the same for mteb's tasks. Errors that a user can act on are
`cache.EmotionRankError`, one line with its `exit_code`. Names are imported when they are used: `--help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read
    from pipeline.core.plugins import load_plugins as load_plugins
    from pipeline.core.plugins import register_audio_encoder as register_audio_encoder
    from pipeline.core.plugins import register_objective as register_objective
    from pipeline.core.plugins import register_text_encoder as register_text_encoder
    from pipeline.data.captions.llm.write import plan_write_captions as plan_write_captions
    from pipeline.data.captions.llm.write import write_captions as write_captions
    from pipeline.data.corpora.make_manifest import make_manifest as make_manifest
    from pipeline.evaluation.challenge import write_challenge as write_challenge
    from pipeline.evaluation.evaluate import evaluate as evaluate
    from pipeline.evaluation.report.comparison_report import comparison_report as comparison_report
    from pipeline.evaluation.report.comparison_report import folds_report as folds_report
    from pipeline.evaluation.report.evaluation_report import evaluation_report as evaluation_report
    from pipeline.experiments import plot as plot
    from pipeline.experiments.compare import compare as compare
    from pipeline.experiments.cross_validation import cross_validate as cross_validate
    from pipeline.experiments.demo.demo import run_demo as run_demo
    from pipeline.experiments.sweeps.sweep import sweep as sweep
    from pipeline.extraction.extract import extract as extract
    from pipeline.extraction.plan import plan_extraction as plan_extraction
    from pipeline.extraction.status import status_of as status_of
    from pipeline.extraction.status import verify as verify
    from pipeline.extraction.status import verify_sources as verify_sources
    from pipeline.extraction.store_digest import digest as digest
    from pipeline.inference.filters import Filter as Filter
    from pipeline.inference.model import EmotionRankCLAP as EmotionRankCLAP
    from pipeline.inference.mteb_encoder import MtebEncoder as MtebEncoder
    from pipeline.inference.search import CaptionIndex as CaptionIndex
    from pipeline.inference.search import SpeechIndex as SpeechIndex
    from pipeline.inference.search import describe as describe
    from pipeline.inference.search import search as search
    from pipeline.inference.web.server import serve as serve
    from pipeline.training.callbacks import Callback as Callback
    from pipeline.training.train import train as train

# what Python reads: module -> names
_NAMES = {
    "pipeline.core.plugins": "load_plugins register_audio_encoder register_objective register_text_encoder",
    "pipeline.data.captions.llm.write": "plan_write_captions write_captions",
    "pipeline.data.corpora.make_manifest": "make_manifest",
    "pipeline.evaluation.challenge": "write_challenge",
    "pipeline.evaluation.evaluate": "evaluate",
    "pipeline.evaluation.report.comparison_report": "comparison_report folds_report",
    "pipeline.evaluation.report.evaluation_report": "evaluation_report",
    "pipeline.experiments": "plot",
    "pipeline.experiments.compare": "compare",
    "pipeline.experiments.cross_validation": "cross_validate",
    "pipeline.experiments.demo.demo": "run_demo",
    "pipeline.experiments.sweeps.sweep": "sweep",
    "pipeline.extraction.extract": "extract",
    "pipeline.extraction.plan": "plan_extraction",
    "pipeline.extraction.status": "status_of verify verify_sources",
    "pipeline.extraction.store_digest": "digest",
    "pipeline.inference.model": "EmotionRankCLAP",
    "pipeline.inference.mteb_encoder": "MtebEncoder",
    "pipeline.inference.filters": "Filter",
    "pipeline.inference.search": "CaptionIndex SpeechIndex describe search",
    "pipeline.inference.web.server": "serve",
    "pipeline.training.callbacks": "Callback",
    "pipeline.training.train": "train",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        module = import_module(_MODULE_OF[name])
        return getattr(module, name) if hasattr(module, name) else import_module(f"{module.__name__}.{name}")
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Every public name; `help` imports what is listed, so those of an extra only where it is installed."""
    extras = {"sweep": "optuna", "serve": "uvicorn"}
    missing = {name for name, package in extras.items() if find_spec(package) is None}
    return sorted({*globals(), *__all__} - missing)
