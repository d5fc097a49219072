"""docs/promises.md and the tests that it names are the same ones."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/promises.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert len(named) > 20
    assert not [path for path in named if not (ROOT / path).is_file()]


def test_every_test_of_faults_inputs_and_security_stands_on_the_page() -> None:
    kits = (path for kit in ("faults", "inputs", "security") for path in (ROOT / "tests" / kit).glob("test_*.py"))
    missing = {path.relative_to(ROOT).as_posix() for path in kits if path.name not in PAGE}
    assert not missing


def test_every_line_of_the_page_says_what_shows_it() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| promise", "|---"))]
    assert len(rows) > 25
    for row in rows:
        promise, shown, cases, _ = (cell.strip() for cell in row.strip("|").split("|"))
        assert promise.endswith(".")
        assert ".py`" in shown or "same tests" in shown, promise
        assert re.search(r"\d|as above", cases), promise
