"""Whole-grammar texts as tensors, on stores whose vectors know the plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.pairs import grid_texts
from tests.planted import plant

SPLITS = {"train": 30, "dev": 10, "test": 10}


def test_planted_grid_texts_are_about_their_points_and_move_no_other_row(tmp_path: Path) -> None:
    plain, stores = plant(tmp_path / "a", SPLITS), plant(tmp_path / "b", SPLITS, grid=True)
    grid = grid_texts(stores, "dimensional")
    assert grid.text.shape == (1568, 768)
    assert grid.points.shape == (1568, 2)
    train, test = np.arange(0, 1568, 2), np.arange(1, 1568, 2)
    inputs = np.c_[grid.text.numpy(), np.ones(1568)].astype(np.float64)
    weights = np.linalg.solve(
        inputs[train].T @ inputs[train] + 100 * np.eye(769), inputs[train].T @ grid.points[train].numpy()
    )
    found, points = inputs[test] @ weights, grid.points[test].numpy()
    for axis in range(2):
        assert np.corrcoef(found[:, axis], points[:, axis])[0, 1] > 0.8
    assert stores.speech().tobytes() == plain.speech().tobytes()
    assert stores.captions.texts()[: len(plain.text)] == plain.captions.texts()
    rows = np.arange(len(plain.text))
    assert stores.text.read(rows)[0].tobytes() == plain.text.read(rows)[0].tobytes()
