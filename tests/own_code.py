"""Encoders and losses as a user writes them, in files; and a registry that forgets them after each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import register_objective
from pipeline.core import plugins
from pipeline.core.config import TrainConfig
from pipeline.core.plugins import load_plugins
from pipeline.extraction.extract import extract
from pipeline.objectives.base import objective_of
from pipeline.objectives.space import SharedSpace
from pipeline.training.train import resolve_training
from tests.speech import QUICK, write_corpus
from tests.training.test_batched_heads import some_pairs

ROOT = Path(__file__).resolve().parents[1]

SPECTRUM = """
import torch
from pipeline import register_audio_encoder

@register_audio_encoder("mine", version={version})
class Spectrum:
    sample_rate, dim = 16_000, 8
    def __init__(self, config, device):
        self.window = torch.hann_window(64) * {scale}
    def encode(self, waves):
        return torch.stack([self.one(torch.tensor(wave)) for wave in waves])
    def one(self, wave):
        power = torch.stft(wave, 64, window=self.window, return_complex=True).abs()[:32]
        return (power.unflatten(0, (8, 4)).mean((1, 2)) + 1e-6).log()
"""
WORDS = """
import torch
from pipeline import register_text_encoder

@register_text_encoder("words")
class Words:
    width = 7  # the earlier name of dim, which plugins may keep
    def __init__(self, config, device):
        pass
    def encode(self, sentences):
        return torch.tensor([[1.0 + sentence.count(letter) for letter in "aeioulm"] for sentence in sentences])
"""

MINE = ["audio.encoder=mine", "text.encoder=words", "captions.styles=[dimensional]"]
WAVES = [np.random.default_rng(0).standard_normal(n).astype(np.float32) for n in (800, 1600, 801)]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test registers, runs or imports from beside a plugin is gone after it."""
    monkeypatch.setattr(plugins, "_REGISTRY", {})
    monkeypatch.setattr(plugins, "_LOADED_FILES", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    plugins._import_packages.cache_clear()


def forget() -> None:
    """As in a new process."""
    plugins._REGISTRY.clear()
    plugins._LOADED_FILES.clear()


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def registered(folder: Path, *, version: int = 1, scale: float = 1.0) -> None:
    load_plugins([plugin(folder, SPECTRUM.format(version=version, scale=scale)), plugin(folder, WORDS, "words.py")])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for an evaluation."""
    return write_corpus(tmp_path_factory.mktemp("own") / "c", 64)


@pytest.fixture
def own_stores(many: Path, tmp_path: Path) -> Path:
    registered(tmp_path)
    extract(many, out=tmp_path / "stores", overrides=[*QUICK, *MINE])
    return tmp_path / "stores"


def blocks(page: str, kind: str) -> list[str]:
    """The fenced blocks of one kind on a page of docs."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    parts = text.split(f"```{kind}\n")[1:]
    return [part.split("```")[0] for part in parts]


def write_files(page: str, folder: Path, *kinds: str) -> dict[str, str]:
    """The blocks that begin with the name of their file, written into `folder`."""
    found = {}
    for block in (block for kind in kinds for block in blocks(page, kind)):
        first = block.splitlines()[0]
        if first.startswith("# "):
            found[first[2:]] = block
            plugin(folder, block, first[2:])
    return found


def commands(page: str, section: str) -> list[list[str]]:
    """The commands of a page's section, in words."""
    import shlex

    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for part in text.split("```bash\n")[1:] for line in _whole_lines(part.split("```")[0])]
    return [shlex.split(line, comments=True) for line in lines]


def _whole_lines(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def own_config(name: str, **settings: Any) -> TrainConfig:
    tree = {"objective": {"name": name, "settings": settings}}
    return resolve_training(TrainConfig.model_validate(tree))


def some_space(configs: int, size: int, extra: int = 0, dtype: torch.dtype = torch.float32) -> SharedSpace:
    """`configs` configurations' projections of `size` pairs and `extra` texts, with a temperature each."""
    draw = torch.Generator().manual_seed(0)
    speech, text = (torch.randn(configs, n, 6, generator=draw, dtype=dtype) for n in (size, size + extra))
    return SharedSpace.of(speech, text, torch.rand(configs, generator=draw, dtype=dtype), [{} for _ in range(configs)])


def objective(loss: Any, **settings: Any) -> Any:
    register_objective("own")(loss)
    return objective_of(own_config("own", **settings), some_pairs())
