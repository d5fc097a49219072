"""The report of one evaluation: RUN/report.html, and its figures with their data in RUN/report.

result = evaluate(run)
evaluation_report(run, result)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.disk import translate_os_errors, writer_lock
from cache.fingerprint import leaves
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.resources import pick_device
from pipeline.evaluation.measures import TABLES
from pipeline.evaluation.order_tests import ordinality_prompts
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.references import references_beside
from pipeline.evaluation.report import curves
from pipeline.evaluation.report.drawing import Figure
from pipeline.evaluation.report.figures import (
    KENDALL_TAU,
    RETRIEVAL,
    confusion_figure,
    kendall_tau_figure,
    retrieval_figure,
)
from pipeline.evaluation.report.page import Section, notes_list, settings_html, table_html, unless_damaged, write_page
from pipeline.evaluation.report.projections import (
    GAP,
    PROJECTION,
    UMAP,
    gap_of,
    pca_figure,
    umap_figure,
)
from pipeline.evaluation.table_formats import Bold, TextTable
from pipeline.evaluation.tables import evaluation_tables, field_table
from pipeline.training.heads import Heads
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

CONFUSION = "confusion"
EVALUATION_FIGURES = (curves.CURVES, PROJECTION, UMAP, RETRIEVAL, KENDALL_TAU, CONFUSION)
_KINDS = {
    "ordinality": ", the caption grammar's prompts",
    "word_norms": ", rated words",
    "dominance": ", rated words",
    "alignment": "",
}
_FORMER_FIGURES = ("planes", "taus")  # figures of reports written before


@dataclass(frozen=True)
class _Evaluation:
    """What the sections are made from."""

    run: Run
    stores: Stores
    result: Mapping[str, Any]
    references: Mapping[str, Mapping[str, Any]]
    pairs: CachedPairs
    device: torch.device

    @cached_property
    def best(self) -> Heads:
        """The heads of lowest development loss."""
        return self.run.heads_for(self.stores).to(self.device)

    @cached_property
    def speech(self) -> Tensor:
        """(n, d) embeddings of the utterances by the best heads."""
        with torch.no_grad():
            return self.best.embed_speech(self.pairs.speech)


def evaluation_report(
    run: Run | str | Path,
    result: Mapping[str, Any],
    *,
    stores: Stores | str | Path | None = None,
    references: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
) -> Path:
    """Write what `evaluate` returned for `run` as RUN/report.html; returns its path.

        evaluation_report("runs/erc", evaluate("runs/erc"))

    Embeddings are computed again from `stores` (those of the run, when none are named), and so are the rows of
    `references` unless what `references_beside` returned is given. A part whose files are corrupt is left out, and the
    page and a line say so. Raises as `evaluate` does.
    """
    run = run if isinstance(run, Run) else open_run(run)
    path = run.folder / "report.html"
    with translate_os_errors(run.folder), writer_lock(run.folder):
        opened, chosen = run.stores(stores), pick_device(device)
        pairs = cached_pairs(opened, result["split"], style=result["settings"]["style"], device=chosen)
        if references is None:
            references = references_beside(dict(result), opened, device=device)
        sections = list(_sections(_Evaluation(run, opened, result, references, pairs, chosen)))
        seeds = f"seed{'s' if len(result['seeds']) > 1 else ''} {', '.join(result['seeds'])}"
        subtitle = f"{result['utterances']} utterances of split {result['split']}, {seeds}; {result['run']}"
        names = (*EVALUATION_FIGURES, *_FORMER_FIGURES)
        write_page(f"Evaluation of {result['method']}", subtitle, sections, path, names)
    log.info(f"report: {path}")
    return path


def _sections(evaluation: _Evaluation) -> Iterator[Section]:
    seeds = evaluation.result["seeds"]
    yield Section("Measures", _tables(evaluation.result, evaluation.references))
    if field := field_table({evaluation.result["method"]: evaluation.result, **evaluation.references}):
        yield Section("Retrieval and read-out", table_html(field))
    yield Section("Spreads", table_html(_spreads(evaluation.result)))
    yield unless_damaged("Training", lambda: curves.curves_figure(evaluation.run, evaluation.result["trained"]))
    yield _shared_space(evaluation)
    prompts, vectors = ordinality_prompts(evaluation.stores, evaluation.result["settings"]["style"], evaluation.device)
    with torch.no_grad():
        asked = evaluation.best.embed_text(vectors).cpu()
    labels = evaluation.pairs.labels[:, :2].cpu()
    yield Section("Retrieval", figures=[retrieval_figure(evaluation.speech.cpu(), labels, prompts, asked)])
    yield Section("Ordinality", figures=[kendall_tau_figure(seeds)])
    if evaluation.stores.captions.classes and any(evaluation.stores.manifest.emotion):
        yield unless_damaged("Recognition", lambda: _recognition(evaluation))
    yield Section("Conventions and fingerprints", _conventions(evaluation) + settings_html(_facts(evaluation)))


def _tables(result: Mapping[str, Any], references: Mapping[str, Mapping[str, Any]]) -> str:
    """Every table: a row for all seeds together, one for each, the bounds; the conventions of the first stand below."""
    together = "all seeds" if len(result["seeds"]) > 1 else result["method"]
    rows = {together: result}
    if len(result["seeds"]) > 1:
        rows |= {f"seed {seed}": found for seed, found in result["seeds"].items()}
    of_all = {table.name: table for table in evaluation_tables({together: result, **references})}
    tables = evaluation_tables({**rows, **references})
    return "\n".join(
        table_html(replace(table.texts(), notes=of_all[table.name].notes, conventions=of_all[table.name].conventions))
        for table in tables
    )


def _spreads(result: Mapping[str, Any]) -> TextTable:
    """Every measure with each of its spreads, its mean in bold; `-` where there is no interval."""
    measures = {column.key: column.header for _, columns in TABLES.values() for column in columns}
    rows = []
    for test, kind in _KINDS.items():
        for name, entry in result.get(test, {}).items():
            if isinstance(entry, Mapping):
                mean, *stds = (f"{entry[key]:.4f}" for key in ("mean", "std", "list_std"))
                found = entry.get("speakers")
                interval = [f"{found['low']:.4f} to {found['high']:.4f}", str(found["n"])] if found else ["-", "-"]
                rows.append([f"{measures[name]}{kind}", Bold(mean), *stds, *interval])
    notes = ["of seeds and speakers a difference may be claimed; lists and trials share their utterances"]
    if "word_norms" in result:
        for axis in ("aoc", "voc"):
            lost = result["ordinality"][axis]["mean"] - result["word_norms"][axis]["mean"]
            notes.append(f"{axis.upper()} by the caption grammar's prompts less that by rated words: {lost:+.3f}")
    title = "Every measure, and how far it moves with the seed, the list or trial, and the test speakers"
    headers = ["measure", "mean", "std over seeds", "std over lists or trials", "95 % over speakers", "speakers"]
    return TextTable("spreads", title, headers, rows, notes)


def _shared_space(evaluation: _Evaluation) -> Section:
    pairs, run = evaluation.pairs, evaluation.run
    heads = {seed: run.heads_for(evaluation.stores, int(seed)) for seed in evaluation.result["seeds"]}
    gaps = {seed: gap_of(of_seed.to(evaluation.device), pairs) for seed, of_seed in heads.items()}
    values = list(gaps.values())
    mean = f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f} over seeds" if len(values) > 1 else "")
    each = ", ".join(f"seed {seed}: {gap:.3f}" for seed, gap in gaps.items())
    figures = [pca_figure(evaluation.best, pairs), umap_figure(evaluation.best, pairs)]
    notes = notes_list([f"Modality gap {mean} ({each}).", f"Modality gap: {GAP}."])
    return Section("The shared space", notes, [figure for figure in figures if figure])


def _recognition(evaluation: _Evaluation) -> Figure:
    split, method = evaluation.result["split"], evaluation.result["method"]
    found = zero_shot(evaluation.run, evaluation.stores, split=split, bootstrap=0, device=str(evaluation.device))
    return confusion_figure(CONFUSION, "Zero-shot recognition", {method: found})


def _conventions(evaluation: _Evaluation) -> str:
    best = evaluation.run.about["best_seed"]
    notes = [
        "all seeds: mean ± std over seeds; a seed's row: its own mean over lists or trials",
        f"projection and retrieval: the heads of seed {best}, of the lowest development loss",
    ]
    return notes_list([*notes, *evaluation.pairs.notes])


def _facts(evaluation: _Evaluation) -> Iterator[tuple[str, object]]:
    yield "run", evaluation.result["run"]
    yield "stores", evaluation.result["stores"]
    yield "training data", evaluation.run.about["data"]
    yield from leaves(evaluation.result["settings"], "evaluation.")
    yield from leaves(evaluation.run.config.model_dump(mode="json"), "training.")
    for seed, trained in evaluation.result["trained"].items():
        yield from leaves(trained, f"seed {seed}: ")
    yield from leaves(evaluation.stores.fingerprint(), "fingerprint.")
