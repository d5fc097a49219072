"""What users read: every --help, and a line for every kind of mistake. Read the files in `kept` as a user would."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

import pipeline.extraction.extract
from cache.disk import writer_lock
from cache.stores import open_stores
from cache.writer import StoreWriter
from pipeline import EmotionRankCLAP
from pipeline.commands.completion import COMMANDS
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.presets import preset_names
from pipeline.extraction.encoders import load_encoder
from pipeline.training.run_folder import Run
from tests.commands.slips import SLIPS, WITHOUT
from tests.commands.texts import FOLDER, ended, said, same_as_kept

ROOT = Path(__file__).resolve().parents[2]
FAULTY = """\
id,audio,split,valence,arousal
a,audio/u00.wav,train,3,3
a,audio/u01.wav,trian,3,3
c,audio/no.wav,test,9,x
"""
FILES = {
    "broken.yaml": "audio: {pooling: mean\n",
    "empty.yaml": "",
    "circle.yaml": "base: my/circle.yaml\n",
    "twice.yaml": "audio: {layer: 1}\naudio: {layer: 2}\n",
    "columns.csv": "name,file\na,audio/u00.wav\n",
    "faulty.csv": FAULTY,
    "header.csv": "id,audio,split,valence,arousal\n",
    "outside.csv": "id,audio,split,valence,arousal\na,../../secret.wav,train,3,3\n",
    "spaceless.yaml": "sampler: tpe\n",
    "space.yaml": "space:\n  learning_rat: [1.0e-4]\n  objective.symmetric: [maybe]\n",
    "bad.wav": "this is no audio" * 400,
}


@pytest.fixture(scope="module")
def scene(corpus: Path, stores: Path, trained: Run, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a corpus, stores and a run that are whole, and others that are not."""
    home = tmp_path_factory.mktemp("home")
    for origin, name in ((corpus.parent, "my"), (stores, "stores/mine"), (trained.folder, "runs/erc")):
        shutil.copytree(origin, home / name)
    for name, text in FILES.items():
        (home / "my" / name).write_text(text)
    shutil.copytree(home / "my/audio", home / "changed/audio")
    (home / "changed/audio/u03.wav").write_bytes(b"another recording")
    (home / "few").mkdir()
    shutil.copy(home / "my/audio/u01.wav", home / "few")
    _spoilt_stores(home, small)
    shutil.copytree(home / "runs/erc", home / "runs/damaged")
    (home / "runs/damaged/run.json").write_text("{}")
    EmotionRankCLAP.from_pretrained(home / "runs/erc").save_pretrained(home / "exported/erc")
    shutil.copytree(home / "exported/erc", home / "exported/damaged")
    _flip(home / "exported/damaged/model.safetensors", -1)
    return home


def _spoilt_stores(home: Path, small: Path) -> None:
    shutil.copytree(small, home / "stores/other")
    for name in ("locked", "damaged", "cut", "none", "failed"):
        shutil.copytree(home / "stores/mine", home / "stores" / name)
    _flip(home / "stores/damaged/audio.h5", -4)
    whole = (home / "stores/cut/audio.h5").read_bytes()
    (home / "stores/cut/audio.h5").write_bytes(whole[: len(whole) // 2])
    (home / "stores/none/audio.h5").write_bytes(b"no store")
    with StoreWriter(open_stores(home / "stores/failed").audio) as writer:
        writer.reset([3])
        writer.fail(3, "cannot be decoded (Format not recognised)", bytes(16))


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module", autouse=True)
def encoders_of_extraction_loaded_once() -> Iterator[None]:
    """As `encoders_loaded_once` for searches; the one without a package loads another module's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.extraction.extract, "load_encoder", cache(load_encoder))
        yield


@pytest.fixture
def here(scene: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """That folder as the working one, without keys, two of its folders held by another process; its places' words."""
    monkeypatch.chdir(scene)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with writer_lock(scene / "stores/locked"), writer_lock(scene / "runs/locked"):
        yield {str(scene): "HOME", sysconfig.get_paths()["purelib"]: "PACKAGES"}


@pytest.mark.parametrize("command", [*COMMANDS, "completion"])
def test_help_is_what_is_kept(command: str) -> None:
    result = ended(f"{command} --help")
    assert (result.exit_code, result.stderr) == (0, "")
    same_as_kept(f"help/{command}", [result.stdout], {})


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("extract-features", "corpora"),
        ("extract-features", "encoders"),
        ("write-captions", "corpora"),
        ("train-heads", "methods"),
        ("train-heads", "training"),
        ("compare-methods", "methods"),
        ("sweep-heads", "sweeps"),
    ],
)
def test_a_help_names_every_preset(command: str, kind: str) -> None:
    assert set(preset_names(kind)) <= set(re.findall(r"\w+", ended(f"{command} --help").stdout))


def test_a_help_loads_no_library_but_click() -> None:
    program = (
        "import sys; from importlib import import_module\n"
        f"for name in {[name.replace('-', '_') for name in COMMANDS]!r}:\n"
        "    import_module(f'pipeline.commands.{name}').main(['--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pydantic', 'yaml') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_a_command_goes_by_its_name_however_it_was_started() -> None:
    said = CliRunner().invoke(train_heads, ["--help"], prog_name="python -m somewhere").stdout
    assert said.startswith("Usage: train-heads [OPTIONS] STORES... [CONFIG]\n")


@pytest.mark.usefixtures("encoders_loaded_once")
@pytest.mark.parametrize("topic", SLIPS)
def test_every_mistake_has_the_text_that_is_kept(topic: str, here: dict[str, str]) -> None:
    same_as_kept(topic, [_settled(said(line)) for line in SLIPS[topic]], here)


def test_a_missing_extra_has_the_text_that_is_kept(here: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for package, line in WITHOUT.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            patch.setattr(pipeline.extraction.extract, "load_encoder", load_encoder)
            for module in ("sweep", "study"):  # imported with optuna by an earlier test
                patch.delitem(sys.modules, f"pipeline.experiments.sweeps.{module}", raising=False)
            texts.append(f"without {package}\n{_settled(said(line))}")
    same_as_kept("extras", texts, here)


def test_every_text_names_what_is_wrong_what_is_expected_and_what_to_do() -> None:
    texts = [part for path in sorted(FOLDER.glob("*.txt")) for part in re.split(r"\n\n", path.read_text())]
    assert len(texts) > 100
    for text in texts:
        code = re.search(r"exit (?:code )?(\d+)", text)
        assert code, text
        assert int(code[1]) in (1, 2, 3, 4, 5, 75), text
        last = text.rstrip("\n").splitlines()[-1].removeprefix("error: ")
        assert re.search(r"^.+?: .+; expected .+\. \S.+$|^.+: \d+ problems?\. .+\.$", last), text
        assert text.count("error: ") <= 1, text
        assert "Traceback" not in text, text


def test_there_is_a_text_for_every_topic_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {*SLIPS, "extras"}
    assert {path.stem for path in (FOLDER / "help").glob("*.txt")} == {*COMMANDS, "completion"}


def _settled(text: str) -> str:
    """Without what differs from run to run: process numbers, hashes, seconds."""
    text = re.sub(r"process \d+ on \S+", "process 123 on a machine", text)
    text = re.sub(r"\b[0-9a-f]{16,64}\b", "HASH", text)
    return re.sub(r"in \d+ s, load.*", "in 0 s", text)
