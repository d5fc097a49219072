"""Every method in folds: each utterance is tested once, by heads that were trained without its session or speaker.

    compare-methods stores/iemocap sl_gemo_clap emo_clap --folds session
    compare-methods stores/ravdess --folds speaker --training small_corpus

Each fold of each method is a RUN, OUT/METHOD/FOLD, with the fold's evaluation.json. No row that a fold tests is read
before its training has ended. Captions are planned anew in each fold (`pipeline.data.captions.folds`), so that no test
wording is trained on. IEMOCAP's literature (F26) leaves one session out at a time and reports WAR and UAR.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.captions import CLASS_TEMPLATE
from cache.disk import translate_os_errors, write_text, writer_lock
from cache.stores import Stores, open_stores
from pipeline.core.config import EvaluateConfig, TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from pipeline.data.captions.folds import captions_for_splits
from pipeline.evaluation.cells import Table
from pipeline.evaluation.data_frames import ComparisonResult
from pipeline.evaluation.evaluate import evaluate, evaluated
from pipeline.evaluation.fold_results import bounds_over_folds, method_over_folds
from pipeline.evaluation.fold_tables import fold_tables
from pipeline.evaluation.folds import Fold, leave_one_speaker_out, resampling_ratio, session_folds, speaker_folds
from pipeline.evaluation.measures import TABLES
from pipeline.evaluation.ordinality import STEPS
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.references import reference_results
from pipeline.evaluation.table_formats import Bold, TextTable, table_markdown
from pipeline.experiments.compare import served
from pipeline.inference.filters import write_trained_on
from pipeline.training.run_folder import Run
from pipeline.training.train import train

log = logging.getLogger(__name__)

Scheme = int | Literal["session", "speaker"]
SHOWN = 4  # speakers of a fold whose names stand in the Markdown


def cross_validate(
    stores: Stores | str | Path, *, out: str | Path, folds: Scheme, methods: Sequence[str] = (), seeds: int = 5,
    training: str | None = None, overrides: Sequence[str] = (), evaluation: Sequence[str] = (),
    zero_shot_on: Sequence[str | Path] = (), template: str = CLASS_TEMPLATE, device: str = "auto",
    fresh: bool = False, tensorboard: bool = False, conventions: bool = False,
) -> tuple[ComparisonResult, str]:  # fmt: skip
    """Train and evaluate `methods` (all that the stores can serve) in `folds`; what holds on other speech.

        summary, text = cross_validate("stores/mine", folds="speaker", methods=["supcon"], out="runs/folds")
        summary["methods"]["supcon"]["ordinality"]["aoc"]["fold_std"]

    `folds` is "session" (leave one of IEMOCAP's out), "speaker" (leave one speaker out) or a number of folds by
    speaker. `overrides` are of the training, `evaluation` of the evaluation, `zero_shot_on` stores of other corpora.
    Returns the results and the tables as Markdown, with the conventions as footnotes where `conventions` is true;
    `out` gets cross_validation.{json,md}. A method has, as far as the stores allow, `ordinality`, `word_norms`,
    `alignment`, `recognition` and a `zero_shot` for each other corpus, their measures as `over_folds` gives them, and
    `folds` with each fold's own. Recognition is of all emotions of the manifest; its `pooled` are WAR and UAR of the
    folds' summed confusions.

    Stores whose captions cannot be planned anew give recognition alone, with a warning. Raises UsageError when there
    are no such folds, nothing to measure, an emotion has no prompt of `template` or a named method cannot be served,
    StoreMismatch when `out` holds other folds, StoreLocked while another process writes to it.
    """
    stores, out = stores if isinstance(stores, Stores) else open_stores(stores), Path(out)
    others = [open_stores(folder) for folder in zero_shot_on]
    plan = _plan(stores, folds, evaluation, template)
    configs = served(stores, methods, seeds, training, overrides)
    if plan.reason:
        log.warning(f"folds give recognition alone: {plan.reason}")
    with translate_os_errors(out), writer_lock(out):
        results = {}
        for name, config in configs.items():
            measured = {}
            for fold in plan.folds:
                log.info(f"== {name}, {fold.name}")
                view, folder = plan.views[fold.name], out / name / fold.name
                run = train(view, method=config, out=folder, device=device, fresh=fresh, tensorboard=tensorboard)
                write_trained_on(run, view)
                measured[fold.name] = _measured(run, view, others, plan, device)
            results[name] = method_over_folds(measured, config.seeds, ratio=plan.ratio)
        summary = {
            "stores": str(stores),
            "scheme": folds,
            "utterances": len(stores.manifest),
            "settings": None if plan.reason else plan.settings.model_dump(mode="json"),
            "resampling_ratio": plan.ratio,
            "folds": {fold.name: _about(fold, plan.views[fold.name]) for fold in plan.folds},
            "notes": _notes(plan, configs),
            "methods": results,
            "references": bounds_over_folds(_references(plan, device), next(iter(results.values())), ratio=plan.ratio),
        }
        tables = fold_tables(summary)
        summary["tables"] = {table.name: table.as_json() for table in tables}
        write_text(out / "cross_validation.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
        write_text(out / "cross_validation.md", _markdown(summary, tables, conventions=True) + "\n")
    return ComparisonResult(summary), _markdown(summary, tables, conventions=conventions)


@dataclass(frozen=True)
class _Plan:
    """What is trained and tested in each fold."""

    scheme: Scheme
    folds: Sequence[Fold]
    views: Mapping[str, Stores]  # by fold: its splits, with captions of its own
    overrides: Sequence[str]  # of the evaluation
    settings: EvaluateConfig
    template: str
    classes: Sequence[str]  # none where there is no recognition
    reason: str  # why there is recognition alone; empty where there is more

    @property
    def ratio(self) -> float:
        return resampling_ratio(self.folds)


def _plan(stores: Stores, scheme: Scheme, evaluation: Sequence[str], template: str) -> _Plan:
    """Everything that can be refused before any training is refused here."""
    if scheme == "session":
        folds = session_folds(stores.manifest)
    elif scheme == "speaker":
        folds = leave_one_speaker_out(stores.manifest)
    else:
        folds = speaker_folds(stores.manifest, folds=scheme)
    asked = load_config(EvaluateConfig, None, evaluation, kind="evaluations", option="-e")
    if asked.split not in (None, "test"):
        expected = "no split, since each fold has its own test set"
        raise UsageError(f"-e split={asked.split}", "given with --folds", expected, "Remove it.")
    overrides = ["bootstrap=0", *evaluation, "split=test"]  # folds are the other speech; no speaker is resampled
    settings = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    classes, reason = _classes(stores, template), ""
    try:
        views = {fold.name: _view(stores, fold) for fold in folds}
        _refuse_unmeasurable(stores, folds, settings.style)
    except UsageError as error:
        if not classes:
            raise
        views, reason = {fold.name: stores.with_splits(fold.splits()) for fold in folds}, str(error)
    return _Plan(scheme, folds, views, overrides, settings, template, classes, reason)


def _view(stores: Stores, fold: Fold) -> Stores:
    splits = fold.splits()
    return stores.with_splits(splits, captions_for_splits(stores.captions, stores.manifest, splits))


def _classes(stores: Stores, template: str) -> list[str]:
    """All emotions of the manifest; none where there is none, or no class prompt. Refused where one has no prompt."""
    classes = sorted(set(stores.manifest.emotion) - {""})
    if not stores.captions.classes:
        return []
    prompted = {prompt.emotion for prompt in stores.captions.classes if prompt.template == template}
    if silent := [name for name in classes if name not in prompted]:
        found = f"no class prompt {template!r} for {', '.join(silent)}"
        action = "Run extract-features with captions.styles that hold template, on a corpus with emotions."
        raise UsageError(stores.folder, found, "emotions, and a prompt for each", action)
    return classes


def _refuse_unmeasurable(stores: Stores, folds: Sequence[Fold], style: str) -> None:
    """Raises UsageError where order cannot be asked for in every fold."""
    captions, manifest = stores.captions, stores.manifest
    if style not in captions.styles() or style not in captions.prompts.columns["style"]:
        action = f"Run extract-features with captions.styles that hold {style}, on a corpus with valence and arousal."
        raise UsageError(stores.folder, f"captions or prompts of style {style} are missing", "both", action)
    labelled = np.isfinite(manifest.valence) & np.isfinite(manifest.arousal)
    few = [fold for fold in folds if labelled[fold.test].sum() < STEPS]
    if few:
        found = f"{few[0].name} has {labelled[few[0].test].sum()} utterances with valence and arousal"
        raise UsageError("ordinality in folds", found, f"at least {STEPS} in each fold", "Use fewer folds.")


def _measured(run: Run, view: Stores, others: Sequence[Stores], plan: _Plan, device: str) -> dict[str, Any]:
    """All results of one fold: what `evaluate` and `zero_shot` return."""
    options: dict[str, Any] = {"device": device, "bootstrap": plan.settings.bootstrap, "draw_seed": plan.settings.seed}
    found: dict[str, Any] = {"zero_shot": [zero_shot(run, other, **options) for other in others]}
    if not plan.reason:
        found["evaluation"] = evaluated(run, view, overrides=plan.overrides) or evaluate(
            run, stores=view, overrides=plan.overrides, device=device
        )
    if plan.classes:
        found["recognition"] = zero_shot(
            run, view, split="test", template=plan.template, classes=plan.classes, **options
        )
    return found


def _references(plan: _Plan, device: str) -> dict[str, dict[str, Any]]:
    """The reference rows of each fold; none where folds give recognition alone."""
    found = {}
    for fold in () if plan.reason else plan.folds:
        log.info(f"== references, {fold.name}")
        classes = plan.classes or None
        view = plan.views[fold.name]
        found[fold.name] = reference_results(view, split="test", config=plan.settings, classes=classes, device=device)
    return found


def _about(fold: Fold, view: Stores) -> dict[str, Any]:
    """What stands of a fold in cross_validation.json."""
    parts = {"train": fold.train, "dev": fold.dev, "test": fold.test}
    return {
        **{name: len(rows) for name, rows in parts.items()},
        "speakers": sorted({view.manifest.speaker[row] for row in fold.test.tolist()} - {""}),
        "captions": list(view.captions.notes),
    }


def _notes(plan: _Plan, configs: Mapping[str, TrainConfig]) -> list[str]:
    """What holds of every table, a line each."""
    by = {"session": "one session left out at a time", "speaker": "one speaker left out at a time"}
    notes = [
        f"{len(plan.folds)} folds, {by.get(str(plan.scheme), 'whole speakers')}; a fold is tested by heads trained "
        "without it and without the fold after it (after the last the first), its development set",
        "captions are planned anew in each fold: no wording of a test caption or prompt is trained on"
        if not plan.reason
        else f"recognition alone, with the stores' own captions: {plan.reason}",
    ]
    acoustic = [name for name, config in configs.items() if config.style == "acoustic"]
    return notes + [f"{name}: low and high in captions are of the manifest's own training split" for name in acoustic]


def _markdown(summary: Mapping[str, Any], tables: Sequence[Table], *, conventions: bool) -> str:
    """The tables of methods; the folds; then for each method its folds, and its confusions where it has recognition."""
    body = []
    for name, about in summary["folds"].items():
        speakers = about["speakers"]
        who = ", ".join(speakers) if len(speakers) <= SHOWN else f"{len(speakers)} speakers"
        body.append([Bold(name), who, *(str(about[part]) for part in ("train", "dev", "test"))])
    head = ["tested", "whom", "utterances trained on", "developed on", "tested on"]
    grids = [*(table.texts() for table in tables), TextTable("folds", "The folds", head, body, summary["notes"])]
    for method, result in summary["methods"].items():
        grids.append(_fold_by_fold(method, result["folds"]))
        if recognised := result.get("recognition"):
            classes, confusion = recognised["classes"], recognised["confusion"]
            title = f"{method}, confusions summed over folds and seeds (a row is a label, a column the nearest prompt)"
            rows = [[Bold(name), *map(str, row)] for name, row in zip(classes, confusion, strict=True)]
            grids.append(TextTable("confusion", title, ["", *classes], rows))
    return "\n\n".join(table_markdown(grid, conventions=conventions).rstrip() for grid in grids)


def _fold_by_fold(method: str, folds: Mapping[str, Any]) -> TextTable:
    """Each fold's own measures of one method, mean ± std over seeds."""
    first = next(iter(folds.values()))
    columns = [
        (test, column)
        for test, (_, of_test) in TABLES.items()
        for column in of_test
        if column.key in first.get(test, {})
    ]
    headers = [f"{column.header}, rated words" if test == "word_norms" else column.header for test, column in columns]
    head = ["tested", *headers, *(["recognised", "always the most frequent, WAR"] if "recognition" in first else [])]
    body = []
    for fold, result in folds.items():
        entries = [(result[test][column.key], column.digits) for test, column in columns]
        cells = [f"{entry['mean']:.{digits}f} ± {entry['std']:.{digits}f}" for entry, digits in entries]
        if recognised := result.get("recognition"):
            cells += [str(recognised["n"]), f"{recognised['majority']:.3f}"]
        body.append([Bold(fold), *cells])
    return TextTable("fold_by_fold", f"{method}, fold by fold (mean ± std over seeds)", head, body)
