"""What changed since it was cached is noticed and said: audio, captions, weights, and the same audio twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

from cache.header import PENDING
from cache.stores import open_stores
from pipeline.commands.extract_features import main as extract_features
from pipeline.core.errors import StoreMismatch, UsageError
from pipeline.extraction.status import status_of
from tests.faults.small import OPTIONS, QuickEncoder, contents, quick_encoders, run_small
from tests.speech import write_corpus


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick_encoders(monkeypatch)
    return write_corpus(tmp_path / "c", 6)


@pytest.fixture
def out(manifest: Path, tmp_path: Path) -> Path:
    run_small(manifest, tmp_path / "out")
    return tmp_path / "out"


def _run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(extract_features, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def _rewrite(path: Path, *, keep_time: bool, keep_size: bool = True) -> None:
    """Other sound in the same file."""
    before = path.stat()
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[::-1] if keep_size else wave[:-1], rate)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size == before.st_size) == keep_size


@pytest.mark.parametrize(("keep_time", "keep_size"), [(False, True), (True, False), (False, False)])
def test_audio_of_another_size_or_time_and_content_is_encoded_again(
    manifest: Path, out: Path, keep_time: bool, keep_size: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_stores(out).speech()
    _rewrite(manifest.parent / "audio/u02.wav", keep_time=keep_time, keep_size=keep_size)
    run_small(manifest, out)
    assert f"{out / 'audio.h5'}: the manifest changed; 5 of 6 rows reused" in capsys.readouterr().err
    after = open_stores(out).speech()
    assert [row for row in range(6) if not np.array_equal(before[row], after[row])] == [2]


def test_a_file_that_was_only_touched_is_not(manifest: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(manifest.parent / "audio/u02.wav")
    run_small(manifest, out)
    assert "6 of 6 rows reused" in capsys.readouterr().err


def test_audio_changed_behind_its_size_and_time_is_found_by_a_deep_verification(manifest: Path, out: Path) -> None:
    assert (
        "102 audio files and texts are those that were encoded" in _run(manifest, "--out", out, "--verify=deep").output
    )
    clip, gone = manifest.parent / "audio/u02.wav", manifest.parent / "audio/u04.wav"
    _rewrite(clip, keep_time=True)
    moved = gone.rename(gone.with_suffix(".away"))
    _run(manifest, "--out", out, "--verify")
    error = _run(manifest, "--out", out, "--verify=deep", code=4).output.splitlines()[-1]
    assert error == (
        f"error: {out}: 2 audio files changed after encoding: {clip}, {gone} (cannot be read); expected the same bytes."
        " Restore what was encoded, or run touch FILE and then extract-features to re-encode what changed."
    )
    moved.rename(gone)
    run_small(manifest, out)  # neither size nor time tell
    _run(manifest, "--out", out, "--verify=deep", code=4)
    os.utime(clip)  # what the line says
    run_small(manifest, out)
    _run(manifest, "--out", out, "--verify=deep")


def test_audio_that_moved_is_verified_where_it_is(manifest: Path, out: Path, tmp_path: Path) -> None:
    shutil.move(manifest.parent, tmp_path / "moved")
    _run(manifest, "--out", out, "--verify=deep", code=4)
    _run(manifest, "--out", out, "--verify=deep", "--audio-root", tmp_path / "moved")


def test_other_captions_are_said_and_only_new_texts_are_encoded(manifest: Path, out: Path) -> None:
    before, audio = open_stores(out).text.ids, (out / "audio.h5").read_bytes()
    again = [manifest, "--out", out, *OPTIONS, "-o", "captions.styles=[template,dimensional]"]
    said = _run(*again).output
    after = open_stores(out).text.ids
    assert set(before) < set(after)
    assert f"{out / 'captions.jsonl'}: the captions changed; {len(before)} of {len(after)} texts were there" in said
    assert f"text: {len(after) - len(before)} rows in" in said
    assert (out / "audio.h5").read_bytes() == audio
    assert (
        "changed" not in _run(manifest, "--out", out, *OPTIONS, "-o", "captions.styles=[template,dimensional]").output
    )


def test_other_weights_are_refused_field_by_field(
    manifest: Path, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = contents(out)
    quick_encoders(monkeypatch, weights="sha256:1")
    with pytest.raises(StoreMismatch) as caught:
        run_small(manifest, out)
    assert str(caught.value) == (
        f'{out / "audio.h5"}: encoder.weights: the store has "sha256:0", now "sha256:1"; '
        "expected the settings that the store was made with. Choose another --out, or start over with --fresh."
    )
    assert caught.value.exit_code == 4
    assert contents(out) == before


def test_the_same_audio_under_two_ids_is_said_and_a_leak_between_splits_named(manifest: Path, tmp_path: Path) -> None:
    audio = manifest.parent / "audio"
    shutil.copy(audio / "u00.wav", audio / "u01.wav")  # both train
    shutil.copy(audio / "u02.wav", audio / "u03.wav")  # dev and test
    (audio / "u04.wav").write_bytes(b"")
    (audio / "u05.wav").write_bytes(b"")  # no audio is not the same audio
    result = _run(manifest, "--out", tmp_path / "s", *OPTIONS)
    assert "same audio: u00 = u01 (train)" in result.output
    assert "same audio: u02 = u03 (dev, test)" in result.output
    assert "same audio: 1 of 2 lie in more than one split, which leaks" in result.output
    assert status_of(tmp_path / "s")["same_audio"] == [
        {"ids": ["u00", "u01"], "splits": ["train"]},
        {"ids": ["u02", "u03"], "splits": ["dev", "test"]},
    ]


def test_a_float16_store_says_what_it_costs(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "rounding" not in run_small(manifest, tmp_path / "exact")
    capsys.readouterr()
    from pipeline.extraction.extract import extract
    from tests.faults.small import STYLE
    from tests.speech import QUICK

    half = extract(manifest, out=tmp_path / "half", overrides=[*QUICK, STYLE, "store_dtype=float16"])
    exact = open_stores(tmp_path / "exact").speech().astype(np.float64)
    kept = open_stores(tmp_path / "half").speech().astype(np.float64)
    cosines = (exact * kept).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(kept, axis=1)
    found = half["rounding"]["audio"]
    assert found["rows"] == len(exact)
    assert found["largest_error"] == np.abs(exact - kept).max()
    assert found["largest_value"] == np.abs(exact).max()
    assert found["least_cosine"] == pytest.approx(cosines.min(), abs=1e-12)
    assert "audio: float16 of 6 rows: cosine at least 0.9999" in capsys.readouterr().err


def test_a_stopped_run_leaves_no_row_that_is_neither(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "limited"
    run_small(manifest, out, limit=2)
    assert (open_stores(out).audio.scan() == PENDING).sum() == 4
    _run(manifest, "--out", out, "--verify")


def test_tables_that_changed_are_refused_until_they_are_written_anew_and_the_repair_is_said(
    manifest: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A label with one flipped bit was trained on in silence."""
    before = contents(out)
    assert "digests.json" in before
    for name in ("manifest.csv", "captions.jsonl", "config.yaml", "digests.json"):
        content = bytearray(before[name])
        content[-9] ^= 1
        (out / name).write_bytes(content)
        for words in (("--status",), ("--verify",), ("--verify=deep",)):
            line = _run(manifest, "--out", out, *words, code=5).output.splitlines()[-1]
            assert f"{name}: modified" in line or f"{name}: corrupt" in line
        capsys.readouterr()
        run_small(manifest, out)
        said = capsys.readouterr().err
        assert f"{out / name}: " in said
        assert "; it is rewritten" in said
        assert contents(out) == before


def test_stores_without_digests_are_read_with_one_note_and_get_them_without_encoding(
    manifest: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stores of before have none."""
    before = contents(out)
    (out / "digests.json").unlink()
    assert _run(manifest, "--out", out, "--verify").output.count("written without digests.json") == 1
    with monkeypatch.context() as patch:
        patch.setattr(QuickEncoder, "compute", None)
        run_small(manifest, out)
    assert contents(out) == before


def test_a_store_put_in_place_of_another_is_said(
    manifest: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same names and widths, but encoded before a file changed."""
    old = contents(out)["audio.h5"]
    _rewrite(manifest.parent / "audio/u02.wav", keep_time=False)
    run_small(manifest, out)
    (out / "audio.h5").write_bytes(old)
    assert "audio.h5: not the store that digests.json lists" in _run(manifest, "--out", out, "--verify", code=5).output
    capsys.readouterr()
    run_small(manifest, out)
    assert "audio.h5: not the store that digests.json lists" in capsys.readouterr().err
    _run(manifest, "--out", out, "--verify")


def test_an_encoder_that_tells_nothing_apart_is_refused_before_anything_is_written_or_removed(
    manifest: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(out)
    monkeypatch.setattr(QuickEncoder, "compute", lambda _, prepared: torch.ones(len(prepared), QuickEncoder.dim))
    assert "have the same vector" in _run(manifest, "--out", tmp_path / "new", "--dry-run", code=2).output
    for folder, fresh in ((tmp_path / "new", False), (out, True)):
        with pytest.raises(UsageError, match="three different sentences have the same vector"):
            run_small(manifest, folder, fresh=fresh)
    assert contents(out) == before
    assert not list((tmp_path / "new").glob("*.h5"))
