"""The report of a comparison: OUT/report.html, and its figures with their data in OUT/report.

summary, _ = compare(stores, out="runs/comparison")
comparison_report("runs/comparison", summary, stores)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.disk import translate_os_errors, writer_lock
from cache.fingerprint import leaves
from cache.stores import Stores, open_stores
from pipeline.evaluation.comparison import comparison_tables, paper_tables
from pipeline.evaluation.report.comparison_figures import confusion, measures
from pipeline.evaluation.report.page import Section, facts_html, notes_list, table_html, write_page
from pipeline.evaluation.tables import Table
from pipeline.training.run_folder import open_run

log = logging.getLogger(__name__)

Results = Mapping[str, Mapping[str, Any]]
_TESTS = ("alignment", "ordinality", "recognition")


def comparison_report(out: str | Path, summary: Mapping[str, Any], stores: Stores | str | Path) -> Path:
    """Write what `compare` returned as OUT/report.html; returns its path.

        comparison_report("runs/comparison", summary, "stores/mine")

    `stores` are those that were compared on. Raises StoreLocked while another process writes to `out`.
    """
    out, results = Path(out), summary["methods"]
    opened = stores if isinstance(stores, Stores) else open_stores(stores)
    path = out / "report.html"
    first = next(iter(results.values()))
    lede = f"{len(results)} methods, {first['utterances']} utterances of split {first['split']}; {first['stores']}"
    with translate_os_errors(out), writer_lock(out):
        write_page("Comparison of methods", lede, list(_sections(results, opened)), path, _names(path))
    log.info(f"report: {path}")
    return path


def _names(path: Path) -> list[str]:
    """Every figure that an earlier report here may have left; one of fewer corpora leaves none behind."""
    drawn = [file.stem for file in path.with_suffix("").glob("*.csv")]
    return [name for name in drawn if name.startswith(("measures_", "confusion_"))]


def _sections(results: Results, stores: Stores) -> Iterator[Section]:
    for table in comparison_tables(results).tables:
        yield _section(table)
    if any("recognition" in result for result in results.values()):
        of = {method: result["recognition"] for method, result in results.items() if "recognition" in result}
        yield Section("Confusions", exhibits=[confusion("confusion_0", "Zero-shot recognition of the split", of)])
    for number, (corpus, found) in enumerate(_other_corpora(results).items(), start=1):
        yield _other_corpus(number, corpus, found)
    yield Section("The paper's figures", "\n".join(map(table_html, paper_tables().tables)))
    yield Section("Conventions and fingerprints", facts_html(_facts(results, stores)))


def _section(table: Table) -> Section:
    return Section(table.name.capitalize(), table_html(table), [measures(table)])


def _other_corpora(results: Results) -> dict[str, dict[str, Any]]:
    """What each method said of each other corpus."""
    found: dict[str, dict[str, Any]] = {}
    for method, result in results.items():
        for number, said in enumerate(result["zero_shot"], start=1):
            found.setdefault(f"{number}. {said['stores']}, {said['split']} utterances", {})[method] = said
    return found


def _other_corpus(number: int, corpus: str, found: Mapping[str, Any]) -> Section:
    title = f"Zero-shot recognition on another corpus: {corpus}"
    (table,) = comparison_tables({method: {"recognition": said} for method, said in found.items()}).tables
    named = replace(table, name=f"recognition_{number}", title=title)
    return Section(
        title, table_html(named), [measures(named), confusion(f"confusion_{number}", f"Confusions on {corpus}", found)]
    )


def _facts(results: Results, stores: Stores) -> Iterator[tuple[str, object]]:
    yield "stores", stores.folder
    yield from leaves(stores.fingerprint(), "fingerprint.")
    for method, result in results.items():
        yield from leaves(result["settings"], f"{method}: evaluation.")
        yield from leaves(result["trained"], f"{method}: trained.")


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
    foot = notes_list(summary["notes"]) + facts_html(_facts_cross_validation(out, results, opened))
    sections = [
        *(_figures(kind, results) for kind in _KINDS),
        Section("Confusions", exhibits=[confusion("confusion", "Recognition of every utterance by its fold", pooled)]),
        Section("Conventions and fingerprints", foot),
    ]
    lede = f"{len(results)} methods, {summary['utterances']} utterances; {summary['stores']}"
    with translate_os_errors(out), writer_lock(out):
        write_page("Zero-shot recognition in folds", lede, sections, path, NAMES)
    log.info(f"report: {path}")
    return path


def _facts_cross_validation(
    out: Path, results: Mapping[str, Mapping[str, Any]], stores: Stores
) -> Iterator[tuple[str, object]]:
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
