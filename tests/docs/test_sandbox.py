"""How the replay reads a page: what it replaces, what it makes beforehand, what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import UsageError
from tests.docs.sandbox import Sandbox, Warm, _literals, _read_by
from tests.docs.tables import reason_not_to_run
from tests.docs.test_pages import _check_presets, _ours


def test_what_stands_for_what_is_replaced_once_and_only_at_the_start_of_a_path(tmp_path: Path) -> None:
    box = Sandbox(tmp_path / "data", Warm(tmp_path, None), "http://127.0.0.1:1/v1", tmp_path, {}, tmp_path)
    said = "x --audio-root /data/MSP -o a=http://127.0.0.1:8080/v1 https://host/data/x a/data/b .venv/bin/pip"
    root = tmp_path / "data"
    assert box.meant(said) == (
        f"x --audio-root {root}/data/MSP -o a=http://127.0.0.1:1/v1 https://host/data/x a/data/b pip"
    )


def test_where_a_command_writes_is_not_made_beforehand_unless_it_only_looks() -> None:
    words = ["extract-features", "my/manifest.csv", "--out", "stores/mine"]
    assert "stores/mine" not in list(_read_by(words))
    assert "my/manifest.csv" in list(_read_by(words))
    assert "stores/mine" in list(_read_by([*words, "--status"]))
    assert "stores/mine" in list(_read_by([*words, "--verify=deep"]))
    assert not list(_read_by(["cat", "stores/mine"]))
    assert list(_literals("f('a', out='b', x=g(out=Path('c')))")) == ["a"]


def test_a_place_is_made_once_by_what_makes_it_and_for_a_file_in_it(tmp_path: Path) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path.name)
        path.mkdir()

    box = Sandbox(tmp_path, Warm(tmp_path, None), "", tmp_path, {r"stores/\w+": make}, tmp_path / "no.md")
    (tmp_path / "no.md").write_text("")
    for said in ("x stores/one/audio.h5", "stores/one", "files=[stores/two/c.jsonl]", "other/three ../stores/four"):
        box.provide(said)
    assert made == ["one", "two"]


def test_only_what_the_table_names_is_left_out() -> None:
    assert reason_not_to_run(["pip", "install", "x"])
    assert reason_not_to_run([".venv/bin/pip", "install", "x"])
    assert reason_not_to_run(["search-speech", "a", "b", "--serve"])
    assert reason_not_to_run(["pytest"])
    for words in (["pip", "installer"], ["pips", "install"], ["train-heads", "pip", "install"], ["x", "--served"]):
        assert not reason_not_to_run(words), words


@pytest.mark.parametrize(
    "words",
    [
        "extract-features msp_podcats",
        "extract-features msp_podcast --encoders papers",
        "extract-features my/manifest.csv -o audio.poling=mean",
        "train-heads stores/msp supcom",
        "train-heads stores/msp --training smal_corpus",
        "train-heads stores/msp -o learning_rat=1",
        "evaluate-heads stores/msp runs/a -o trial=3",
        "compare-methods stores/msp supcom",
        "compare-methods stores/msp -e trial=3",
        "sweep-heads stores/msp defaults",
        "sweep-heads stores/msp -o repeat=3",
        "write-captions msp_podcast -o llm.modell=x",
    ],
)
def test_a_preset_or_a_setting_that_is_not_there_would_be_seen(words: str) -> None:
    from importlib import import_module

    from tests.docs.warm import COMMANDS

    name, *rest = _ours(words.split())
    context = import_module(COMMANDS[name]).main.make_context(name, rest)
    with pytest.raises(UsageError):
        _check_presets(name, context.params)
