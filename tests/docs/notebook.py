"""docs/first_hour.ipynb, run by a real kernel from the first cell to the last, and written with its outputs.

python -m tests.docs.notebook        # some minutes on two cores; then look at it, and commit
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT

PATH = ROOT / "docs/first_hour.ipynb"
MAX_BYTES = 300_000
MACHINE = re.compile(r"/(?:home|root|tmp|work|usr|var|Users)/|[A-Z]:\\\\|site-packages")  # a path of one machine


def executed(folder: Path) -> Any:
    """The notebook with the outputs of a run in `folder`. Raises nbclient's CellExecutionError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's machinery, not of ours
        import nbformat
        from nbclient import NotebookClient

        book = nbformat.read(PATH, as_version=4)
        os.environ |= {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
        os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, of a notebook without ipywidgets
        client = NotebookClient(book, timeout=600, record_timing=False, resources={"metadata": {"path": str(folder)}})
        client.execute()
    book.metadata = {"kernelspec": book.metadata.kernelspec, "language_info": {"name": "python"}}
    return book


def outputs(book: Any) -> list[Any]:
    """Of every cell, in order."""
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(book: Any) -> list[str]:
    """Every text of an output; pictures and sounds are none."""
    found = []
    for output in outputs(book):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [
            re.sub(r"base64,[\w+/=]+", "", text) for kind, text in output.get("data", {}).items() if "text" in kind
        ]
    return found


def main() -> None:
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        book = executed(Path(folder))
    nbformat.write(book, PATH)
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
