"""The report of one evaluation: RUN/report.html, and its figures with their data in RUN/report.

result = evaluate(run)
evaluation_report(run, result)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.disk import translate_os_errors, writer_lock
from cache.fingerprint import leaves
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.resources import pick_device
from pipeline.evaluation.evaluate import ordinality_prompts
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.report import comparison_figures as confusion
from pipeline.evaluation.report import curves
from pipeline.evaluation.report import ordinality_figures as circumplex
from pipeline.evaluation.report import ordinality_figures as taus
from pipeline.evaluation.report import projections as planes
from pipeline.evaluation.report import projections as umap_planes
from pipeline.evaluation.report.drawing import Figure
from pipeline.evaluation.report.page import (
    Section,
    evaluation_tables,
    facts_html,
    notes_list,
    table_html,
    unless_damaged,
    write_page,
)
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

CONFUSION = "confusion"
NAMES = (curves.NAME, planes.NAME, umap_planes.NAME, circumplex.NAME, taus.NAME, CONFUSION)


@dataclass(frozen=True)
class _Evaluated:
    """What the sections are made from."""

    run: Run
    stores: Stores
    result: Mapping[str, Any]
    pairs: CachedPairs
    device: torch.device


def evaluation_report(
    run: Run | str | Path,
    result: Mapping[str, Any],
    *,
    stores: Stores | str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Write what `evaluate` returned for `run` as RUN/report.html; returns its path.

        evaluation_report("runs/erc", evaluate("runs/erc"))

    Embeddings are computed again from `stores` (those of the run, when none are named). A part whose files are damaged
    is left out, and the page and a line say so. Raises as `evaluate` does.
    """
    run = run if isinstance(run, Run) else open_run(run)
    path = run.folder / "report.html"
    with translate_os_errors(run.folder), writer_lock(run.folder):
        opened, chosen = run.stores(stores), pick_device(device)
        pairs = cached_pairs(opened, result["split"], style=result["settings"]["style"], device=chosen)
        of = _Evaluated(run, opened, result, pairs, chosen)
        seeds = ", ".join(result["seeds"])
        lede = f"{result['utterances']} utterances of split {result['split']}, seeds {seeds}; {result['run']}"
        write_page(f"Evaluation of {result['method']}", lede, list(_sections(of)), path, NAMES)
    log.info(f"report: {path}")
    return path


def _sections(of: _Evaluated) -> Iterator[Section]:
    seeds = of.result["seeds"]
    rows = {"all seeds": of.result, **{f"seed {seed}": found for seed, found in seeds.items()}}
    tables = evaluation_tables(rows if len(seeds) > 1 else {of.result["method"]: of.result})
    yield Section("Figures", "\n".join(map(table_html, tables)))
    yield unless_damaged("Training", lambda: curves.curves(of.run, of.result["trained"]))
    yield _shared_space(of)
    yield Section("Retrieval", exhibits=[_retrieval(of)])
    yield Section("Ordinality", exhibits=[taus.taus(seeds)])
    if of.stores.captions.classes and any(of.stores.manifest.emotion):
        yield unless_damaged("Recognition", lambda: _recognition(of))
    yield Section("Conventions and fingerprints", _foot(of))


def _shared_space(of: _Evaluated) -> Section:
    gaps = {seed: _gap(of, int(seed)) for seed in of.result["seeds"]}
    values = list(gaps.values())
    mean = f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f} over seeds" if len(values) > 1 else "")
    each = ", ".join(f"seed {seed}: {gap:.3f}" for seed, gap in gaps.items())
    notes = notes_list([f"Modality gap {mean} ({each}).", f"Modality gap: {planes.GAP}."])
    heads = of.run.heads_for(of.stores).to(of.device)
    by_umap = umap_planes.umap_planes(heads, of.pairs)
    return Section("The shared space", notes, [planes.planes(heads, of.pairs), *([by_umap] if by_umap else [])])


def _gap(of: _Evaluated, seed: int) -> float:
    heads = of.run.heads_for(of.stores, seed).to(of.device)
    with torch.no_grad():
        return planes.modality_gap(
            heads.embed_speech(of.pairs.speech), heads.embed_text(planes.first_captions(of.pairs))
        )


def _retrieval(of: _Evaluated) -> Figure:
    prompts, vectors = ordinality_prompts(of.stores, of.result["settings"]["style"], of.device)
    return circumplex.circumplex(of.run.heads_for(of.stores).to(of.device), of.pairs, prompts, vectors)


def _recognition(of: _Evaluated) -> Figure:
    found = zero_shot(of.run, of.stores, split=of.result["split"], device=str(of.device))
    return confusion.confusion(CONFUSION, "Zero-shot recognition", {of.result["method"]: found})


def _foot(of: _Evaluated) -> str:
    best = of.run.about["best_seed"]
    conventions = [
        "mean ± std over the lists or trials of all seeds; a seed's row over its own",
        f"plane and retrieval: the heads of seed {best}, of the lowest development loss",
        *of.pairs.notes,
    ]
    return notes_list(conventions) + facts_html(_facts(of))


def _facts(of: _Evaluated) -> Sequence[tuple[str, object]]:
    about = of.run.about
    trees = {
        "evaluation": of.result["settings"],
        "training": of.run.config.model_dump(mode="json"),
        "trained": of.result["trained"],
        "fingerprint": of.stores.fingerprint(),
    }
    facts = [leaf for name, tree in trees.items() for leaf in leaves(tree, f"{name}.")]
    return [("run", of.result["run"]), ("stores", of.result["stores"]), ("training data", about["data"]), *facts]
