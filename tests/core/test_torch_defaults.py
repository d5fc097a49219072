"""What a user has set in torch changes no result, and is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.stores import open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.resources import torch_defaults
from pipeline.extraction.extract import extract
from pipeline.training.train import train
from tests.speech import QUICK

CONFIG = TrainConfig(width=16, batch_size=4, epochs=2, threads=1)


@contextmanager
def setting(set_it: Callable[[object], object], value: object, before: object) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


USERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "meta": lambda: setting(torch.set_default_device, "meta", None),
    "meta in a block": lambda: torch.device("meta"),
    "no grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "medium products": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "autocast": lambda: torch.autocast("cpu"),
}


@pytest.mark.parametrize("user", USERS)
def test_training_gives_the_same_bytes(user: str, small: Path, tmp_path: Path) -> None:
    expected = train(small, method=CONFIG, out=tmp_path / "plain").seed_folder(0) / "heads.safetensors"
    with USERS[user]():
        found = train(small, method=CONFIG, out=tmp_path / "user").seed_folder(0) / "heads.safetensors"
    assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("user", ["float64", "bfloat16", "meta", "inference mode", "deterministic"])
def test_extraction_gives_the_same_vectors(user: str, corpus: Path, stores: Path, tmp_path: Path) -> None:
    with USERS[user]():
        extract(corpus, out=tmp_path / "s", overrides=QUICK)
    for name in ("audio", "text"):
        expected, found = getattr(open_stores(stores), name), getattr(open_stores(tmp_path / "s"), name)
        rows = np.arange(len(expected))
        assert found.read(rows)[0].tobytes() == expected.read(rows)[0].tobytes()


@pytest.mark.parametrize("user", USERS)
def test_the_users_settings_come_back(user: str) -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.is_autocast_enabled("cpu"),
        )

    plain = settings()
    with USERS[user]():
        before = settings()
        assert before != plain
        with torch_defaults():
            assert settings() == plain
        assert settings() == before
