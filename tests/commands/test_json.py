"""--json: exactly one strict object on stdout, with the keys that docs/commands.md lists, in every mode."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pipeline.extraction.extract
from pipeline.commands.completion import COMMANDS
from pipeline.extraction.encoders import load_encoder
from pipeline.training.run_folder import Run
from tests.commands.texts import ended
from tests.data.captions.endpoint import serving
from tests.data.captions.writer import good
from tests.stage_two import EVALUATION, SETTINGS, TRAINING

PAGE = (Path(__file__).resolve().parents[2] / "docs/commands.md").read_text(encoding="utf-8")
QUICK = "-o captions.prompt_variants=1 -o captions.per_utterance=1 -o captions.grid=false"
TRAIN = " ".join(TRAINING)
TEST = " ".join(EVALUATION)
MEASURE = TEST.replace("--no-report ", "").replace("-o", "-e")

LINES = {  # a mode as the page names it -> its command line in the folder that `home` lays out
    "make-manifest": "make-manifest my --out made.csv",
    "write-captions --dry-run": "write-captions my/manifest.csv --out captions -o llm.model=m --dry-run",
    "write-captions": "write-captions my/manifest.csv --out captions -o llm.model=m -o writing.prompts_grid=false "
    "-o llm.base_url={url}",
    "extract-features": f"extract-features my/manifest.csv --out stores/mine {QUICK}",
    "extract-features --dry-run": f"extract-features my/manifest.csv --out stores/mine {QUICK} --dry-run",
    "extract-features --status": "extract-features mine --out stores/mine --status",
    "extract-features --digest": "extract-features mine --out stores/mine --digest",
    "extract-features --verify": "extract-features mine --out stores/mine --verify",
    "extract-features --verify=deep": "extract-features mine --out stores/mine --audio-root my --verify=deep",
    "train-heads": f"train-heads stores/small --out runs/new {TRAIN}",
    "evaluate-heads": f"evaluate-heads stores/small runs/new {TEST}",
    "compare-methods": f"compare-methods stores/small emotionrankclap --seeds 1 --no-report --out runs/all {TRAIN} "
    f"{MEASURE}",
    "compare-methods --folds": "compare-methods stores/mine clap_template --folds 3 --seeds 1 --no-report --out "
    f"runs/folds {TRAIN} -o batch_size=2",
    "sweep-heads": "sweep-heads stores/small grid --out sweeps/one --trials 1 -o score=dev_loss -o repeats=1 "
    + " ".join(f"-o fixed.{setting}" for setting in SETTINGS if "batch" not in setting)
    + " -o 'space.batch_size=[16]'",
    "search-speech": "search-speech stores/mine runs/erc calm",
    "search-speech --audio": "search-speech stores/mine runs/erc --audio my/audio/u03.wav",
}


@pytest.fixture(scope="module")
def home(
    corpus: Path, stores: Path, trained: Run, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("json")
    places = {"my": corpus.parent, "stores/mine": stores, "stores/small": small, "runs/erc": trained.folder}
    for name, origin in places.items():
        shutil.copytree(origin, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.extraction.extract, "load_encoder", cache(load_encoder))
        patch.chdir(folder)
        yield folder


def strict(text: str) -> Any:
    """One JSON value on one line, and no NaN or Infinity in it."""
    assert text.count("\n") == 1
    assert text.endswith("\n")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """Mode -> its keys, and those that it may have as well, as docs/commands.md has them."""
    rows = re.findall(r"^\| `([a-z-]+(?: --[a-z=-]+)?)` \|([^|]*)\|([^|]*)\|$", PAGE, re.MULTILINE)
    return {mode: (set(re.findall(r"\w+", keys)), set(re.findall(r"\w+", more))) for mode, keys, more in rows}


@pytest.mark.usefixtures("encoders_loaded_once", "home")
@pytest.mark.parametrize("mode", LINES)
def test_a_mode_prints_one_object_with_the_keys_that_the_page_lists(mode: str) -> None:
    with serving(good) as endpoint:
        result = ended(LINES[mode].format(url=endpoint.url) + " --json")
    assert result.exit_code == 0, result.stderr
    found = strict(result.stdout)
    keys, more = documented()[mode]
    assert keys <= found.keys() <= keys | more


def test_the_page_lists_every_command_and_no_mode_that_is_not_tested() -> None:
    modes = documented().keys()
    assert modes == {*LINES, "run-demo"}
    assert {mode.split()[0] for mode in modes} == set(COMMANDS)


@pytest.mark.slow
def test_the_demo_prints_one_object_with_the_keys_that_the_page_lists(tmp_path: Path) -> None:
    found = strict(ended(f"run-demo --out {tmp_path} --seeds 1 --json").stdout)
    keys, more = documented()["run-demo"]
    assert keys <= found.keys() <= keys | more


def test_names_that_are_no_utf_8_are_escaped_in_the_object(home: Path) -> None:
    name = os.fsdecode(b"stores/\xff\xfe")
    shutil.copytree(home / "stores/mine", home / name)
    result = ended(f"extract-features mine --out '{name}' --status --json")
    assert strict(result.stdout)["stores"] == name


def test_a_result_with_an_error_is_an_object_then_a_line_and_an_error_alone_prints_none(home: Path) -> None:
    shutil.copytree(home / "stores/mine", home / "stores/less")
    (home / "my/audio/u03.wav").rename(home / "u03.wav")
    try:
        line = f"extract-features my/manifest.csv --out stores/less {QUICK} -o corpus.missing_audio=error --json"
        refused = ended(line)
        (home / "my/audio/u03.wav").write_bytes(b"no audio at all")
        failed = ended(f"{line} --strict")
    finally:
        shutil.copy(home / "u03.wav", home / "my/audio/u03.wav")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert failed.exit_code == 3
    assert [row["id"] for row in strict(failed.stdout)["failures"]] == ["u03"]
    assert failed.stderr.splitlines()[-1].startswith("error: stores/less: 1 failed rows")


def test_a_value_that_json_has_not_is_never_printed() -> None:
    from pipeline.commands.common import print_result

    with pytest.raises(ValueError, match="not JSON compliant"):
        print_result({"loss": float("nan")}, "", True)
