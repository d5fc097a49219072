"""An evaluation, a comparison and a sweep of small stores, a report of each, and an oracle that reads pages."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.report.comparison_report import comparison_report
from pipeline.evaluation.report.evaluation_report import evaluation_report
from pipeline.experiments.compare import compare
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.training.train import train
from tests.experiments.sweeps.conftest import a_sweep
from tests.experiments.sweeps.conftest import planted as planted
from tests.planted import plant

HOSTILE = "$\\frac{$ 悲しい<script>alert(1)</script><img src='http://x.invalid/y' onerror=\"z\"> & \u202e\x07'\"|]"
STYLES = ("dimensional", "template", "acoustic")
SHORT = ["trials=2", "lists=14", "projections=2", "pairs=8"]
SETTINGS = ["width=4", "batch_size=16", "epochs=2", "threads=1"]
_VOID = {"meta", "br", "img", "hr", "link", "input", "base"}


@dataclass
class Page(HTMLParser):
    """What a page holds; every element is closed in its turn."""

    text: str
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)  # (tag, name, value)
    words: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def rows_of(out: Path, name: str) -> list[dict[str, str]]:
    """The data of a figure."""
    with open(out / f"report/{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib is not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds, its evaluation and its report."""
    folder = tmp_path_factory.mktemp("report")
    splits = {"train": 48, "dev": 16, "test": 40}
    stores = plant(folder / "stores", splits, audio_width=6, text_width=5, styles=STYLES)
    run = train(stores, seeds=2, out=folder / "run", overrides=SETTINGS)
    evaluation_report(run, evaluate(run, overrides=SHORT))
    return run.folder


SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "method": ["emotionrankclap", "clap_sce"],
    "objective.symmetric": [True, False],
    "batch_size": {"low": 16, "high": 24, "step": 4},
}


@pytest.fixture(scope="session")
def swept(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two brackets of four trials of two seeds, halved twice, and its report."""
    out = tmp_path_factory.mktemp("swept") / "<i>my sweep"
    sweep(planted, a_sweep(sampler="random", trials=8, repeats=2, space=SPACE), out=out)
    return out


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods with recognition on two corpora, one of hostile names, and its report."""
    folder = tmp_path_factory.mktemp("compared")
    splits = {"train": 48, "dev": 16, "test": 24}
    sizes = {"audio_width": 6, "text_width": 5, "styles": STYLES}
    stores, other = plant(folder / "stores", splits, **sizes), plant(folder / "<b>other", splits, **sizes)
    shared = {"methods": ["clap_sce", "supcon"], "seeds": 2, "overrides": SETTINGS, "evaluation": SHORT}
    summary, _ = compare(stores, out=folder / "out", zero_shot_on=[other.folder], **shared)
    comparison_report(folder / "out", summary, stores)
    return folder / "out"
