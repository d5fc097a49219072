"""A folder in which a page's commands can run: what the page speaks of lies there, made when it is first named."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import soundfile

from tests.docs.pages import Block, Line, blocks, simple_commands
from tests.docs.tables import NOT_RUN_PYTHON, PLAIN, STANDS_FOR, reason_not_to_run
from tests.docs.warm import COMMANDS
from tests.speech import RATE, tone

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SWEEPS = ROOT / "docs/sweeps.md"  # its YAML stands in for a sweep of one's own
OWN_PARTS = ROOT / "docs/encoders.md", ROOT / "docs/objectives.md"  # their files are the plugins of other pages
_PATHS = re.compile(r"/?[\w.-]+(?:/[\w.-]+)*")
_LIMIT = 240  # seconds that one command line may take


def fixed(hub: Path) -> dict[str, str]:
    """What libraries read when they are loaded, and so must be the warm process's own."""
    return {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(hub / "matplotlib"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@dataclass
class Warm:
    """The warm process and the folder of commands that lead to it."""

    shims: Path
    process: subprocess.Popen[str]

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def start_warm(folder: Path, hub: Path) -> Warm:
    """Start the process and write a shim for every command; the hub's client reads where `hub` is when it is loaded."""
    socket, shims = folder / "socket", folder / "bin"
    shims.mkdir()
    for name in (*COMMANDS, "python", "session"):
        script = f'#!/bin/sh\nexec {sys.executable} -S -E {HERE / "shim.py"} {name} {socket} "$@"\n'
        (shims / name).write_text(script)
        (shims / name).chmod(0o755)
    environment = os.environ | fixed(hub)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.docs.warm", str(socket)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return Warm(shims, process)


@dataclass
class Sandbox:
    """One page's folder. `shared` maps a place's name to a folder or file that is made once for all pages."""

    root: Path
    warm: Warm
    endpoint: str
    hub: Path
    shared: dict[str, Callable[[Path], None]]
    page: Path
    _session: subprocess.Popen[str] | None = field(default=None, repr=False)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("LANG", "TMPDIR", "VIRTUAL_ENV")}
        return (
            kept
            | fixed(self.hub)
            | {
                "PATH": f"{self.warm.shims}:{os.environ['PATH']}",
                "HOME": str(self.root / "home"),
                "OPENAI_API_KEY": "of-nobody",
                "OPENAI_BASE_URL": self.endpoint,
            }
        )

    def meant(self, text: str) -> str:
        """`text` with what the page writes replaced by what stands for it here."""
        written = re.compile(rf"(?<![\w/.])({'|'.join(map(re.escape, STANDS_FOR))})")
        return written.sub(lambda found: STANDS_FOR[found[1]].format(root=self.root, endpoint=self.endpoint), text)

    def run(self, line: Line) -> subprocess.CompletedProcess[str] | None:
        """Run the line by bash after what it names was made; None where all of it is left out."""
        commands = simple_commands(line.text)
        if all(reason_not_to_run(words) for words in commands):
            return None
        for words in commands:
            self.provide(self.meant(" ".join(_read_by(words))))
        self.provide(" ".join(re.findall(r"[^<]<\s*([\w./-]+)", line.text)))
        left_out = [words for words in commands if reason_not_to_run(words)]
        return self._bash(self.meant(line.text), left_out)

    def _bash(self, text: str, left_out: list[list[str]]) -> subprocess.CompletedProcess[str]:
        """What is left out does nothing: a function of its first word's name, which knows nothing else."""
        nothing = "".join(f"{self.meant(words[0])}() {{ :; }}\n" for words in left_out)
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{nothing}{text}"], cwd=self.root, env=self.environment(),
            capture_output=True, text=True, timeout=_LIMIT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def command(self, *words: str) -> None:
        """Run one of our commands, to make a place; it must succeed."""
        ended = subprocess.run(words, cwd=self.root, env=self.environment(), capture_output=True, text=True)
        assert ended.returncode == 0, (words, ended.stderr)

    def execute(self, block: Block) -> str:
        """Run a block of Python after the page's earlier ones; returns the traceback, "" for none."""
        if any(part in block.text for part in NOT_RUN_PYTHON):
            return ""
        text = self.meant(block.text)
        for literal in _literals(text):
            self.provide(literal)
        if block.file:
            self._write(block.file, text)
            return ""
        session = self._started()
        assert session.stdin is not None
        assert session.stdout is not None
        asked = {"text": text, "line": block.line, "page": block.page.name}
        session.stdin.write(json.dumps(asked) + "\n")
        session.stdin.flush()
        return _answer(session.stdout)

    def _started(self) -> subprocess.Popen[str]:
        if self._session is None:
            self._session = subprocess.Popen(
                ["session"], cwd=self.root, env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, executable=self.warm.shims / "session",
            )  # fmt: skip
        return self._session

    def close(self) -> None:
        if self._session is not None and self._session.stdin is not None:
            self._session.communicate()

    def provide(self, said: str) -> None:
        """Make every place that `said` names, or names a file of, and that is not there."""
        for name in _PATHS.findall(said):
            path = self.root / name
            for place in (path.parent, path):
                if place.is_relative_to(self.root) and not place.exists():
                    self._make(place, place.relative_to(self.root).as_posix(), said)

    def _make(self, path: Path, name: str, said: str) -> None:
        """One place: of `shared`, or one that depends on the page, a run of its stores or a file that it shows."""
        for place, make in self.shared.items():
            if re.fullmatch(place, name):
                path.parent.mkdir(parents=True, exist_ok=True)
                make(path)
                return
        if re.fullmatch(r"(shared/)?runs/[\w-]+", name):
            stores = re.search(r"\S*stores/[\w-]+", said)
            self.provide(stores[0] if stores else "stores/msp")
            self.command("train-heads", stores[0] if stores else "stores/msp", "--out", str(path))
        elif re.fullmatch(r"sweeps/[\w-]+/best\.yaml", name):
            self.provide("stores/msp")
            self.command("sweep-heads", "stores/msp", "--trials", "3", "--out", str(path.parent))
        elif re.fullmatch(r"[\w-]+\.wav", name):
            soundfile.write(path, tone(0.6, pitch=120 + 10 * len(name)), RATE)
        elif name == "sentences.txt":
            self._write(name, "The person is speaking with joy.\n\nThe person is speaking calmly.\n")
        elif re.fullmatch(r"[\w/-]+\.(yaml|py|csv|jsonl|json)", name):
            near = [*blocks(self.page), *(blocks(SWEEPS) if "sweep-heads" in said else ())]
            near += [block for page in OWN_PARTS for block in blocks(page) if block.file]
            named = [block for block in near if block.file == name]
            shown = named or [block for block in near if block.language == path.suffix[1:] and not block.file]
            if shown:
                self._write(name, self.meant(shown[0].text))
            elif "train-heads" in said and path.suffix == ".yaml":
                self._write(name, "method: mine\nobjective: {name: rank_n_contrast}\n")

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _read_by(words: list[str]) -> Iterator[str]:
    """The words that name what a command reads: all but where it writes."""
    asks = any(word.startswith(("--status", "--verify")) for word in words)
    for before, word in zip(["", *words], words, strict=False):
        if words[0] not in PLAIN and (before != "--out" or asks):
            yield word


def _literals(code: str) -> Iterator[str]:
    """The strings in `code`, but for where it says that something is written."""
    written = set()
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "out":
            written |= {id(part) for part in ast.walk(node.value)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in written:
            yield node.value


def _answer(stream: IO[str]) -> str:
    """The traceback of the block, with what it printed before that; "" where it went well."""
    printed = ""
    for line in stream:
        if line.startswith("\N{END OF TRANSMISSION}"):
            failed = str(json.loads(line[1:]))
            return failed and printed + failed
        printed += line
    return f"the session died: {printed}"


@contextmanager
def replayed(sandbox: Sandbox) -> Iterator[Sandbox]:
    (sandbox.root / "home").mkdir(parents=True)
    try:
        yield sandbox
    finally:
        sandbox.close()
        shutil.rmtree(sandbox.root, ignore_errors=True)
