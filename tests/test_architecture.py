"""The house of docs/architecture.md: rooms on floors, imports that run down, each name defined once."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "cache": 1,
    "pipeline.core": 2,
    "pipeline.data": 3,
    "pipeline.objectives": 3,
    "pipeline.extraction": 4,
    "pipeline.training": 4,
    "pipeline.evaluation": 5,
    "pipeline.inference": 5,
    "pipeline.experiments": 6,
    "pipeline.commands": 7,
    "pipeline": 7,
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("cache/**/*.py"), *ROOT.glob("pipeline/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "cache" else ".".join(parts[:2])


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


def test_the_rooms_are_those_of_the_page_and_the_api_alone_lies_flat() -> None:
    assert {_room(name) for name in _modules()} == FLOORS.keys()
    assert [path.name for path in ROOT.glob("pipeline/*.py")] == ["__init__.py"]
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for room, floor in FLOORS.items():
        if room != "pipeline":
            assert f"{floor}  {room.replace('.', '/')}/" in page


def test_imports_run_down_the_floors() -> None:
    modules = _modules()
    for name, path in modules.items():
        for other in _imports(path, everywhere=True) & modules.keys():
            if _room(other) == _room(name) or other == "pipeline":
                continue
            assert FLOORS[_room(other)] < FLOORS[_room(name)], f"{name} imports {other}"


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


def test_only_the_store_knows_hdf5_and_it_knows_no_audio() -> None:
    for name, path in _modules().items():
        imported = {each.split(".")[0] for each in _imports(path, everywhere=True)}
        absent = {"pipeline", "soundfile", "transformers"} if _room(name) == "cache" else {"h5py"}
        assert not imported & absent, name


def test_no_module_needs_what_only_posix_has_to_be_imported() -> None:
    absent = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}  # on Windows
    for name, path in _modules().items():
        assert not _imports(path, everywhere=False) & absent, name


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
_OS_CALLS = ("open", "replace", "rename", "remove", "unlink", "mkdir", "makedirs", "ftruncate")
_CALLS = {"sqlite3.connect", *(f"os.{name}" for name in _OS_CALLS)}


def _changes_files(call: ast.Call) -> bool:
    said = ast.unparse(call.func)
    if said.split(".")[-1] == "open":
        modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
        return any(set("wax+") & set(str(mode.value)) for mode in modes if isinstance(mode, ast.Constant))
    method = isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS
    return method or said in _CALLS or said.startswith("shutil.")


def test_files_are_changed_in_one_place() -> None:
    """So that the fault tests see every change; databases of SQLite and a log of Optuna are their own."""
    elsewhere = {
        "pipeline.data.captions.llm.responses",
        "pipeline.extraction.text_cache",
        "pipeline.experiments.sweeps.storage",
        "pipeline.extraction.audio.decoding",
    }  # the last only reads
    found = {
        name
        for name, path in _modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _changes_files(node)
    }
    assert found - elsewhere == {"cache.disk"}


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        (
            "import pipeline.training.train, pipeline.evaluation.evaluate",
            ("transformers", "soundfile", "torchaudio", "pipeline.extraction"),
        ),
        # torch's compiler takes as long to import as torch itself
        ("from pipeline.core.resources import torch_defaults; torch_defaults()(int)()", ("torch._dynamo", "sympy")),
        ("import pipeline.extraction.extract", ("pipeline.objectives.base", "pipeline.training")),
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


def _public_definitions() -> Iterator[tuple[str, str]]:
    """(name, module) of every public function and class at module level."""
    for module, path in _modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                    continue
                yield node.name, module


def test_a_public_name_is_defined_once() -> None:
    """But for `main`, which every command has."""
    where = defaultdict(list)
    for name, module in _public_definitions():
        where[name].append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1 and name != "main"} == {}
