"""Sentences find utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.stores import open_stores
from pipeline.config import TrainConfig
from pipeline.encoders import load_text_encoder
from pipeline.errors import StoreMismatch
from pipeline.retrieval import search
from pipeline.training import train

SENTENCES = ["The person is speaking quietly.", "The person is speaking with joy."]


def test_hits_are_the_nearest_utterances_with_their_labels(stores: Path, tmp_path: Path) -> None:
    run = train(stores, method=TrainConfig(width=16, batch_size=4, epochs=2, threads=1), out=tmp_path)
    found = search(run, SENTENCES, top=3, split="test")
    opened, heads = open_stores(stores), run.heads()
    rows = opened.manifest.rows("test")
    from pipeline.config import TextConfig

    asked = heads.embed_text(load_text_encoder(TextConfig(), "cpu").encode(SENTENCES))
    similarity = asked @ heads.embed_speech(torch.tensor(opened.speech("test"))).T
    for sentence, hits in enumerate(found):
        nearest = similarity[sentence].argsort(descending=True)[:3]
        assert [hit["id"] for hit in hits] == [opened.manifest.id[rows[place]] for place in nearest.tolist()]
        assert np.allclose([hit["similarity"] for hit in hits], similarity[sentence][nearest].detach(), atol=1e-6)
        for hit in hits:
            row = opened.manifest.id.index(hit["id"])
            assert (hit["valence"], hit["arousal"]) == (opened.manifest.valence[row], opened.manifest.arousal[row])
            assert Path(hit["audio"]).is_file()


def test_a_text_encoder_that_made_other_vectors_is_refused(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(stores, method=TrainConfig(width=16, batch_size=4, epochs=1, threads=1), out=tmp_path)
    import pipeline.retrieval

    class Other:
        def fingerprint(self) -> dict[str, str]:
            return {"weights": "other"}

    monkeypatch.setattr(pipeline.retrieval, "load_text_encoder", lambda *_: Other())
    with pytest.raises(StoreMismatch, match="another text encoder"):
        search(run, SENTENCES)
