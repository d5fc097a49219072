"""docs/first_hour.ipynb: its cells compile, know their names and show what they print; they run (`-m docs`)."""

from __future__ import annotations

import ast
import builtins
import os
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from tests.docs.notebook import MACHINE, MAX_BYTES, PATH, executed, outputs, texts

BOOK = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in BOOK.cells if cell.cell_type == "code"]


def test_the_notebook_holds_the_outputs_of_one_run_and_nothing_of_the_machine() -> None:
    nbformat.validate(BOOK)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert len(CODE) >= 10
    shown = outputs(BOOK)
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 2
    assert {output.output_type for output in shown} <= {"stream", "display_data", "execute_result"}  # no traceback
    assert {output.name for output in shown if output.output_type == "stream"} == {"stdout"}  # and no warning
    said = texts(BOOK)
    assert sum(map(len, said)) > 2_000
    assert not [text for text in said if MACHINE.search(text)]
    assert "AOC (arousal ordinal consistency)" in "".join(said)
    assert PATH.stat().st_size < MAX_BYTES
    assert BOOK.metadata.language_info == {"name": "python"}


def test_every_cell_compiles_and_uses_names_that_an_earlier_line_made() -> None:
    known = set(dir(builtins))
    for cell in CODE:
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("cache", "pipeline"):
                module = import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        known |= {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not {node.id for node in names} - known, cell.id


@pytest.mark.docs
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "IPYTHONDIR", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, "")
    book = executed(tmp_path)
    kinds = {kind for output in outputs(book) for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds, "the curves and the plane, a table and a player"
    assert len(outputs(book)) == len(outputs(BOOK))
    assert os.listdir(tmp_path / "first-hour/runs")
