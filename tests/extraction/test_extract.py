"""Stage one, from a manifest to stores."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.header import DONE, FAILED, PENDING
from cache.pairs import grid_texts
from cache.stores import open_stores
from cache.writer import StoreWriter
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import Interrupted, StoreMismatch, UsageError
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.probe import SENTENCES
from pipeline.extraction.extract import (
    audio_plan,
    extract,
    read_inputs,
)
from pipeline.extraction.settings import resolve_extraction
from pipeline.extraction.status import status_of, verify
from tests.data.captions.test_word_norms import made_up, norms_file
from tests.extraction.encoders import tiny
from tests.faults.small import QuickEncoder, quick_encoders
from tests.speech import QUICK, QUICK_OPTIONS, spoil, write_corpus

FILES = ("audio.h5", "text.h5", "manifest.csv", "captions.jsonl")
BATCHED = [*QUICK, "audio.batch_seconds=3"]


def test_each_row_is_the_encoders_vector_of_its_utterance(corpus: Path, stores: Path) -> None:
    opened = open_stores(stores)
    encoder, text = load_encoder("audio", AudioConfig(), "cpu"), load_encoder("text", TextConfig(), "cpu")
    decoding = Decoding(16_000, 10.0, "start")
    for row in (0, 7, 23):
        wave = decoding.load(corpus.parent / opened.manifest.audio[row]).wave
        assert np.allclose(opened.audio.read(np.array([row]))[0][0], encoder.encode([wave]).numpy()[0], atol=1e-5)
    for row, sentence in enumerate(opened.captions.texts()[:3]):
        assert np.allclose(opened.text.read(np.array([row]))[0][0], text.encode([sentence]).numpy()[0], atol=1e-5)


def test_every_utterance_has_its_captions_and_prompts_are_encoded(stores: Path) -> None:
    opened = open_stores(stores)
    links = opened.captions.links("dimensional", len(opened.manifest))
    assert np.diff(links.offsets).tolist() == [1] * 24
    assert len(opened.captions.prompts) == 14 * 14
    assert (opened.text.scan() == DONE).all()
    assert verify(stores) == 24 + len(opened.text)


def test_doing_it_again_changes_nothing(corpus: Path, stores: Path) -> None:
    before = [(stores / name).read_bytes() for name in FILES]
    result = extract(corpus, out=stores, overrides=QUICK)
    assert [(stores / name).read_bytes() for name in FILES] == before
    assert result["audio"] == {"rows": 24, "done": 24, "failed": 0, "pending": 0, "width": 384}


def test_the_batch_size_is_not_in_the_fingerprint_and_moves_no_vector_beyond_1e_5(
    corpus: Path, stores: Path, tmp_path: Path
) -> None:
    extract(corpus, out=tmp_path, overrides=BATCHED)
    one, many = open_stores(stores), open_stores(tmp_path)
    assert one.fingerprint() == many.fingerprint()
    assert np.abs(one.speech() - many.speech()).max() < 1e-5 * np.abs(one.speech()).max()


@pytest.mark.parametrize("overrides", [QUICK, BATCHED], ids=["one-clip-a-batch", "batched"])
def test_bad_files_cost_their_own_rows_and_leave_their_neighbours_bit_equal(
    corpus: Path, tmp_path: Path, overrides: list[str]
) -> None:
    healthy = tmp_path / "healthy"
    extract(corpus, out=healthy, overrides=overrides)
    shutil.copytree(corpus.parent, tmp_path / "c")
    reasons = spoil(tmp_path / "c")
    if overrides is BATCHED:  # a file whose header is gone has no known length, so the plan itself differs
        reasons = {name: reason for name, reason in reasons.items() if name == "u10"}
        shutil.rmtree(tmp_path / "c")
        shutil.copytree(corpus.parent, tmp_path / "c")
        _make_nan_of_equal_length(tmp_path / "c/audio/u10.wav")
    result = extract(tmp_path / "c/manifest.csv", out=tmp_path / "stores", overrides=overrides)
    found = {failure["id"]: failure["reason"] for failure in result["failures"]}
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found[name]
    good, spoiled = open_stores(healthy), open_stores(tmp_path / "stores")
    rows = np.array([row for row, name in enumerate(good.manifest.id) if name not in reasons])
    values, done = spoiled.audio.read(rows)
    assert done.all()
    assert values.tobytes() == good.audio.read(rows)[0].tobytes()
    assert verify(tmp_path / "stores") == 24 + len(spoiled.text)


def _make_nan_of_equal_length(path: Path) -> None:
    import soundfile

    wave, rate = soundfile.read(path, dtype="float32")
    wave[1000:1003] = np.nan
    soundfile.write(path, wave, rate, subtype="FLOAT")


def test_a_mended_file_is_encoded_and_the_rest_is_carried_over(corpus: Path, stores: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus.parent, tmp_path / "c")
    spoil(tmp_path / "c")
    out = tmp_path / "stores"
    extract(tmp_path / "c/manifest.csv", out=out, overrides=QUICK)
    shutil.copy2(corpus.parent / "audio/u05.wav", tmp_path / "c/audio/u05.wav")
    before = open_stores(out).audio.path.stat().st_ino
    result = extract(tmp_path / "c/manifest.csv", out=out, overrides=QUICK)
    assert result["audio"] | {"width": 0} == {"rows": 24, "done": 21, "failed": 3, "pending": 0, "width": 0}
    assert open_stores(out).audio.path.stat().st_ino != before
    row = np.array([5])
    assert np.array_equal(open_stores(out).audio.read(row)[0], open_stores(stores).audio.read(row)[0])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders that take no time, where others would show nothing more."""
    quick_encoders(monkeypatch)


@pytest.mark.usefixtures("quick")
def test_whole_grammar_texts_are_added_to_stores_and_only_new_texts_are_encoded(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(corpus, out=tmp_path, overrides=QUICK)
    before = open_stores(tmp_path)
    texts, vectors = before.captions.texts(), before.text.read(np.arange(len(before.text)))[0].tobytes()
    speech = (tmp_path / "audio.h5").read_bytes()
    with pytest.raises(UsageError, match=r"none of style dimensional.*only the new texts are encoded"):
        grid_texts(before, "dimensional")
    encoded: list[str] = []
    compute = QuickEncoder.compute
    monkeypatch.setattr(QuickEncoder, "compute", lambda self, batch: encoded.extend(batch) or compute(self, batch))
    extract(corpus, out=tmp_path, overrides=[*QUICK, "captions.grid=true"])
    after = open_stores(tmp_path)
    assert after.captions.texts()[: len(texts)] == texts
    assert after.text.read(np.arange(len(texts)))[0].tobytes() == vectors
    assert (tmp_path / "audio.h5").read_bytes() == speech
    of_corpus = [text for text in encoded if isinstance(text, str) and text not in SENTENCES]
    assert sorted(of_corpus) == sorted(after.captions.texts()[len(texts) :])
    found, grid = grid_texts(after, "dimensional"), list(after.captions.grid)
    assert found.points.tolist() == [[g.valence, g.arousal] for g in grid]
    assert found.text.dtype == torch.float32
    assert np.array_equal(found.text.numpy(), QuickEncoder().encode([g.text for g in grid]).numpy())
    with pytest.raises(UsageError, match="none of style template"):
        grid_texts(after, "template")


@pytest.mark.usefixtures("quick")
def test_prompts_of_rated_words_are_added_to_stores_and_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(corpus, out=tmp_path / "s", overrides=QUICK)
    before = open_stores(tmp_path / "s")
    known = dict(zip(before.text.ids, before.text.read(np.arange(len(before.text)))[0].tolist(), strict=True))
    norms = norms_file(tmp_path, *made_up(30))
    extract(corpus, out=tmp_path / "s", overrides=[*QUICK, f"captions.word_norms={norms}"])
    after = open_stores(tmp_path / "s")
    vectors, done = after.text.read(np.arange(len(after.text)))
    assert done.all()
    found = dict(zip(after.text.ids, vectors.tolist(), strict=True))
    assert found | known == found
    prompts = after.captions.prompts.of_style("word_norms")
    assert set(prompts.columns["text"]) == found.keys() - known.keys()
    assert (
        f"{norms}: {len(prompts) // 4} words for the ordinality test, {len(prompts)} prompts" in capsys.readouterr().err
    )


@pytest.mark.usefixtures("quick")
def test_whole_grammar_texts_that_are_not_encoded_are_refused(corpus: Path, tmp_path: Path) -> None:
    extract(corpus, out=tmp_path, overrides=[*QUICK, "captions.grid=true"])
    stores = open_stores(tmp_path)
    with StoreWriter(stores.text) as writer:
        writer.reset([len(stores.captions.texts()) - 1])
    with pytest.raises(UsageError, match="whole-grammar texts: 1 of 1,568 not encoded"):
        grid_texts(open_stores(tmp_path), "dimensional")


@pytest.mark.usefixtures("quick")
def test_failed_rows_get_another_chance_when_asked(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus.parent, tmp_path / "c")
    manifest, out = tmp_path / "c/manifest.csv", tmp_path / "stores"
    hidden = tmp_path / "c/audio/u03.wav"
    data, times = hidden.read_bytes(), hidden.stat()
    hidden.write_bytes(b"\0" * len(data))  # unreadable for now, with the same size and time
    os.utime(hidden, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert extract(manifest, out=out, overrides=QUICK)["audio"]["failed"] == 1
    hidden.write_bytes(data)
    os.utime(hidden, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert extract(manifest, out=out, overrides=QUICK)["audio"]["failed"] == 1
    assert extract(manifest, out=out, retry_failed=True, overrides=QUICK)["audio"]["failed"] == 0
    assert verify(out)


def test_another_pooling_is_refused_and_fresh_starts_over(corpus: Path, stores: Path, tmp_path: Path) -> None:
    out = shutil.copytree(stores, tmp_path / "stores")
    with pytest.raises(StoreMismatch, match=r"encoder\.layer: .* It holds layers 0, 1, 2, 3, 4 \(mean\)"):
        extract(corpus, out=out, overrides=[*QUICK, "audio.layer=1"])
    extract(corpus, out=out, overrides=[*QUICK, "audio.layer=1"], fresh=True)
    assert open_stores(out).audio.fingerprint["encoder"]["layer"] == 1


@pytest.mark.usefixtures("quick")
def test_limit_encodes_a_part_spread_over_the_corpus_and_the_next_run_the_rest(corpus: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(corpus, out=whole, overrides=QUICK)
    first = extract(corpus, out=out, limit=6, overrides=QUICK)
    assert first["audio"]["done"] == 6
    assert first["audio"]["pending"] == 18
    extract(corpus, out=out, overrides=QUICK)
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_manifest_without_utterances_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,audio,split\n")
    with pytest.raises(UsageError):
        extract(tmp_path / "m.csv", out=tmp_path / "stores", overrides=QUICK)
    assert not (tmp_path / "stores").exists()


@pytest.mark.usefixtures("quick")
def test_float16_stores_hold_the_rounded_vectors(corpus: Path, tmp_path: Path) -> None:
    extract(corpus, out=tmp_path / "whole", overrides=QUICK)
    extract(corpus, out=tmp_path / "half", overrides=[*QUICK, "store_dtype=float16"])
    half = open_stores(tmp_path / "half").speech()
    assert half.dtype == np.float16
    assert np.array_equal(half, open_stores(tmp_path / "whole").speech().astype(np.float16))


def _spawn(manifest: Path, out: Path) -> subprocess.Popen[str]:
    program = "from pipeline.commands.extract_features import main; main()"
    command = [sys.executable, "-c", program, str(manifest), "--out", str(out), *QUICK_OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _rows_committed(out: Path) -> int:
    try:
        return int((open_stores(out).audio.scan() != PENDING).sum())
    except Exception:  # noqa: BLE001 - not laid out yet
        return 0


@pytest.mark.parametrize("wait", [pytest.param("text", marks=pytest.mark.exhaustive), "audio"])
def test_a_killed_run_resumes_to_byte_identical_stores(corpus: Path, stores: Path, tmp_path: Path, wait: str) -> None:
    process = _spawn(corpus, tmp_path)
    try:
        while process.poll() is None:
            if (tmp_path / "captions.jsonl").exists() and (wait == "text" or _rows_committed(tmp_path) >= 3):
                break
            time.sleep(0.005)
        time.sleep(random.random() * 0.05)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    extract(corpus, out=tmp_path, overrides=QUICK)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (stores / name).read_bytes()


@pytest.mark.exhaustive  # the suite sends its signals in tests/faults/test_kills.py, to quicker encoders
def test_sigterm_commits_what_is_done_and_exits_143(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "c", 60)
    process = _spawn(manifest, tmp_path / "stores")
    while process.poll() is None and _rows_committed(tmp_path / "stores") < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "What is finished is safe" in said
    assert "Traceback" not in said
    status = status_of(tmp_path / "stores")
    assert 2 <= status["audio"]["done"] < 60
    assert FAILED not in open_stores(tmp_path / "stores").audio.scan()
    verify(tmp_path / "stores")


@pytest.mark.usefixtures("quick")
def test_an_interruption_in_python_is_an_exception(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache.writer import StoreWriter

    commit = StoreWriter.commit

    def commit_and_interrupt(self: StoreWriter, *args) -> str | None:
        os.kill(os.getpid(), signal.SIGINT)
        return commit(self, *args)

    monkeypatch.setattr(StoreWriter, "commit", commit_and_interrupt)
    with pytest.raises(Interrupted) as caught:
        extract(corpus, out=tmp_path, overrides=QUICK)
    assert caught.value.exit_code == 130


def test_a_lower_precision_is_reported_and_never_mixed_with_another(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.save_speech(tmp_path / "wavlm", tiny.wavlm(), do_normalize=True)
    options = [*QUICK, "audio.encoder=transformers", f"audio.model={folder}"]
    rough = extract(corpus, out=tmp_path / "stores", overrides=[*options, "audio.precision=bfloat16"])
    assert rough["precision"]["clips"] == 8
    assert 0.99 < rough["precision"]["least_cosine"] < 1
    assert "audio: bfloat16 compared with float32 on 8 clips: minimum cosine 0.99" in capsys.readouterr().err
    again = extract(corpus, out=tmp_path / "stores", overrides=[*options, "audio.precision=bfloat16"])
    assert "precision" not in again  # nothing is left to encode, so nothing is measured
    assert "precision: bfloat16" in (tmp_path / "stores/config.yaml").read_text()
    with pytest.raises(StoreMismatch, match="precision"):
        extract(corpus, out=tmp_path / "stores", overrides=options)
    assert "precision" not in extract(corpus, out=tmp_path / "exact", overrides=options)


def test_with_a_fixed_padding_a_batch_holds_no_more_padded_clips_than_asked_for(corpus: Path, tmp_path: Path) -> None:
    lengths = np.array([1_600] * 24)
    for padding, most in (("masked", 24), ("fixed", 3), ("fixed_masked", 3)):
        overrides = [*QUICK, "audio.batch_seconds=9", "audio.max_seconds=3", f"audio.padding={padding}"]
        inputs = read_inputs(resolve_extraction(corpus, overrides=overrides), device="cpu")
        assert max(map(len, audio_plan(inputs, lengths))) == most
