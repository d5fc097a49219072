"""Flipped bits, cuts and swapped blocks in every file of a stores folder, a run, an exported model and a sweep.

    pytest -n 0 -s -m exhaustive tests/inputs/test_flips.py      # prints the table of docs/promises.md

Nothing is silent: whoever opens the folder gets a corrupt one as exit 5. A journal that was cut is as it was before.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import EmotionRankError
from pipeline.data.captions.llm.requests import CaptionRequest
from pipeline.data.captions.llm.responses import RESPONSES, ResponseCache, read_responses
from pipeline.evaluation.evaluate import evaluate
from pipeline.experiments.sweeps.bracket import bracket_folders, read_bracket
from pipeline.experiments.sweeps.space import Space
from pipeline.experiments.sweeps.study import JOURNAL, open_study
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.extraction.status import verify
from pipeline.inference.export import read_model
from pipeline.inference.model import EmotionRankCLAP
from pipeline.training.run_folder import open_run
from pipeline.training.train import train
from tests.experiments.sweeps.conftest import a_sweep
from tests.inputs.test_sweep_folders import SETTINGS as SWEEP
from tests.speech import QUICK, write_corpus
from tests.stage_two import EVALUATION, SETTINGS

Open = Callable[[Path], object]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four, made as a user makes them; the encoders are the embedded ones."""
    from pipeline.extraction.extract import extract

    folder = tmp_path_factory.mktemp("whole")
    manifest = write_corpus(folder / "corpus", 32)
    extract(manifest, out=folder / "stores", overrides=[*QUICK, "captions.styles=[dimensional]"])
    run = train(folder / "stores", overrides=[*SETTINGS, "batch_size=4"], seeds=2, out=folder / "run")
    evaluate(run, overrides=[*EVALUATION[2::2], "split=train"])
    EmotionRankCLAP.from_pretrained(run.folder).save_pretrained(folder / "model")
    settings = SWEEP | {"fixed": SWEEP["fixed"] | {"batch_size": 4}}
    sweep(folder / "stores", a_sweep(**settings), out=folder / "sweep", report=False)
    (folder / "captions").mkdir()
    with closing(ResponseCache(folder / "captions")) as responses:
        for number in range(20):
            request = CaptionRequest("train", (number, 1), 0, "Describe the voice.", is_caption=True)
            responses.append(f"{number:032x}", request, f"A voice of kind {number}.", model="m")
    return folder


def _open_sweep(folder: Path) -> object:
    settings = SWEEP | {"fixed": SWEEP["fixed"] | {"batch_size": 4}}
    for leftover in folder.glob("*.lock"):
        leftover.unlink()
    found = [read_bracket(each) for each in bracket_folders(folder)]
    study = open_study(Space(a_sweep(**settings)), folder, None, _origin(folder), fresh=False)
    return found, study.trials()


def _origin(folder: Path) -> dict[str, object]:
    """The fingerprints and the data that the sweep was begun with."""
    for line in (folder.parent / "whole" / JOURNAL).read_text().splitlines():
        attributes = json.loads(line).get("user_attr", {})
        if "sweep" in attributes:
            return {name: value for name, value in attributes["sweep"].items() if name != "config"}
    raise AssertionError


FILES: dict[str, tuple[Open, list[str]]] = {
    "stores": (verify, ["manifest.csv", "captions.jsonl", "config.yaml", "digests.json", "audio.h5", "text.h5"]),
    "run": (
        open_run,
        [
            *("config.yaml", "run.json", "metrics.jsonl", "digests.json", "heads.safetensors"),
            *("seeds/0/metrics.jsonl", "seeds/1/heads.safetensors"),
        ],
    ),
    "evaluated": (lambda folder: open_run(folder).evaluation(), ["evaluation.json"]),
    "captions": (read_responses, [RESPONSES]),
    "model": (read_model, ["config.json", "model.safetensors"]),
    "sweep": (_open_sweep, [JOURNAL, "brackets/000000/bracket.json"]),
}


def _points(seen: Any) -> list[Any]:
    """The number and point of every trial that has one."""
    return [(trial.number, trial.params) for trial in seen[1] if trial.params]


def _damaged(good: bytes, flips: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    for _ in range(flips):
        content = bytearray(good)
        content[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        yield "flip", bytes(content)
    for _ in range(flips // 10):
        yield "cut", good[: draw.randrange(len(good))]
        one, two, three = sorted(draw.sample(range(len(good) + 1), 3))
        swapped = good[:one] + good[two:three] + good[one:two] + good[three:]
        if swapped != good:
            yield "swap", swapped


@pytest.mark.parametrize("flips", [20, pytest.param(2_000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in FILES.items() for name in names])
def test_no_damage_is_silent(folders: Path, tmp_path: Path, kind: str, name: str, flips: int) -> None:
    look, folder = FILES[kind][0], tmp_path / "damaged"
    source = folders / {"evaluated": "run"}.get(kind, kind)
    shutil.copytree(source, folder)
    shutil.copytree(source, tmp_path / "whole")
    whole = look(folder)
    good, ends = (source / name).read_bytes(), Counter[tuple[str, str]]()
    for how, content in _damaged(good, flips, random.Random(f"{kind} {name}")):
        (folder / name).write_bytes(content)
        try:
            seen = look(folder)
        except EmotionRankError as error:
            ends[how, f"exit {error.exit_code}" if str(error).isprintable() else "several lines"] += 1
        else:
            ends[how, "as it was" if name == RESPONSES and seen == whole else "silent"] += 1
            if name == JOURNAL:  # as at an earlier instant: the first trials, and what was said of them until then
                assert _points(seen) == _points(whole)[: len(_points(seen))]
    print(f"| {kind} | `{name}` | " + " | ".join(_cell(ends, how) for how in ("flip", "cut", "swap")) + " |")
    earlier = {("cut", "silent"), ("flip", "silent")} if name == JOURNAL else set()  # its last line, or all after it
    assert {end for how, end in ends} <= {"exit 5", "exit 2", "exit 4", "silent", "as it was"}
    assert {pair for pair in ends if pair[1] == "silent"} <= earlier
    assert ends["flip", "silent"] <= flips // 100


def _cell(ends: Counter[tuple[str, str]], how: str) -> str:
    return ", ".join(f"{count:,} {end}" for (each, end), count in sorted(ends.items()) if each == how)
