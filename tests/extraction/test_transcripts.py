"""Transcripts as a store of their own: a row an utterance, by the text encoder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.header import DONE, FAILED, PENDING
from cache.reader import Store
from cache.stores import open_stores
from cache.writer import StoreWriter
from pipeline.commands.extract_features import main as extract_features
from pipeline.core.errors import StoreCorrupt, StoreMismatch
from pipeline.extraction.extract import extract
from pipeline.extraction.plan import plan_extraction
from pipeline.extraction.status import status_of, status_table, verify, verify_sources
from tests.data.corpora.miniature import transcript_of, write_miniature_msp, write_transcripts
from tests.faults.small import WIDTH, QuickEncoder, contents, quick_encoders
from tests.speech import QUICK, QUICK_OPTIONS, write_corpus
from tests.stage_two import run_command

TEXTS = ["I knew it.", "", "Oh no, not again!", "ça va", "I knew it.", "well"]


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Quick encoders; the list gets every text that is encoded."""
    quick_encoders(monkeypatch)
    seen: list[str] = []
    compute = QuickEncoder.compute

    def noted(self: QuickEncoder, prepared: Any) -> Any:
        seen.extend(each for each in prepared if isinstance(each, str))
        return compute(self, prepared)

    monkeypatch.setattr(QuickEncoder, "compute", noted)
    return seen


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = write_corpus(tmp_path / "corpus", len(TEXTS))
    write_column(path, TEXTS)
    return path


def write_column(manifest: Path, texts: list[str] | None) -> None:
    """Give the manifest these transcripts, or no such column; more utterances than texts are left out."""
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    for row, text in zip(rows, texts or [""] * len(rows), strict=False):
        row["transcript"] = text
    names = [name for name in rows[0] if texts is not None or name != "transcript"]
    with open(manifest, "w", newline="") as file:
        table = csv.DictWriter(file, names, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows[: len(texts)] if texts is not None else rows)


def run(manifest: Path, out: Path, **options: Any) -> dict[str, Any]:
    return extract(manifest, out=out, overrides=QUICK, **options)


def words_of(out: Path) -> Store:
    words = open_stores(out).words
    assert words is not None
    return words


def test_each_row_is_the_text_encoders_vector_of_what_was_said(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "stores"
    result = run(manifest, out)
    stores, words = open_stores(out), words_of(out)
    assert stores.manifest.transcript == TEXTS
    assert words.layout.kind == "text"
    assert words.fingerprint == stores.text.fingerprint
    vectors, done = words.read(np.arange(6))
    assert done.tolist() == [True, False, True, True, True, True]
    for row in np.flatnonzero(done):
        assert np.array_equal(vectors[row], QuickEncoder().encode([TEXTS[row]]).numpy()[0])
    assert words.reasons(words.scan()) == {1: "no transcript"}
    assert result["words"] == {"rows": 6, "done": 5, "failed": 1, "pending": 0, "width": WIDTH}
    assert [each["id"] for each in result["failures"] if each["store"] == "words"] == ["u01"]
    assert "words.h5" in status_table(result)
    assert "words.h5" in json.loads((out / "digests.json").read_text())["digests"]
    assert verify(out) == 6 + 6 + len(stores.text)
    assert verify_sources(out, manifest.parent) == 6 + 6 + len(stores.text)


def test_an_utterance_of_which_nothing_was_said_is_listed_and_passes_strict(manifest: Path, tmp_path: Path) -> None:
    result = run_command(extract_features, manifest, "--out", tmp_path / "stores", "--strict", *QUICK_OPTIONS)
    assert result.exit_code == 0
    assert "failed: u01 (words): no transcript" in result.output


def test_doing_it_again_and_resuming_give_the_same_bytes(manifest: Path, tmp_path: Path, encoded: list[str]) -> None:
    out = tmp_path / "stores"
    run(manifest, out)
    before = contents(out)
    encoded.clear()
    run(manifest, out)
    assert not encoded
    with StoreWriter(words_of(out)) as writer:
        writer.reset([0, 1, 3])
    assert (words_of(out).scan() == PENDING).tolist() == [True, True, False, True, False, False]
    run(manifest, out)
    assert contents(out) == before


@pytest.mark.parametrize("text", ["I knew he", "I knew IT."], ids=["another-length", "same-length"])
def test_a_changed_transcript_is_encoded_anew_and_no_other(
    manifest: Path, tmp_path: Path, encoded: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stores"
    run(manifest, out)
    before = words_of(out).read(np.arange(6))[0]
    encoded.clear()
    write_column(manifest, [text, "", *TEXTS[2:]])
    run(manifest, out)
    assert text in encoded
    after = words_of(out).read(np.arange(6))[0]
    assert np.array_equal(after[0], QuickEncoder().encode([text]).numpy()[0])
    assert np.array_equal(after[1:], before[1:])
    reset: list[int] = []
    monkeypatch.setattr(StoreWriter, "commit", lambda self, row, *_: reset.append(row))
    write_column(manifest, ["Another one", "", *TEXTS[2:]])
    run(manifest, out)
    assert reset == [0]  # the only row that is written


def test_a_transcript_that_comes_later_and_new_utterances_are_encoded_and_the_rest_reused(
    tmp_path: Path, encoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    manifest, out = write_corpus(tmp_path / "corpus", 8), tmp_path / "stores"
    whole = manifest.read_text()
    write_column(manifest, TEXTS)
    run(manifest, out)
    before = words_of(out).read(np.array([0, 2, 3, 4, 5]))[0]
    manifest.write_text(whole)
    write_column(manifest, [TEXTS[0], "at last", *TEXTS[2:], "new", ""])
    encoded.clear()
    with caplog.at_level("WARNING"):
        result = run(manifest, out)
    assert "words.h5: the manifest changed; 5 of 8 rows reused" in caplog.text
    assert "at last" in encoded
    assert "new" in encoded
    assert result["words"]["done"] == 7
    vectors, done = words_of(out).read(np.arange(8))
    assert done.tolist() == [True] * 7 + [False]
    assert np.array_equal(vectors[[0, 2, 3, 4, 5]], before)


def test_without_transcripts_there_is_neither_a_store_nor_a_column(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "stores"
    run(manifest, out)
    write_column(manifest, None)
    plain = run(manifest, tmp_path / "plain")
    assert "words" not in plain
    assert not (tmp_path / "plain" / "words.h5").exists()
    assert "transcript" not in (tmp_path / "plain" / "manifest.csv").read_text()
    assert open_stores(tmp_path / "plain").words is None
    assert "words" not in run(manifest, out)  # where there were some
    assert (out / "manifest.csv").read_bytes() == (tmp_path / "plain" / "manifest.csv").read_bytes()
    run(manifest, out, fresh=True)
    assert contents(out).keys() == contents(tmp_path / "plain").keys()
    write_column(manifest, TEXTS)
    assert run(manifest, out)["words"]["done"] == 5


def test_with_a_limit_the_transcripts_are_those_of_batches_whose_speech_is_encoded(
    manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stores"
    one_each = [*QUICK, "text.batch_size=1"]
    extract(manifest, out=out, overrides=one_each, limit=2)
    speech = open_stores(out).audio.scan()
    assert np.count_nonzero(speech == PENDING) == 4
    assert np.array_equal(words_of(out).scan() == PENDING, speech == PENDING)
    extract(manifest, out=out, overrides=one_each)
    assert np.isin(words_of(out).scan(), (DONE, FAILED)).all()


def test_a_changed_byte_and_a_changed_word_are_found(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "stores"
    run(manifest, out)
    words = words_of(out)
    damaged = bytearray(words.path.read_bytes())
    whole = bytes(damaged)
    damaged[words.layout.extents["vectors"].offset + 3] ^= 1
    words.path.write_bytes(damaged)
    with pytest.raises(StoreCorrupt, match=r"words\.h5: 1 corrupt or half-written row \(u00\)"):
        verify(out)
    assert status_of(out)["words"]["pending"] == 1
    words.path.write_bytes(whole)
    (out / "digests.json").unlink()
    table = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(table.replace("ça va", "çà va"))
    with pytest.raises(StoreMismatch, match="1 source changed after encoding: transcript of u03"):
        verify_sources(out, manifest.parent)


def test_the_dry_run_counts_the_bytes_of_transcripts(manifest: Path, tmp_path: Path) -> None:
    with_words = plan_extraction(manifest, out=tmp_path / "stores", overrides=QUICK)["bytes"]
    write_column(manifest, None)
    assert with_words - plan_extraction(manifest, out=tmp_path / "stores", overrides=QUICK)["bytes"] == 6 * WIDTH * 4


def test_msp_podcasts_transcripts_are_encoded_when_asked_for(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path / "msp")
    write_transcripts(tmp_path / "msp")
    options = {"audio_root": tmp_path / "msp", "overrides": [*QUICK, "audio.encoder=embedded", "text.encoder=embedded"]}
    extract("msp_podcast", out=tmp_path / "plain", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "plain" / "words.h5").exists()
    options["overrides"] = [*options["overrides"], "corpus.transcripts=true"]  # type: ignore[misc]
    extract("msp_podcast", out=tmp_path / "stores", **options)  # type: ignore[arg-type]
    stores, words = open_stores(tmp_path / "stores"), words_of(tmp_path / "stores")
    vectors, done = words.read(np.arange(len(words)))
    assert done.all()
    expected = [QuickEncoder().encode([transcript_of(name)]).numpy()[0] for name in stores.manifest.id]
    assert np.array_equal(vectors, expected)
