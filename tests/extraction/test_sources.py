"""What is known of a file before it is decoded."""

from __future__ import annotations

from pathlib import Path
from threading import current_thread

import pytest
import soundfile

from pipeline.core.config import CorpusConfig
from pipeline.data.corpora import read_corpus
from pipeline.extraction import status as sources
from pipeline.extraction.audio.decoding import Decoding
from tests.speech import write_corpus


@pytest.mark.parametrize("quick", [0.0, 1.0])
def test_files_are_looked_at_by_threads_where_that_is_slow_and_found_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: float
) -> None:
    manifest = read_corpus(CorpusConfig(reader="manifest", manifest=write_corpus(tmp_path / "c", 24)))
    (tmp_path / "c/audio/u05.wav").unlink()
    seen: set[str] = set()

    monkeypatch.setattr(sources, "PART_FILES", 5)
    monkeypatch.setattr(sources, "QUICK_SECONDS", quick)
    real = sources._stamp
    monkeypatch.setattr(sources, "_stamp", lambda path: (seen.add(current_thread().name), real(path))[1])
    rows = sources.sources_of(manifest, Decoding(16_000, 10.0, "start"), tmp_path / "none.h5")
    there = [row for row in range(24) if row != 5]
    paths = [manifest.path(row) for row in there]
    assert rows.stamps[there].tolist() == [[path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    assert rows.stamps[5].tolist() == [-1, 0]
    assert rows.lengths[there].tolist() == [soundfile.info(str(path)).frames for path in paths]
    assert rows.lengths[5] == 0
    assert (len(seen) > 1) == (quick == 0.0)
