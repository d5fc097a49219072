"""The main job run once under the audit hook of tests/security/watched.py, among traps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.security.models import text_model
from tests.speech import write_corpus

ROOT = Path(__file__).resolve().parents[2]
SHADOWED = ("torch", "yaml", "soundfile", "numpy", "sitecustomize")  # modules that a working folder may try to replace


@dataclass(frozen=True)
class Watched:
    """What the main job did, and the folders it ran among."""

    seen: dict[str, list[str]]
    folder: Path
    before: dict[str, tuple[int, int]]  # (size, mtime) of every file of the corpus and the model

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def beyond_libraries(self, kind: str) -> list[str]:
        """The files of `kind` that are neither Python's, nor of an installed package, nor of this repository."""
        homes = [ROOT, *map(Path, {sys.prefix, sys.base_prefix})]
        return [
            name
            for name in self.seen.get(kind, [])
            if not name.startswith("<frozen ") and not any(Path(name).is_relative_to(home) for home in homes)
        ]


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """(size, mtime) of every file under `folder`."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The main job, once. HOME, the cache folder and the folder for temporary files are empty; no HF_* is set."""
    folder = tmp_path_factory.mktemp("watched")
    manifest = write_corpus(folder / "inputs/corpus", 56)
    model = _a_pickled_model_with_code(folder / "inputs/model", folder / "executed")
    for name in SHADOWED:
        (folder / f"inputs/corpus/{name}.py").write_text(_trap(folder / "executed"))
    before = sizes(folder / "inputs")
    homes = {name: str(folder / name.lower()) for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    for home in homes.values():
        Path(home).mkdir()
    settings = ("HF_", "TRANSFORMERS_", "TORCHINDUCTOR_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    texts = {"EMOTIONRANKCLAP_CACHE": str(folder / "texts")}
    environment = kept | homes | texts | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    record = folder / "record.json"
    words = [str(manifest), str(folder / "out"), str(model), str(record)]
    command = [sys.executable, "-P", "-m", "tests.security.watched", *words]
    ended = subprocess.run(command, cwd=manifest.parent, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return Watched(json.loads(record.read_text()), folder, before)


def _trap(marker: Path) -> str:
    return f"open({str(marker)!r}, 'a').close()\nclass Own: pass\n"


def _a_pickled_model_with_code(folder: Path, marker: Path) -> Path:
    """A text model whose weights are a pickle of tensors, and whose configs name code and repositories to fetch."""
    text_model(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "own_code.py").write_text(_trap(marker))
    own = {"AutoConfig": "own_code.Own", "AutoModel": "evil/code--own_code.Own", "AutoTokenizer": ["own_code.Own"] * 2}
    for name in ("config.json", "tokenizer_config.json"):
        tree = json.loads((folder / name).read_text())
        more = {"auto_map": own, "_name_or_path": "evil/code", "name_or_path": "evil/code"}
        (folder / name).write_text(json.dumps(tree | more | {"attn_implementation": "kernels-community/evil"}))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/code"}))
    return folder
