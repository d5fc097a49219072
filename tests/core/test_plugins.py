"""Names of encoders and objectives, and the code behind them: nothing but the user makes it run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import EmotionRankCLAP, register_audio_encoder
from pipeline.commands import compare_methods, extract_features, search_speech, train_heads
from pipeline.core.config import AudioConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.plugins import find, load_plugins
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.settings import resolve_extraction
from pipeline.training.train import train
from tests.own_code import ROOT, SPECTRUM, WAVES, WORDS, forget, plugin
from tests.own_code import forgotten as forgotten
from tests.own_code import many as many
from tests.own_code import own_stores as own_stores
from tests.stage_two import run_command


def test_unknown_names_are_said_with_every_other_problem_and_a_suggestion() -> None:
    wrong = ["audio.encoder=wavlm_sre", "text.encoder=none", "audio.max_secnds=3"]
    with pytest.raises(ManyProblems) as caught:
        resolve_extraction("my/manifest.csv", overrides=wrong)
    said = caught.value.problems
    assert len(said) == 3
    assert "audio.encoder = 'wavlm_sre': no such audio encoder; did you mean wavlm_ser?" in said[0]
    assert said[0].endswith("a custom one needs its plugin file: --plugin mine.py")
    assert "there are embedded, transformers, paraspeechclap;" in said[2]
    with pytest.raises(UsageError, match=r"audio encoder absent: no such audio encoder; .* --plugin mine\.py"):
        load_encoder("audio", AudioConfig(encoder="absent"), "cpu")


@pytest.mark.parametrize("name", ["embedded", "Mine", "a-b", "a b", "", "x" * 61, "../a", 3])
def test_a_name_is_ones_own_and_plain(name: Any) -> None:
    with pytest.raises(UsageError):
        register_audio_encoder(name)


@pytest.mark.parametrize("version", [0, "1", True, 1.5])
def test_a_version_counts(version: Any) -> None:
    with pytest.raises(UsageError, match="expected 1 or more"):
        register_audio_encoder("mine", version=version)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "SyntaxError: .*mine.py:1"),
        ("import json\njson.loads('x')\n", r"JSONDecodeError: .*\(mine.py:2\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(mine.py:2\)"),
        ("x = 1\n", "registers nothing; expected register_audio_encoder"),
        ("from pipeline import register_audio_encoder as r\nr('embedded')\n", "'embedded': the name of a built-in one"),
        ("from pipeline import register_text_encoder as r\nr('a')(3)\n", "a int; expected a class or a function"),
        ("\0", "mine.py"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_line_and_exit_2(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load_plugins([plugin(tmp_path, text)])
    assert "\n" not in str(caught.value)
    for path in (tmp_path / "absent.py", tmp_path, plugin(tmp_path, WORDS, "words.txt")):
        result = run_command(extract_features.main, "my/manifest.csv", "--plugin", path)
        assert result.exit_code == 2


def test_a_file_runs_once_leaves_no_bytecode_and_may_import_from_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugin(tmp_path, "DIM = 5\n", "beside_the_plugin.py")
    text = SPECTRUM.format(version=1, scale=1).replace("dim = 16_000, 8", "dim = 16_000, DIM")
    ran = f"from pathlib import Path\nwith Path({str(tmp_path / 'ran')!r}).open('a') as file:\n    file.write('x')\n"
    path = plugin(tmp_path, f"{ran}from beside_the_plugin import DIM\n{text}")
    load_plugins([path, path])
    load_plugins([str(path)])
    assert (tmp_path / "ran").read_text() == "x"
    assert find("audio encoder", "mine").make.dim == 5
    assert find("audio encoder", "mine").registered_by == path
    assert not list(tmp_path.glob("__pycache__/mine*"))
    assert list(tmp_path.glob("__pycache__/beside*"))  # Python's own import does
    assert sys.path[-1] == str(tmp_path)


def test_two_files_may_share_a_name_of_theirs_and_not_of_an_encoder(tmp_path: Path) -> None:
    other = SPECTRUM.format(version=1, scale=1).replace('"mine"', '"other"')
    load_plugins([plugin(tmp_path / "a", SPECTRUM.format(version=1, scale=1)), plugin(tmp_path / "b", other)])
    assert find("audio encoder", "mine").source != find("audio encoder", "other").source
    with pytest.raises(UsageError, match=r"'mine': registered twice \(.*a/mine.py:Spectrum and .*c/mine.py:Spectrum\)"):
        load_plugins([plugin(tmp_path / "c", SPECTRUM.format(version=1, scale=1))])


def test_code_that_runs_again_replaces_what_it_registered() -> None:
    for version in (2, 3):

        @register_audio_encoder("again", version=version)
        class Again:
            pass

    assert find("audio encoder", "again").version == 3


def test_nothing_but_the_user_makes_code_run(
    many: Path, own_stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trap of every likely name lies in the working folder, beside the config, in the stores, the run, the model."""
    run = train(own_stores, overrides=["epochs=1", "batch_size=4", "width=4", "threads=1"], out=tmp_path / "run")
    EmotionRankCLAP.from_pretrained(run.folder).save_pretrained(tmp_path / "model")
    forget()
    here = tmp_path / "here"
    for folder in (here, own_stores, run.folder, tmp_path / "model", many.parent):
        for name in ("mine.py", "words.py", "plugin.py", "mine/__init__.py", "conftest.py", "modeling_mine.py"):
            plugin(folder, f"open({str(tmp_path / 'sprung')!r}, 'w')\n{WORDS}", name)
    monkeypatch.chdir(here)
    plugin(here, "corpus: {reader: manifest}\naudio: {encoder: mine}\ntext: {encoder: words}\n", "c.yaml")
    plugin(here, "plugin: [mine.py]\nplugins: [mine.py]\naudio: {encoder: mine, plugin: mine.py}\n", "d.yaml")
    plugin(here, "objective: {name: mine, plugin: mine.py}\n", "m.yaml")
    for config in ("c.yaml", "d.yaml"):
        assert run_command(extract_features.main, config, "--out", here / "out").exit_code == 2
    for word in (["m.yaml"], ["-o", "objective.name=mine"]):
        assert run_command(train_heads.main, own_stores, *word, "--out", here / "r").exit_code == 2
    assert run_command(compare_methods.main, own_stores, "m.yaml", "--out", here / "r").exit_code == 2
    found = run_command(search_speech.main, own_stores, run.folder, "calm")
    assert found.exit_code == 2
    assert "text encoder words: no such text encoder" in found.stderr
    model = EmotionRankCLAP.from_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="audio encoder mine: no such audio encoder"):
        model.encode_speech([WAVES[0]], sample_rate=16_000)
    for folder in (here, own_stores, run.folder, tmp_path / "model", many.parent):
        shutil.rmtree(folder / "mine")
        for name in ("mine.py", "words.py", "plugin.py", "conftest.py", "modeling_mine.py"):
            (folder / name).unlink()
    assert not (tmp_path / "sprung").exists()


def test_one_module_alone_runs_files() -> None:
    calls = ("exec_module", "SourceFileLoader", "spec_from_", "entry_points", "run_path", "run_module")
    found = [
        path.relative_to(ROOT).as_posix()
        for room in ("cache", "pipeline")
        for path in (ROOT / room).rglob("*.py")
        if any(call in path.read_text(encoding="utf-8") for call in calls)
    ]
    assert found == ["pipeline/core/plugins.py"]


def test_an_installed_package_is_imported_when_a_name_is_missing_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("good_of_ours", SPECTRUM.format(version=4, scale=1)), ("bad_of_ours", "import nothing_such")):
        plugin(tmp_path, text, f"{name}.py")
        points = f"[emotionrankclap.plugins]\nmine = {name}\n"
        plugin(tmp_path / f"{name}-1.dist-info", points, "entry_points.txt")
        plugin(tmp_path / f"{name}-1.dist-info", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n", "METADATA")
    monkeypatch.syspath_prepend(str(tmp_path))
    resolve_extraction("my/manifest.csv")
    register_audio_encoder("here")(Path)
    find("audio encoder", "here")
    assert "good_of_ours" not in sys.modules
    config = resolve_extraction("my/manifest.csv", overrides=["audio.encoder=mine"])
    assert load_encoder("audio", config.audio, "cpu").fingerprint()["version"] == 4
    assert find("audio encoder", "mine").registered_by == "package good_of_ours"
    said = capsys.readouterr().err
    assert "package bad_of_ours is left out: plugin mine: ModuleNotFoundError: No module named 'nothing_such'" in said
    del sys.modules["good_of_ours"]
