"""What a loss of one's own is told of its batch, the raters included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cache.manifest import Ratings, votes_of
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import open_stores
from pipeline.objectives.base import Batch
from pipeline.training.training_data import draw_captions
from tests.own_code import forgotten as forgotten
from tests.own_code import objective
from tests.planted import plant
from tests.training.test_batched_heads import some_pairs


def _tanh(logits: Tensor, batch: Batch, power: float = 2.0) -> Tensor:
    weight = batch.labels[:, :1] * batch.text[:, :1] + len(batch)
    return (weight * logits.tanh().abs() ** power).mean()


def test_a_batch_has_what_the_pairs_have(all_styles: Path) -> None:
    for resident in (True, False):
        pairs = cached_pairs(open_stores(all_styles), "train", style="dimensional", resident=resident)
        rows, captions = torch.tensor([[3, 1], [0, 2]]), draw_captions(pairs, torch.Generator().manual_seed(0))[:4]
        batches = objective(_tanh).prepare(pairs, rows, captions.view(2, 2))
        whole = cached_pairs(open_stores(all_styles), "train", style="dimensional")
        for s in (0, 1):
            batch, own = batches[s], rows[s]
            assert len(batch) == 2
            for name in ("labels", "emotion", "gender", "speech", "acoustic"):
                found, expected = getattr(batch, name), getattr(whole, name)[own]
                assert torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True), name
            assert torch.equal(batch.text, whole.text[captions.view(2, 2)[s]])
        assert batches.speech.shape == (2, 2, 384)
    assert Batch(some_pairs_without_acoustics(), rows, rows).acoustic is None


def test_a_batch_knows_its_raters_where_the_stores_do(tmp_path: Path) -> None:
    stores = plant(tmp_path / "rated", {"train": 12, "dev": 6, "test": 6}, styles=("acoustic",), raters=True)
    pairs, rows = cached_pairs(stores, "train", style="acoustic"), torch.tensor([3, 1, 3])
    batch = objective(_tanh).prepare(pairs, rows, rows)
    ratings, names = stores.manifest.ratings, sorted(set(stores.manifest.emotion))
    assert ratings is not None
    for place, row in enumerate(pairs.rows[rows.numpy()].tolist()):
        expected = torch.tensor(ratings.std[row] / 5**0.5)
        assert torch.allclose(batch.label_error[place], expected, rtol=1e-14, equal_nan=True)
        assert bool(batch.label_error[place, :2].isfinite().all())
        votes = votes_of(ratings.votes[row])
        assert sum(votes.values()) == 5
        assert batch.votes is not None
        assert batch.votes[place].tolist() == [votes.get(name, 0) / 5 for name in names]
    unknown = Batch(some_pairs(), rows, rows)
    assert unknown.label_error.isnan().all()
    assert unknown.label_error.shape == (3, 3)


def test_shares_of_votes_count_other_categories_and_fall_back_on_the_emotion(tmp_path: Path) -> None:
    stores = plant(tmp_path / "rated", {"train": 12, "dev": 6, "test": 6}, styles=("acoustic",))
    names = sorted(set(stores.manifest.emotion))
    votes = ["other:1|angry:3", "", *["other:2"] * 22]
    emotion = ["angry", "sad", *stores.manifest.emotion[2:]]
    ratings = replace(Ratings.unknown(24), votes=votes)
    stores.manifest = replace(stores.manifest, ratings=ratings, emotion=emotion)
    pairs = cached_pairs(stores, "train", style="acoustic")
    names = sorted(set(emotion))
    assert pairs.votes is not None
    assert pairs.votes[0].tolist() == [0.75 * (name == "angry") for name in names]
    assert pairs.votes[1].tolist() == [1.0 * (name == "sad") for name in names]
    assert pairs.votes[2].tolist() == [0] * len(names)


def some_pairs_without_acoustics() -> CachedPairs:
    pairs = some_pairs()
    return CachedPairs(**{**vars(pairs), "acoustic": None})
