"""A TAB: what is offered by click's own protocol, as each shell speaks it, and in a real bash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from pipeline.commands import completion
from pipeline.commands.completion import COMMANDS
from pipeline.core.config import TrainConfig

WARMUP = TrainConfig.model_fields["warmup"].description or ""
ROOT = Path(__file__).resolve().parents[2]
MANIFEST = "id,audio,split,speaker,emotion\na,a.wav,train,s1,happy\nb,b.wav,test1,s2,\nc,c.wav,test1,s2,sad\n"


def offered(shell: str, *words: str) -> list[str]:
    """What the command answers to a TAB after the last of `words`, line by line, by click's protocol."""
    name, variable = words[0], f"_{words[0].upper().replace('-', '_')}_COMPLETE"
    current = words[-1] if shell == "fish" else str(len(words) - 1)
    spoken = {variable: f"{shell}_complete", "COMP_WORDS": "\n".join(words), "COMP_CWORD": current}
    main = import_module(f"pipeline.commands.{name.replace('-', '_')}").main
    ended = CliRunner(env=spoken).invoke(main, prog_name=name)
    assert (ended.exit_code, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def values(main: str, *words: str) -> list[str]:
    """What is offered after the last of `words`, in this process, as click asks for it."""
    command = import_module(f"pipeline.commands.{main}").main
    items = ShellComplete(command, {}, main, "_X").get_completions(list(words[:-1]), words[-1])
    return [str(item.value) if item.type == "plain" else f"<{item.type}>" for item in items]


def each(start: str, *ends: str) -> list[str]:
    return [start + ("" if start.endswith(".") else "=") + end for end in ends]


@pytest.mark.parametrize(
    ("main", "words", "expected"),
    [
        ("extract_features", ["msp"], ["<file>", "msp_podcast"]),
        ("extract_features", ["x", "--encoders", ""], ["embedded", "paper"]),
        ("extract_features", ["x", "--engine", "r"], ["ray"]),
        ("extract_features", ["x", "--out", "st"], ["<dir>"]),
        ("extract_features", ["x", "--dev"], ["--device"]),
        ("evaluate_heads", ["s", "r", "--qu"], ["--quiet"]),
        ("train_heads", ["s", "--epochs", "5", "-o", "epochs=6", "-o", "epo"], ["epochs="]),
        ("evaluate_heads", ["s", "r", "--ver"], ["--verbose", "--version"]),
        ("extract_features", ["x", "-o", ""], ["store_dtype=", "corpus.", "captions.", "audio.", "text."]),
        ("extract_features", ["x", "-o", "audio.po"], ["audio.pooling=", "audio.poolings="]),
        ("extract_features", ["x", "-o", "audio.pooling="], each("audio.pooling", "mean", "hidden", "mean_std")),
        ("extract_features", ["x", "-o", "audio.pooling=mean_"], ["audio.pooling=mean_std"]),
        (
            "extract_features",
            ["x", "-o", "audio.encoder="],
            each("audio.encoder", "embedded", "wavlm_ser", "transformers", "paraspeechclap"),
        ),
        (
            "extract_features",
            ["x", "-o", "text.encoder="],
            each("text.encoder", "embedded", "transformers", "paraspeechclap"),
        ),
        ("extract_features", ["x", "-o", "corpus.outside_root="], each("corpus.outside_root", "true", "false")),
        ("extract_features", ["x", "-o", "captions.styles=[c"], ["captions.styles=[clap4emo]"]),
        ("extract_features", ["x", "-o", "audio.max_seconds="], []),
        ("extract_features", ["x", "-o", "audio.nonsense="], []),
        ("extract_features", ["x", "-o", "audio.model="], ["audio.model=null"]),
        ("write_captions", ["x", "-o", "writing.per="], ["writing.per=pair", "writing.per=utterance"]),
        ("train_heads", [""], ["<dir>"]),
        ("train_heads", ["stores", "sup"], ["<file>", "supcon"]),
        ("train_heads", ["stores", "--training", ""], ["fast", "paper", "small_corpus"]),
        (
            "train_heads",
            ["s", "-o", "objective.name="],
            each("objective.name", "rank_n_contrast", "soft_targets", "ridge", "no_heads"),
        ),
        ("train_heads", ["s", "-o", "objective.d"], each("objective.", "distance=", "denominator=", "divergence=")),
        ("evaluate_heads", ["stores", ""], ["<dir>"]),
        ("evaluate_heads", ["s", "r", "-o", "mmd"], ["mmd_gamma="]),
        ("evaluate_heads", ["s", "r", "-o", "mmd_gamma="], ["mmd_gamma=median"]),
        ("compare_methods", ["stores", "supcon", "clap_"], ["<file>", "clap_sce", "clap_template"]),
        ("compare_methods", ["stores", "-e", "tr"], ["trials="]),
        ("compare_methods", ["stores", "--zero-shot", ""], ["<dir>"]),
        ("compare_methods", ["stores", "--folds", ""], ["session", "speaker"]),
        ("sweep_heads", ["stores", ""], ["<file>", "default", "grid", "layers", "methods"]),
        ("sweep_heads", ["stores", "-o", "halving."], ["halving.factor=", "halving.rungs="]),
        ("sweep_heads", ["stores", "-o", "sampler=t"], ["sampler=tpe"]),
        ("search_speech", ["s", "r", "--audio", ""], ["<file>"]),
        ("search_speech", ["s", "r", "--device", "c"], ["cpu", "cuda"]),
        ("search_speech", ["nowhere", "r", "--split", ""], []),
        ("run_demo", ["--out", ""], ["<dir>"]),
    ],
)  # fmt: skip
def test_a_tab_offers_what_may_stand_there(main: str, words: list[str], expected: list[str]) -> None:
    assert values(main, *words) == expected


def test_filters_offer_the_names_that_the_stores_have(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    assert values("search_speech", str(tmp_path), "r", "--split", "") == ["test1", "train", "all"]
    assert values("search_speech", str(tmp_path), "r", "calm", "--emotion", "") == ["happy", "sad"]
    assert values("search_speech", str(tmp_path), "r", "calm", "--speaker", "s2") == ["s2"]


def test_every_preset_is_offered() -> None:
    for main, words, folder in (
        ("extract_features", [""], "corpora"),
        ("train_heads", ["s", ""], "methods"),
        ("sweep_heads", ["s", ""], "sweeps"),
    ):
        names = sorted(path.stem for path in (ROOT / "configs" / folder).glob("*.yaml"))
        assert values(main, *words) == ["<file>", *names]


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", ["train-heads", "s", "-o", "objective"], ["plain,objective."]),
        ("bash", ["train-heads", "s", "-o", "objective.targets", "=", "sm"], ["plain,smooth"]),
        ("bash", ["train-heads", "s", "-o", "schedule", "=", "linear", "--trai"], ["plain,--training"]),
        ("bash", ["train-heads", "s", "-o", "schedule", "=", "--trai"], ["plain,--training"]),
        ("bash", ["extract-features", "x", "--verify", "=", "d"], ["plain,deep"]),
        ("zsh", ["extract-features", "x", "--verify=d"], ["plain", "--verify=deep", "_"]),
        (
            "zsh",
            ["train-heads", "s", "-o", "warm"],
            ["plain", "warmup=", WARMUP],
        ),
        ("fish", ["extract-features", "x", "--verify=d"], ["plain,--verify=deep"]),
        ("fish", ["train-heads", "s", "-o", "obj"], ["plain,objective."]),
    ],
)
def test_a_shell_is_answered_in_its_own_way(shell: str, words: list[str], expected: list[str]) -> None:
    assert offered(shell, *words) == expected


def test_bash_at_an_equals_sign_is_offered_values_alone() -> None:
    said = offered("bash", "extract-features", "x", "-o", "audio.pooling", "=")
    assert said == ["plain,mean", "plain,hidden", "plain,mean_std"]


def test_a_tab_loads_nothing_heavy() -> None:
    program = (
        "import sys; from pipeline.commands import sweep_heads, write_captions;"
        "from click.shell_completion import ShellComplete;"
        "ask = lambda main, *words: ShellComplete(main, {}, 'x', '_X').get_completions(list(words[:-1]), words[-1]);"
        "assert ask(sweep_heads.main, 's', '-o', '') and ask(write_captions.main, 'x', '-o', '');"
        "print([name for name in ('torch', 'transformers', 'h5py', 'optuna', 'scipy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_process_of_its_own_answers_a_tab() -> None:
    program = "import sys; sys.argv = ['run-demo']; from pipeline.commands.run_demo import main; main()"
    spoken = {"_RUN_DEMO_COMPLETE": "bash_complete", "COMP_WORDS": "run-demo\n--se", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=os.environ | spoken, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("plain,--seeds\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_one_line_completes_every_command(shell: str) -> None:
    script = CliRunner().invoke(completion.main, [shell]).stdout
    for name in COMMANDS:
        assert f"_{name.upper().replace('-', '_')}_COMPLETE={shell}_complete" in script
        assert re.search(rf"^(complete|compdef|    compdef) .*{name}", script, re.MULTILINE)


def test_the_commands_that_are_completed_are_those_that_are_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert list(COMMANDS) == list(scripts)
    for name, target in scripts.items():
        module, attribute = target.split(":")
        assert getattr(import_module(module), attribute).name == name


TYPED = [
    ("train-heads st", "train-heads stores/"),
    ("train-heads stores sup", "train-heads stores supcon "),
    ("train-heads stores -o objective.den", "train-heads stores -o objective.denominator="),
    ("train-heads stores -o objective.targets=sm", "train-heads stores -o objective.targets=smooth "),
    ("extract-features x --verify=d", "extract-features x --verify=deep "),
    ("extract-features x --out=st", "extract-features x --out=stores/"),
    ("extract-features my_man", "extract-features my_manifest.csv "),
    ("train-heads stores --verb", "train-heads stores --verbose "),
]
STARTED = {
    "bash": (["--norc", "--noprofile", "-i"], """PS1=; eval "$({python} -m {module} bash)"\n"""),
    "zsh": (["-f", "-i"], """PS1=; autoload compinit; compinit -u -D; eval "$({python} -m {module} zsh)"\n"""),
}


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "becomes"), TYPED)
@pytest.mark.parametrize("shell", STARTED)
def test_a_real_shell_completes_the_line(shell: str, typed: str, becomes: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    shown = _after_a_tab(shell, typed, _bin(tmp_path), tmp_path).replace("\a", "")
    assert shown.endswith(becomes) if shell == "bash" else becomes.rstrip() in shown


def _bin(folder: Path) -> Path:
    """The commands as pip would install them, and a folder and a file to find."""
    (folder / "stores").mkdir()
    (folder / "my_manifest.csv").write_text(MANIFEST)
    place = folder / "bin"
    place.mkdir()
    for name in COMMANDS:
        module = f"pipeline.commands.{name.replace('-', '_')}"
        (place / name).write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        (place / name).chmod(0o755)
    return place


def _after_a_tab(shell: str, typed: str, place: Path, folder: Path) -> str:
    """What an interactive shell shows after `typed` and a TAB."""
    import pty

    words, setup = STARTED[shell]
    process, terminal = pty.fork()
    if not process:
        os.chdir(folder)
        paths = {"PATH": f"{place}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "TERM": "dumb", "PS1": "> "}
        os.execvpe(shell, [shell, *words], os.environ | paths)
    try:
        os.write(terminal, setup.format(python=sys.executable, module="pipeline.commands.completion").encode())
        os.write(terminal, b'echo rea""dy\n')
        _read_until(terminal, "ready")
        os.write(terminal, f"{typed}\t".encode())
        return _read_until(terminal, None)
    finally:
        os.write(terminal, b"\x03\nexit\n")
        os.close(terminal)
        os.waitpid(process, 0)


def _read_until(terminal: int, mark: str | None, quiet: float = 2.5) -> str:
    """What a terminal shows until `mark`, or until nothing comes for `quiet` seconds."""
    import select

    shown, last = "", time.monotonic()
    while time.monotonic() - last < (20 if mark else quiet):
        if select.select([terminal], [], [], 0.1)[0]:
            shown, last = shown + os.read(terminal, 65536).decode(errors="replace"), time.monotonic()
        if mark and mark in shown:
            break
    return shown
