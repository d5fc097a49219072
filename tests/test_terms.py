"""Names are the field's: private words that once stood in the code and the pages do not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_WORDS = """
    Material Materials Stack Member Race Side Standing UnitRows Sampled
    Recordings Recording Work Job Encoded Crew Ledger
    Exhibit Clip OwnText OwnSpeech OwnObjectiveConfig OWN Manner DEEPEST MOST LONGEST BLOCK NAME lacks needed_labels
    foresee foresee_writing told said say in_short on_one_line spoilt astray taus laid_out
    seal_of carry carried stand_in
    hire dismiss stillborn strength asks lede guard wide taken spread have_length_1 mistakes slips
"""
IDENTIFIERS = set(_WORDS.split())
PHRASES = (
    "of one's own",
    "own parts",
    "another chance",
    "goes on where it stopped",
    "said aloud",
    "is no JSON",
    "who train on",
)


def _identifiers(path: Path) -> set[str]:
    """Every name that the file defines, binds or reads."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


@pytest.mark.parametrize("room", ["cache", "pipeline"])
def test_no_identifier_is_a_private_word(room: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / room).rglob("*.py")
        for name in _identifiers(path) & IDENTIFIERS
    }
    assert found == set()


def test_no_page_and_no_message_speaks_of_them() -> None:
    texts = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "cache").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    texts += [ROOT / "README.md", *(ROOT / "tests/commands/kept").rglob("*.txt")]
    found = {
        (str(path.relative_to(ROOT)), phrase)
        for path in texts
        for phrase in PHRASES
        if re.search(re.escape(phrase).replace("\\ ", r"\s+"), path.read_text(encoding="utf-8"))
    }
    assert found == set()
