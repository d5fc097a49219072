"""No module of ours can unpickle, evaluate, run a shell or fetch code: read off the source, whatever runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for room in ("cache", "pipeline") for path in (ROOT / room).rglob("*.py"))
READERS_OF_CODE = {"pickle", "_pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "imp", "runpy", "code"}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "unsafe_load", "full_load", "unsafe_load_all"}
LOADERS = {"load", "load_all"}  # safe only with the arguments below


def _name(node: ast.expr) -> str:
    """`a.b.c` of a call's function, "" for anything else."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _told(call: ast.Call, argument: str) -> object:
    """The literal value of a keyword argument; ... where it is not given or not a literal."""
    values = [word.value for word in call.keywords if word.arg == argument]
    return values[0].value if values and isinstance(values[0], ast.Constant) else ...


def dangers(source: str) -> list[str]:
    """What in `source` might run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            whole = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {name}" for name in whole if name.split(".")[0] in READERS_OF_CODE]
        if isinstance(node, ast.Call):
            found += _in_call(node)
    return found


def _in_call(call: ast.Call) -> list[str]:
    name = _name(call.func)
    base, _, last = name.rpartition(".")
    found = []
    if name in CALLS or (last in CALLS and base in ("os", "builtins", "yaml")):
        found.append(f"calls {name}")
    if base == "torch" and last == "load" and _told(call, "weights_only") is not True:
        found.append("torch.load without weights_only=True")
    if base in ("yaml", "pickle") and last in LOADERS:
        found.append(f"calls {name}")
    if last == "load" and base in ("np", "numpy") and _told(call, "allow_pickle") not in (..., False):
        found.append("np.load with allow_pickle")
    wanted = {"shell": (..., False), "trust_remote_code": (..., False), "allow_pickle": (..., False)}
    found += [f"{word.arg} in {name}" for word in call.keywords if word.arg in wanted and _odd(word.value)]
    return found


def _odd(value: ast.expr) -> bool:
    """Anything but a plain False."""
    return not (isinstance(value, ast.Constant) and value.value is False)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_can_run_what_a_file_says(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads", "import os, joblib", "import shelve", "import marshal as m"),
        *("eval('1')", "exec(text)", "os.system('x')", "yaml.load(text, Loader=loader)", "yaml.unsafe_load(text)"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)"),
        *("np.load(path, allow_pickle=True)", "numpy.load(path, allow_pickle=flag)", "f(x, trust_remote_code=True)"),
        *("subprocess.run(x, shell=True)", "AutoModel.from_config(c, trust_remote_code=trust)", "builtins.eval(x)"),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "yaml.safe_load(x)",
        "torch.load(p, weights_only=True)",
        "np.load(p)",
        "json.load(f)",
        "re.compile(x)",
    ],
)
def test_the_search_finds_nothing_in_what_is_safe(source: str) -> None:
    assert not dangers(source)


def test_every_reader_of_a_model_folder_forbids_its_code() -> None:
    """Every `from_pretrained` and `from_config` of transformers' automatic classes says so itself."""
    said = 0
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func).endswith((".from_pretrained", ".from_config")):
                if not any(_name(node.func).startswith(kind) for kind in ("Auto", "auto")):
                    continue
                assert _told(node, "trust_remote_code") is False, f"{path}:{node.lineno}"
                said += 1
    assert said >= 3
