"""docs/first_hour.ipynb: its cells compile and know their names; run by a real kernel, they end well (`-m docs`)."""

from __future__ import annotations

import ast
import builtins
import os
import warnings
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from tests.docs.pages import ROOT

PATH = ROOT / "docs/first_hour.ipynb"
BOOK = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in BOOK.cells if cell.cell_type == "code"]


def test_the_notebook_is_committed_without_outputs() -> None:
    nbformat.validate(BOOK)
    assert len(CODE) >= 10
    assert not [cell.id for cell in CODE if cell.outputs or cell.execution_count is not None]


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's machinery, not of ours
        from nbclient import NotebookClient

        book = nbformat.read(PATH, as_version=4)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds, "the plane and a player"
    assert "error" not in {output.output_type for output in shown}
    assert os.listdir(tmp_path / "first-hour/runs")
    if keep := os.environ.get("KEEP_NOTEBOOK"):
        nbformat.write(book, keep)
