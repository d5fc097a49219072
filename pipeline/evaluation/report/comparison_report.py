"""The report of a comparison: OUT/report.html, and its figures with their data in OUT/report.

summary, _ = compare(stores, out="runs/comparison")
comparison_report("runs/comparison", summary, stores)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.disk import translate_os_errors, writer_lock
from cache.fingerprint import leaves
from cache.stores import Stores, open_stores
from pipeline.evaluation.comparison import comparison_tables, paper_tables
from pipeline.evaluation.fold_tables import fold_tables
from pipeline.evaluation.report.drawing import Figure
from pipeline.evaluation.report.figures import confusion_figure, measures_figure
from pipeline.evaluation.report.page import Section, notes_list, settings_html, table_html, write_page
from pipeline.evaluation.tables import Results, entries_of_corpora
from pipeline.training.run_folder import open_run

log = logging.getLogger(__name__)

Facts = Iterator[tuple[str, object]]
_HEADINGS = {
    "ordinality": "Ordinality",
    "word_norms": "Ordinality by prompts of other hands",
    "dominance": "Order of dominance",
    "alignment": "Alignment",
    "recognition": "Recognition of the split",
    "retrieval": "Retrieval",
    "readout": "Linear read-outs",
    "speech_ordinality": "Order of speech alone",
}


def comparison_report(out: str | Path, summary: Mapping[str, Any], stores: Stores | str | Path) -> Path:
    """Write what `compare` returned as OUT/report.html; returns its path.

        comparison_report("runs/comparison", summary, "stores/mine")

    `stores` are those that were compared on. Raises StoreLocked while another process writes to `out`.
    """
    results, opened = summary["methods"], stores if isinstance(stores, Stores) else open_stores(stores)
    first = next(iter(results.values()))
    subtitle = f"{len(results)} methods, {first['utterances']} utterances of split {first['split']}; {first['stores']}"
    return _write(Path(out), "Comparison of methods", subtitle, _sections(summary, opened))


def _write(out: Path, title: str, subtitle: str, sections: Iterator[Section]) -> Path:
    """Write the page; figures of an earlier one, of more corpora or with recognition, are not left behind."""
    path = out / "report.html"
    with translate_os_errors(out), writer_lock(out):
        names = [
            file.stem for kind in ("measures_*", "confusion*") for file in path.with_suffix("").glob(f"{kind}.csv")
        ]
        write_page(title, subtitle, list(sections), path, names)
    log.info(f"report: {path}")
    return path


def _sections(summary: Mapping[str, Any], stores: Stores) -> Iterator[Section]:
    """A table, its figure, and the confusions where it is of recognition; then the paper's figures, and the foot."""
    rows = {**summary["methods"], **summary["references"]}
    for table in comparison_tables(rows).tables:
        figures = [measures_figure(table)]
        if table.name == "recognition":
            of_split = {name: result[table.name] for name, result in rows.items() if table.name in result}
            figures += _confusions("confusion_0", "Confusions on the split", of_split)
        elif table.name not in _HEADINGS:
            number = int(table.name.removeprefix("recognition_"))
            of_corpus = entries_of_corpora(rows)[number - 1]
            figures += _confusions(f"confusion_{number}", f"Confusions on another corpus, number {number}", of_corpus)
        yield Section(_HEADINGS.get(table.name, table.title), table_html(table.texts()), figures)
    yield Section("The paper's figures", "\n".join(table_html(table.texts()) for table in paper_tables().tables))
    yield Section("Conventions and fingerprints", settings_html(_facts(summary["methods"], stores)))


def _confusions(name: str, title: str, results: Results) -> list[Figure]:
    """Of those that have one: chance has none."""
    confused = {method: result for method, result in results.items() if "confusion" in result}
    return [confusion_figure(name, title, confused)] if confused else []


def _facts(results: Results, stores: Stores) -> Facts:
    yield "stores", stores
    yield from leaves(stores.fingerprint(), "fingerprint.")
    for method, result in results.items():
        yield from leaves(result["settings"], f"{method}: evaluation.")
        for seed, trained in result["trained"].items():
            yield from leaves(trained, f"{method}, seed {seed}: ")


def folds_report(out: str | Path, summary: Mapping[str, Any], stores: Stores | str | Path) -> Path:
    """Write what `cross_validate` returned as OUT/report.html; returns its path.

        folds_report("runs/folds", summary, "stores/iemocap")

    `stores` are those that were cut into folds. Raises StoreLocked while another process writes to `out`.
    """
    opened = stores if isinstance(stores, Stores) else open_stores(stores)
    subtitle = (
        f"{len(summary['methods'])} methods, {summary['utterances']} utterances, {len(summary['folds'])} folds; "
        f"{summary['stores']}"
    )
    return _write(Path(out), "Methods in folds", subtitle, _sections_of_folds(Path(out), summary, opened))


def _sections_of_folds(out: Path, summary: Mapping[str, Any], stores: Stores) -> Iterator[Section]:
    """A table and its figure; the confusions of all folds together; and the foot."""
    for table in fold_tables(summary):
        yield Section(table.title.partition(":")[0], table_html(table.texts()), [measures_figure(table)])
    recognised = {of: result["recognition"] for of, result in summary["methods"].items() if "recognition" in result}
    if recognised:
        pooled = {method: {**result, "uar": result["pooled"]["uar"]} for method, result in recognised.items()}
        matrices = confusion_figure("confusion", "Recognition of every utterance by its fold", pooled)
        yield Section("Confusions", figures=[matrices])
    foot = notes_list(summary["notes"]) + settings_html(_facts_of_folds(out, summary, stores))
    yield Section("Conventions and fingerprints", foot)


def _facts_of_folds(out: Path, summary: Mapping[str, Any], stores: Stores) -> Facts:
    yield "stores", stores
    yield from leaves(stores.fingerprint(), "fingerprint.")
    if summary["settings"]:
        yield from leaves(summary["settings"], "evaluation.")
    for method, result in summary["methods"].items():
        first = open_run(out / method / next(iter(result["folds"])))  # all folds of a method are trained alike
        yield from leaves(first.config.model_dump(mode="json"), f"{method}: training.")
