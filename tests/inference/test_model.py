"""A trained model with its encoders: what it gives, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import pipeline.inference.model
from cache.stores import open_stores
from pipeline import EmotionRankCLAP
from pipeline.core.config import TrainConfig
from pipeline.core.errors import EmotionRankError, StoreMismatch, UsageError
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio
from pipeline.extraction.audio.inputs import ArrayAudio
from pipeline.extraction.extract import extract
from pipeline.training.heads import load_heads, save_heads
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.extraction.encoders import tiny
from tests.security.models import speech_model, text_model
from tests.speech import QUICK, tone, write_corpus
from tests.stage_two import unlisted

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = ["The person is speaking calmly.", "Angry.", "The person is speaking with joy, a little out of breath."]
CONFIG = TrainConfig(width=16, batch_size=4, epochs=2, threads=1)


@pytest.fixture(scope="module")
def run(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(stores, method=CONFIG, out=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run: Run) -> EmotionRankCLAP:
    return EmotionRankCLAP.from_pretrained(run.folder)


def files_of(corpus: Path) -> list[Path]:
    return [corpus.parent / row["audio"] for row in csv.DictReader(corpus.read_text().splitlines())]


def projected(run: Run, side: str, vectors: np.ndarray) -> np.ndarray:
    """F1 by hand, in float64."""
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in run.heads().state_dict().items()}
    standard = (vectors - state[f"{side}_mean"]) / state[f"{side}_std"]
    found = np.maximum(0, standard @ state[f"{side}.weight"].T + state[f"{side}.bias"])
    return found / np.maximum(1e-8, np.linalg.norm(found, axis=1, keepdims=True))


def test_a_files_embedding_is_its_rows_projected(model: EmotionRankCLAP, run: Run, stores: Path, corpus: Path) -> None:
    found = model.encode_speech(files_of(corpus))
    assert (found.dtype, found.shape) == (torch.float32, (24, 16))
    np.testing.assert_allclose(found, projected(run, "audio", open_stores(stores).speech()), rtol=0, atol=1e-6)
    assert not found.requires_grad


def test_a_sentences_embedding_is_its_rows_projected(model: EmotionRankCLAP, run: Run, stores: Path) -> None:
    opened = open_stores(stores)
    texts = opened.captions.texts()[:40]
    found = model.encode_text(texts, convert_to_numpy=True)
    assert isinstance(found, np.ndarray)
    vectors, _ = opened.text.read(np.arange(40))
    np.testing.assert_allclose(found, projected(run, "text", vectors), rtol=0, atol=2e-6)
    np.testing.assert_allclose(model.embed_text(vectors), projected(run, "text", vectors), rtol=0, atol=1e-6)


def test_batch_size_moves_nothing_and_order_is_kept(model: EmotionRankCLAP, corpus: Path) -> None:
    files = files_of(corpus)[:9]
    alone = torch.cat([model.encode_speech(path) for path in files])
    for size in (1, 4, 9):
        torch.testing.assert_close(model.encode_speech(files, batch_size=size), alone, rtol=0, atol=1e-5)
    asked = torch.cat([model.encode_text(sentence) for sentence in SENTENCES])
    for size in (1, 2, 64):
        torch.testing.assert_close(model.encode_text(SENTENCES, batch_size=size), asked, rtol=0, atol=1e-5)


def test_paths_and_arrays_may_be_mixed_and_none_is_none(model: EmotionRankCLAP, corpus: Path) -> None:
    first, second = files_of(corpus)[:2]
    wave, rate = soundfile.read(first, dtype="float32")
    by_path = model.encode_speech([first, second])
    for kind in (wave, torch.tensor(wave), wave.astype(np.float64)):
        found = model.encode_speech([second, kind], sample_rate=rate)
        torch.testing.assert_close(found, by_path.flip(0), rtol=0, atol=1e-6)
    assert model.encode_speech([]).shape == model.encode_text([]).shape == (0, 16)


@pytest.mark.parametrize("crop", ["start", "center"])
@pytest.mark.parametrize("rate", [16_000, 22_050, 8_000])
def test_an_array_is_cut_as_a_file_of_it_is(tmp_path: Path, crop: str, rate: int) -> None:
    wave = tone(1.7, rate=rate) * np.linspace(0.1, 1, int(1.7 * rate)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    for seconds in (0.5, 3.0):
        read = Decoding(16_000, seconds, crop).load(tmp_path / "a.wav").wave
        assert np.array_equal(ArrayAudio(16_000, seconds, crop).cut(wave, rate), read)


def test_similarity_is_the_cosine_and_projects_a_stores_vectors(model: EmotionRankCLAP, run: Run, stores: Path) -> None:
    stored = open_stores(stores).speech("test")
    asked = model.encode_text(SENTENCES)
    wanted = asked.double().numpy() @ projected(run, "audio", stored).T
    for speech in (stored, model.embed_speech(stored), 3 * model.embed_speech(stored).numpy()):
        np.testing.assert_allclose(model.similarity(asked, speech), wanted, rtol=0, atol=1e-6)
        np.testing.assert_allclose(model.similarity(speech, asked), wanted.T, rtol=0, atol=1e-6)


def test_vectors_that_could_be_either_are_told_by_their_length(stores: Path, tmp_path: Path) -> None:
    width = open_stores(stores).audio.dim
    config = CONFIG.model_copy(update={"width": width, "epochs": 1})
    same = EmotionRankCLAP.from_pretrained(train(stores, method=config, out=tmp_path).folder)
    stored = open_stores(stores).speech("test")
    speech = same.embed_speech(stored)
    np.testing.assert_allclose(same.similarity(speech, speech), speech @ speech.T, rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="embed_speech first"):
        same.similarity(speech, stored)


def test_encoders_are_loaded_when_first_used_and_once(run: Run, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = pipeline.inference.model.load_encoder
    monkeypatch.setattr(
        pipeline.inference.model, "load_encoder", lambda kind, *rest: loaded.append(kind) or real(kind, *rest)
    )
    lazy = EmotionRankCLAP.from_pretrained(run.folder)
    stored = lazy.embed_speech(open_stores(stores).speech("dev"))
    lazy.similarity(stored, stored)
    assert loaded == []
    lazy.encode_text(SENTENCES)
    lazy.encode_text(SENTENCES)
    assert loaded == ["text"]


LONG = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
SPEECH: dict[str, tuple[Any, dict[str, Any], str]] = {
    "integers": ([np.ones(9, np.int16)], {"sample_rate": 16_000}, "int16 of shape"),
    "two channels": ([np.ones((9, 2), np.float32)], {"sample_rate": 16_000}, "shape (9, 2)"),
    "an array of clips": (np.ones((2, 900)), {"sample_rate": 16_000}, "shape (2, 900)"),
    "no samples": ([np.ones(0, np.float32)], {"sample_rate": 16_000}, "shape (0,)"),
    "no rate": ([LONG], {}, "sample_rate: not given"),
    "a rate of none": ([LONG], {"sample_rate": 0}, "sample_rate: 0"),
    "a rate in words": ([LONG], {"sample_rate": "16k"}, "sample_rate: '16k'"),
    "a number": ([3], {}, "recordings[0]: int"),
    "not finite": ([LONG, LONG * np.inf], {"sample_rate": 16_000}, "recordings[1]: "),
    "beyond float32": ([LONG, LONG.astype(float) * 1e300], {"sample_rate": 16_000}, "samples are not finite"),
    "silent": ([0 * LONG], {"sample_rate": 16_000}, "recordings[0]: silent"),
    "a constant": ([0 * LONG + 0.5], {"sample_rate": 16_000}, "recordings[0]: silent"),
    "no file": (["nowhere.wav"], {}, "nowhere.wav: cannot be read"),
    "a path of no system": (["\0"], {}, "cannot be read"),
    "no batch": ([LONG], {"sample_rate": 16_000, "batch_size": 0}, "batch_size: 0"),
}


def one_line(work: Callable[[], object], code: int) -> str:
    """What `work` is refused with: its exit code, and one line for each problem."""
    with pytest.raises(EmotionRankError) as caught:
        work()
    assert caught.value.exit_code == code, caught.value
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    return str(caught.value)


def refusal(work: Callable[[], object]) -> EmotionRankError | None:
    """What `work` is refused with, if it is."""
    try:
        work()
    except EmotionRankError as error:
        return error
    return None


@pytest.mark.parametrize("case", SPEECH)
def test_speech_that_is_none_is_refused(model: EmotionRankCLAP, case: str) -> None:
    recordings, options, said = SPEECH[case]
    assert said in one_line(lambda: model.encode_speech(recordings, **options), 2)


def test_every_clip_that_cannot_be_used_is_named(model: EmotionRankCLAP, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    files = [tmp_path / "gone.wav", files_of(corpus)[0], tmp_path / "empty.wav"]
    said = one_line(lambda: model.encode_speech(files, batch_size=2), 2).split("\n")
    assert said[0].startswith(f"{files[0]}: cannot be read")
    assert said[1] == f"{files[2]}: an empty file"
    assert "2 problems" in said[2]


@pytest.mark.parametrize("texts", [[""], [3], ["calm", "\ud800"], [b"calm"], [None]])
def test_a_sentence_that_is_none_is_refused(model: EmotionRankCLAP, texts: Any) -> None:
    assert f"sentences[{len(texts) - 1}]" in one_line(lambda: model.encode_text(texts), 2)


@pytest.mark.parametrize("vectors", [np.ones(16), np.ones((2, 17)), [[1.0], [1.0, 2.0]], "calm", None, [["a"]]])
def test_vectors_of_no_known_width_are_refused(model: EmotionRankCLAP, vectors: Any) -> None:
    for work in (lambda: model.similarity(vectors, vectors), lambda: model.embed_speech(vectors)):
        assert one_line(work, 2).startswith("vectors: ")


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "", "~nobody/x", "..", "a\\b"])
def test_a_path_to_nothing_is_refused_and_the_hub_not_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    one_line(lambda: EmotionRankCLAP.from_pretrained(name), 2)


@pytest.mark.parametrize("name", ["\0", "a" * 5000, "a b", "\ud800"])
def test_a_name_that_no_hub_has_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    one_line(lambda: EmotionRankCLAP.from_pretrained(name), 2)


def test_a_run_whose_stores_are_gone_is_refused(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    about = json.loads((copy / "run.json").read_text()) | {"stores": str(tmp_path / "gone")}
    (copy / "run.json").write_text(json.dumps(about))
    unlisted(copy)
    assert "gone" in one_line(lambda: EmotionRankCLAP.from_pretrained(copy), 2)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Run]:
    """Heads trained from encoders that lie in folders: a corpus, a speech and a text model, the run."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        corpus, audio, text = write_corpus(folder / "c", 16), speech_model(folder / "audio"), text_model(folder / "t")
    named = [f"audio.{k}" for k in ("encoder=transformers", f"model={audio}")]
    named += [f"text.{k}" for k in ("encoder=transformers", f"model={text}", "max_tokens=32")]
    extract(corpus, out=folder / "stores", overrides=[*QUICK, "captions.styles=[dimensional]", *named])
    signed = CONFIG.model_copy(update={"activation": "identity"})  # so that no similarity is 0 by chance
    run = train(folder / "stores", method=signed, out=folder / "run")
    EmotionRankCLAP.from_pretrained(run.folder).save_pretrained(folder / "exported")
    return files_of(corpus)[0], audio, text, run


@pytest.mark.slow
def test_exported_heads_give_equal_similarities_where_only_the_core_is_installed(
    tiny_run: tuple[Path, Path, Path, Run], tmp_path: Path
) -> None:
    clip, audio, text, run = tiny_run
    stored = run.stores().speech("test")
    np.save(tmp_path / "vectors.npy", stored)
    places = [audio.rename(tmp_path / "audio"), text.rename(tmp_path / "text")]  # nothing lies where it lay
    words = [run.folder.parent / "exported", *places, SENTENCES[0], clip, tmp_path / "vectors.npy"]
    command = [sys.executable, "-m", "tests.inference.model_elsewhere", *map(str, words)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    finally:
        for place, home in zip(places, (audio, text), strict=True):
            place.rename(home)
    assert ended.returncode == 0, ended.stderr
    here = EmotionRankCLAP.from_pretrained(run.folder)  # the encoders where the stores' config says
    asked = here.encode_text(SENTENCES[0])
    heard, found = (torch.tensor(each) for each in json.loads(ended.stdout))
    torch.testing.assert_close(heard, here.similarity(asked, here.encode_speech(clip)), rtol=0, atol=1e-6)
    torch.testing.assert_close(found, here.similarity(asked, stored), rtol=0, atol=1e-6)
    assert heard.any()


def test_another_encoder_is_refused_field_by_field(tiny_run: tuple[Path, Path, Path, Run], tmp_path: Path) -> None:
    clip, _, text, run = tiny_run
    exported = run.folder.parent / "exported"
    other = tiny.save_speech(tmp_path / "other", tiny.shaken(tiny.wavlm(), seed=5), do_normalize=True)
    wrong = EmotionRankCLAP.from_pretrained(exported, audio_model=other, text_model=text)
    with pytest.raises(StoreMismatch, match=r"encoder\.weights_sha256: the heads have .* now .*audio_model"):
        wrong.encode_speech(clip)
    wrong.encode_text(SENTENCES)
    assert "audio_model" in one_line(lambda: EmotionRankCLAP.from_pretrained(exported).encode_speech(clip), 2)


def as_of_before(exported: Path) -> dict[str, Any]:
    """Make it an export whose heads do not know all of config.json; returns what they know."""
    heads, about = load_heads(exported / "model.safetensors")
    del about["config.json"]
    save_heads(heads, exported / "model.safetensors", about)
    return about


def test_a_crop_that_was_edited_is_refused(tiny_run: tuple[Path, Path, Path, Run], tmp_path: Path) -> None:
    clip, audio, _, run = tiny_run
    folder = Path(shutil.copytree(run.folder.parent / "exported", tmp_path / "e"))
    settings = json.loads((folder / "config.json").read_text())
    settings["encoders"]["audio"]["max_seconds"] = 4.0
    (folder / "config.json").write_text(json.dumps(settings))
    one_line(lambda: EmotionRankCLAP.from_pretrained(folder, audio_model=audio), 5)
    as_of_before(folder)
    edited = EmotionRankCLAP.from_pretrained(folder, audio_model=audio)
    assert "audio.max_seconds: the heads have 10.0, now 4.0" in one_line(lambda: edited.encode_speech(clip), 4)


def test_an_unusable_array_costs_no_neighbour(model: EmotionRankCLAP) -> None:
    with pytest.raises(UnusableAudio, match="3 samples are not finite"):
        ArrayAudio(16_000, 10.0, "start").cut(np.r_[LONG, [np.nan] * 3], 16_000)
