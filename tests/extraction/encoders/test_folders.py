"""A model is found in a folder or in the hub's cache, and its absence comes with the way to get it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.model_files import find_folder, read_json

NAME, COMMIT = "somebody/some-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def put(cache: Path, *files: str) -> Path:
    model = cache / "models--somebody--some-model"
    snapshot = model / "snapshots" / COMMIT
    for folder in (snapshot, model / "refs"):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    for name in files:
        (snapshot / name).write_text("{}")
    return snapshot


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    assert find_folder(str(tmp_path)) == tmp_path


def test_a_model_in_the_hubs_cache_is_found_offline(cache):
    snapshot = put(cache, "config.json", "model.safetensors")
    assert find_folder(NAME).resolve() == snapshot.resolve()
    assert find_folder(NAME, COMMIT).resolve() == snapshot.resolve()


def test_a_model_that_is_nowhere_comes_with_the_command_to_get_it(cache):
    with pytest.raises(
        UsageError, match=f"{NAME}: not found .*no folder.*hub cache: .*hf download {NAME} --revision v2"
    ):
        find_folder(NAME, "v2")


def test_a_cache_with_the_config_alone_is_not_a_model(cache):
    put(cache, "config.json")
    with pytest.raises(UsageError, match=f"hub cache: no weights.*hf download {NAME}"):
        find_folder(NAME)


@pytest.mark.parametrize("path", ["./model", "/nowhere/model", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(path):
    with pytest.raises(UsageError, match="no such folder"):
        find_folder(path)


def test_a_name_that_no_hub_takes_is_refused_in_words(cache):
    with pytest.raises(UsageError, match="not found"):
        find_folder("not a name!")


@pytest.mark.parametrize("content", ["", "[1]", "{", "\udcff"])
def test_a_broken_config_is_refused_in_words(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"config\.json"):
        read_json(path)


def test_importing_the_package_imports_no_transformers():
    code = "import pipeline.extraction.encoders, sys; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
