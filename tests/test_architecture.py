"""Imports run one way, and each room imports only what its work needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("cache/**/*.py"), *ROOT.glob("pipeline/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(path: Path, *, everywhere: bool) -> set[str]:
    """Modules named by import statements; at module level only, unless `everywhere`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_the_store_knows_nothing_of_the_pipeline() -> None:
    for name, path in _modules().items():
        if name.split(".")[0] == "cache":
            wrong = {
                i
                for i in _imports(path, everywhere=True)
                if i.split(".")[0] in ("pipeline", "soundfile", "transformers")
            }
            assert not wrong, name


def test_only_the_store_knows_hdf5() -> None:
    for name, path in _modules().items():
        if name.split(".")[0] == "pipeline":
            assert "h5py" not in _imports(path, everywhere=True), name


_METHODS = {
    "write_text",
    "write_bytes",
    "unlink",
    "mkdir",
    "rmdir",
    "touch",
    "rename",
    "symlink_to",
    "save_file",
    "savefig",
}
_CALLS = {f"os.{name}" for name in ("open", "replace", "rename", "remove", "unlink", "mkdir", "makedirs", "ftruncate")}


def _changes_files(call: ast.Call) -> bool:
    said = ast.unparse(call.func)
    if said.split(".")[-1] == "open":
        modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
        return any(set("wax+") & set(str(mode.value)) for mode in modes if isinstance(mode, ast.Constant))
    method = isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS
    return method or said in _CALLS or said.startswith("shutil.")


def test_files_are_changed_in_one_place() -> None:
    """So that the fault tests see every change; two append-only logs, one of them Optuna's, are their own."""
    elsewhere = {
        "pipeline.data.captions.llm.responses",
        "pipeline.experiments.sweeps.study",
        "pipeline.extraction.audio.decoding",
    }  # the last only reads
    found = {
        name
        for name, path in _modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _changes_files(node)
    }
    assert found - elsewhere == {"cache.disk"}


def test_no_module_imports_itself_by_a_circle() -> None:
    modules = _modules()
    graph = {name: _imports(path, everywhere=False) & modules.keys() - {name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_parts_import_nothing_above_them() -> None:
    stages = (
        "pipeline.extraction.extract",
        "pipeline.training.train",
        "pipeline.inference.search",
        "pipeline.experiments.demo",
    )
    parts = (
        "pipeline.data.corpora",
        "pipeline.data.captions",
        "pipeline.extraction.encoders",
        "pipeline.objectives",
        "pipeline.training.heads",
    )
    for name, path in _modules().items():
        imports = _imports(path, everywhere=True)
        if not name.startswith("pipeline.commands"):
            assert not any(i.startswith("pipeline.commands") for i in imports), name
        if name.startswith(parts):
            assert not any(i.startswith(stages) for i in imports), name


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        (
            "import pipeline.training.train, pipeline.evaluation.evaluate",
            ("transformers", "soundfile", "torchaudio", "pipeline.extraction.encoders"),
        ),
        ("import pipeline.extraction.extract", ("pipeline.objectives", "pipeline.training.heads")),
        *(
            (f"import pipeline.commands.{file.stem}", ("torch", "transformers", "numpy", "pydantic", "h5py"))
            for file in sorted((ROOT / "pipeline/commands").glob("[!_]*.py"))
        ),
    ],
)
def test_a_stage_loads_only_what_its_work_needs(program: str, absent: tuple[str, ...]) -> None:
    check = f"{program}; import sys; print([name for name in {absent!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"


def test_no_file_is_long_and_none_is_named_utils() -> None:
    for name, path in _modules().items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, name
        assert "util" not in path.stem, name
