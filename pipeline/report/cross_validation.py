"""The report of a recognition in folds: OUT/report.html, and its figures with their data in OUT/report.

summary, _ = cross_validate(stores, folds="session", out="runs/folds")
folds_report("runs/folds", summary, stores)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.disk import faults_told
from cache.fingerprint import leaves
from cache.lock import writing
from cache.stores import Stores, open_stores
from pipeline.evaluation.comparison import comparison_tables
from pipeline.progress import say
from pipeline.report.confusion import confusion
from pipeline.report.measures import measures
from pipeline.report.page import Section, notes_list, write_page
from pipeline.report.tables import facts_html, table_html
from pipeline.run import open_run

NAMES = ("measures_recognition", "measures_folds", "confusion")
_KINDS = {"pooled": "recognition", "mean_over_folds": "folds"}
_TITLES = {"pooled": "confusions of the folds summed", "mean_over_folds": "mean over folds"}


def folds_report(out: str | Path, summary: Mapping[str, Any], stores: Stores | str | Path) -> Path:
    """Write what `cross_validate` returned as OUT/report.html; returns its path.

        folds_report("runs/folds", summary, "stores/iemocap")

    `stores` are those that were recognised. Raises StoreLocked while another process writes to `out`.
    """
    out, results = Path(out), summary["methods"]
    opened = stores if isinstance(stores, Stores) else open_stores(stores)
    path = out / "report.html"
    pooled = {method: {**result, "uar": result["pooled"]["uar"]} for method, result in results.items()}
    foot = notes_list(summary["notes"]) + facts_html(_facts(out, results, opened))
    sections = [
        *(_figures(kind, results) for kind in _KINDS),
        Section("Confusions", exhibits=[confusion("confusion", "Recognition of every utterance by its fold", pooled)]),
        Section("Conventions and fingerprints", foot),
    ]
    lede = f"{len(results)} methods, {summary['utterances']} utterances; {summary['stores']}"
    with faults_told(out), writing(out):
        write_page("Zero-shot recognition in folds", lede, sections, path, NAMES)
    say(f"report: {path}")
    return path


def _facts(out: Path, results: Mapping[str, Mapping[str, Any]], stores: Stores) -> Iterator[tuple[str, object]]:
    yield "stores", stores.folder
    yield from leaves(stores.fingerprint(), "fingerprint.")
    for method, result in results.items():
        first = open_run(out / method / next(iter(result["folds"])))  # all folds of a method are trained alike
        yield from leaves(first.config.model_dump(mode="json"), f"{method}: training.")


def _figures(kind: str, results: Mapping[str, Mapping[str, Any]]) -> Section:
    found = {
        method: {"recognition": {**result[kind], "convention": result["convention"]}}
        for method, result in results.items()
    }
    (table,) = comparison_tables(found).tables
    named = replace(table, name=_KINDS[kind], title=f"{table.title}: {_TITLES[kind]}")
    return Section(named.title, table_html(named), [measures(named)])
