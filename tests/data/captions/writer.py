"""write-captions on a corpus of a few empty clips: its words, its runs, what it leaves."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipeline.commands.write_captions import main
from pipeline.data.captions.llm.responses import RESPONSES
from tests.data.captions.endpoint import Endpoint, Reply, caption

KEY = "sk-very-secret-key"
ROWS = [  # id, split, valence, arousal, emotion; (4.2, 3) is a pair of both phrasings
    ("a", "train", "4.2", "3", "angry"),
    ("b", "train", "4.2", "3.0", "happy"),
    ("c", "dev", "1.666666", "5", "sad"),
    ("d", "test1", "4.2", "3", "angry"),
    ("e", "test1", "7", "1", "happy"),
    ("f", "train", "", "", ""),
]
WRITER = [sys.executable, "-c", "from pipeline.commands.write_captions import main; main()"]
REQUESTS = 4  # the distinct (phrasing, pair)


def good(name: str, prompt: str, before: int) -> Reply:
    return Reply(text=caption(name))


def corpus(folder: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    folder.mkdir()
    (folder / "x.wav").write_bytes(b"")
    table = ["id,audio,split,valence,arousal,emotion"]
    table += [",".join((name, f"{name}.wav", *rest)) for name, *rest in rows]
    for name, *_ in rows:
        (folder / f"{name}.wav").write_bytes(b"")
    (folder / "manifest.csv").write_text("\n".join(table) + "\n")
    return folder / "manifest.csv"


def many(folder: Path, count: int) -> Path:
    """`count` utterances, each a pair of its own."""
    return corpus(folder, [(f"u{i}", "train", f"{1 + i * 0.01:.2f}", "4", "sad") for i in range(count)])


def words(manifest: Path, out: Path, endpoint: Endpoint | str, *extra: str) -> list[str]:
    settings = {
        "llm.base_url": endpoint if isinstance(endpoint, str) else endpoint.url,
        "llm.model": "scripted",
        "writing.prompts_grid": False,
    }
    found = dict(part.split("=", 1) for part in extra if "=" in part)
    settings |= found
    flags = [part for part in extra if "=" not in part]
    return [
        *(str(manifest), "--out", str(out)),
        *(word for k, v in settings.items() for word in ("-o", f"{k}={v}")),
        *flags,
    ]


def run(manifest: Path, out: Path, endpoint: Endpoint | str, *extra: str) -> Result:
    result = CliRunner().invoke(main, words(manifest, out, endpoint, *extra), catch_exceptions=False)
    assert KEY not in result.output
    return result


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kept(out: Path) -> list[dict[str, Any]]:
    """Every response in the cache of `out`, oldest first."""
    if not (out / RESPONSES).exists():
        return []
    with closing(sqlite3.connect(out / RESPONSES)) as found:
        if not found.execute("PRAGMA user_version").fetchone()[0]:
            return []
        return [json.loads(text) for (text,) in found.execute("SELECT response FROM responses ORDER BY id")]


def wait(done: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
