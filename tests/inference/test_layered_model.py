"""A model of chosen or weighted layers: clips and sentences go the way its stores' rows went."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline import EmotionRankCLAP
from pipeline.extraction.extract import extract
from pipeline.inference.search import describe, search
from pipeline.training.train import train
from tests.inference.test_model import files_of
from tests.security.models import speech_model, text_model
from tests.speech import QUICK, write_corpus

LAYERED = ["audio.layers=all", "audio.poolings=[mean,std]", "text.layers=all", "text.poolings=[cls]"]


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus, and stores of every layer of encoders that lie in folders."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        corpus, audio, text = write_corpus(folder / "c", 16), speech_model(folder / "audio"), text_model(folder / "t")
    named = [f"audio.{k}" for k in ("encoder=transformers", f"model={audio}")]
    named += [f"text.{k}" for k in ("encoder=transformers", f"model={text}", "max_tokens=32")]
    extract(corpus, out=folder / "stores", overrides=[*QUICK, "captions.styles=[dimensional]", *named, *LAYERED])
    return corpus, folder / "stores"


@pytest.mark.parametrize(
    ("speech", "text"), [("default", "default"), ("1", "0"), ("[0,2]", "last"), ("weighted", "weighted")]
)
def test_a_clip_and_a_sentence_embed_as_their_rows(
    layered: tuple[Path, Path], tmp_path: Path, speech: str, text: str
) -> None:
    corpus, stores = layered
    choice = [f"speech.layers={speech}", "speech.pooling=mean_std", f"text.layers={text}", "text.pooling=cls"]
    settings = ["width=16", "batch_size=4", "epochs=2", "threads=1", "activation=identity"]
    run = train(stores, out=tmp_path / "run", overrides=[*settings, *choice])
    view = run.stores()
    model = EmotionRankCLAP.from_pretrained(run.folder)
    clips = files_of(corpus)
    rows = view.manifest.rows("test")
    heard = model.encode_speech([clips[row] for row in rows.tolist()])
    torch.testing.assert_close(heard, model.embed_speech(view.speech("test")), rtol=0, atol=1e-6)
    sentence = view.captions.texts()[0]
    read, _ = view.text.read(rows[:1] * 0)
    torch.testing.assert_close(model.encode_text(sentence), model.embed_text(read), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "exported")
    exported = EmotionRankCLAP.from_pretrained(
        tmp_path / "exported",
        audio_model=stores.parent / "audio",
        text_model=stores.parent / "t",
    )
    for vectors in (view.speech("test"), exported.encode_speech(clips[0])):
        torch.testing.assert_close(
            exported.similarity(exported.encode_text(sentence), vectors),
            model.similarity(model.encode_text(sentence), vectors),
            rtol=0,
            atol=1e-6,
        )
    first = search(run, sentence, top=3)[0]
    cosines = model.similarity(model.encode_text(sentence), heard)[0]
    by_id = {view.manifest.id[row]: float(cosine) for row, cosine in zip(rows.tolist(), cosines, strict=True)}
    assert all(hit["similarity"] == pytest.approx(by_id.get(hit["id"], hit["similarity"]), abs=1e-5) for hit in first)
    assert len(describe(run, clips[0], top=2)[0]) == 2
