"""Stage one over a folder with files of every kind: each costs at most its own row, with a reason, and what is stored
never claims to be of a file that it is not of.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cache.header import DONE, FAILED
from cache.stores import Stores, open_stores
from pipeline.extraction.audio import decoding as audio
from pipeline.extraction.extract import extract
from pipeline.extraction.status import digest_of_path, sources_of, verify
from tests.inputs.spoiled_audio import BROKEN, SOUND, clip, float_wav, manifest_of, written
from tests.speech import QUICK, tone

WHOLE = written("WAV", "PCM_16")
SAME = {  # other containers of the same samples: the vector must be the same to the bit
    "plain.wav": WHOLE,
    "stereo.wav": written("WAV", "PCM_16", 2),
    "24 bits.wav": written("WAV", "PCM_24"),
    "float.wav": written("WAV", "FLOAT"),
    "double.wav": written("WAV", "DOUBLE"),
    "extensible.wav": written("WAVEX", "PCM_24"),
    **{f"{kind}.{kind}": written(kind.upper(), "PCM_16") for kind in ("rf64", "w64", "aiff", "flac", "au", "caf")},
    "a flac by another name.mp3": written("FLAC", "PCM_16"),
    **{f"{case}.wav": data for case, data in SOUND.items()},
    "a name with  spaces.wav": WHOLE,
    "emoji 😀 ü.wav": WHOLE,
    "no∕slash／either.wav": WHOLE,
    "-o dtype=float16.wav": WHOLE,
    "bytes \udcff\udc80.wav": WHOLE,
    "n" * 251 + ".wav": WHOLE,
    "🙂" * 62 + "abc.wav": WHOLE,
}
OTHER = {  # speech in other words
    "six channels.wav": written("WAV", "PCM_16", 6),
    "mu-law.wav": written("WAV", "ULAW"),
    "A-law.wav": written("WAV", "ALAW"),
    "mp3.mp3": written("MP3", "MPEG_LAYER_III"),
    "vorbis.ogg": written("OGG", "VORBIS"),
    "opus.ogg": written("OGG", "OPUS"),
    "8 kHz.wav": float_wav(tone(0.5, rate=8_000), rate=8_000),
    "96 kHz.wav": float_wav(tone(0.5, rate=96_000), rate=96_000),
    "one sample.wav": float_wav(np.full(1, 0.5)),
}
REFUSED = {  # name -> its bytes, what its reason says
    "nothing.wav": (b"", "an empty file"),
    "header only.wav": (WHOLE[:44], "truncated: 0 of 16000 bytes of audio"),
    "no frames.wav": (float_wav(np.zeros(0)), "0 frames"),
    "nan.wav": (float_wav(np.where(np.arange(8000) == 99, np.nan, clip())), "1 samples are not finite"),
    "inf.wav": (float_wav(np.where(np.arange(8000) < 3, np.inf, clip())), "3 samples are not finite"),
    "zero.wav": (float_wav(np.zeros(8000)), "silent: every sample is zero"),
    "constant.wav": (float_wav(np.full(8000, 0.1)), "silent: every sample is 0.1"),
    **{f"half.{kind}": (data[: len(data) // 2], "truncated: ") for kind, data in [
        ("wav", WHOLE),
        ("wavex", written("WAVEX", "PCM_16")),
        ("rf64", written("RF64", "PCM_16")),
        ("w64", written("W64", "PCM_16")),
        ("aiff", written("AIFF", "PCM_16")),
        ("ogg", written("OGG", "VORBIS")),
        ("mp3", written("MP3", "MPEG_LAYER_III")),
    ]},
    "half.flac": (written("FLAC", "PCM_16")[:6000], "cannot be decoded (Error : flac decoder lost sync)"),
    **{f"{case}.wav": (data, "") for case, data in BROKEN.items()},
}  # fmt: skip
BEFORE = {"a pipe from the start.wav": "cannot be read (a pipe, not a file)"}  # after the manifest was read
AFTER = {  # after it was planned, before it is read
    "now a pipe.wav": "cannot be read (a pipe, not a file)",
    "now a folder.wav": "cannot be read (a folder, not a file)",
    "now a device.wav": "cannot be read (a device, not a file)",
    "now a broken link.wav": "cannot be read (No such file or directory)",
    "now a link in a circle.wav": "cannot be read (Too many levels of symbolic links)",
    "gone.wav": "cannot be read (No such file or directory)",
    "not readable.wav": "cannot be read (Permission denied)",
    "longer.wav": "changed after it was planned: run it again",
    "another.wav": None,  # of the same size: told by its stamp, below
}
LONGER = float_wav(tone(0.75))
ANOTHER = float_wav(clip()[::-1], "PCM_16")


def _change(folder: Path) -> None:
    """What happens between planning and reading."""
    for name in AFTER:
        (folder / name).unlink()
    os.mkfifo(folder / "now a pipe.wav")
    (folder / "now a folder.wav").mkdir()
    (folder / "now a device.wav").symlink_to("/dev/zero")
    (folder / "now a broken link.wav").symlink_to("nowhere")
    (folder / "now a link in a circle.wav").symlink_to("now a link in a circle.wav")
    (folder / "not readable.wav").write_bytes(WHOLE)
    (folder / "longer.wav").write_bytes(LONGER)
    (folder / "another.wav").write_bytes(ANOTHER)


def _mend(folder: Path) -> None:
    for name in (*BEFORE, *AFTER):
        path = folder / name
        if name not in ("longer.wav", "another.wav"):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(WHOLE)


@dataclass(frozen=True)
class Outcome:
    """What a run over the folder left."""

    folder: Path
    out: Path
    states: dict[str, int]
    reasons: dict[str, str]
    vectors: dict[str, np.ndarray]
    digests: dict[str, bytes]


def _outcome(folder: Path, out: Path, failures: list[dict[str, str]]) -> Outcome:
    stores: Stores = open_stores(out)
    names, store = stores.manifest.audio, stores.audio
    vectors, _ = store.read(np.arange(len(store)))
    digests = [digest.tobytes() for digest in store.column("digest")]
    return Outcome(
        folder,
        out,
        dict(zip(names, store.scan().tolist(), strict=True)),
        {failure["audio"]: failure["reason"] for failure in failures},
        dict(zip(names, vectors, strict=True)),
        dict(zip(names, digests, strict=True)),
    )


@pytest.fixture(scope="module")
def runs(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Outcome]:
    """A run while files change, and the next when they have become files again."""
    folder, out = tmp_path_factory.mktemp("kinds"), tmp_path_factory.mktemp("stores")
    shutil.copy(stores / "text.h5", out)  # the prompts are carried over: a second less
    files = SAME | OTHER | {name: data for name, (data, _) in REFUSED.items()}
    files |= dict.fromkeys((*BEFORE, *AFTER), WHOLE)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = manifest_of(folder, list(files))
    plan, look = sources_of, os.open

    def planned(*given):
        (folder / "a pipe from the start.wav").unlink()
        os.mkfifo(folder / "a pipe from the start.wav")
        rows = plan(*given)
        _change(folder)
        return rows

    def refusing(path, *given, **named):  # root may read all
        if str(path).endswith("not readable.wav"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(path, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.extraction.extract.sources_of", planned)
        patch.setattr(os, "open", refusing)
        first = extract(manifest, out=out, overrides=QUICK)
    before = _outcome(folder, out, first["failures"])
    _mend(folder)
    return before, _outcome(folder, out, extract(manifest, out=out, overrides=QUICK)["failures"])


def test_other_containers_and_names_of_the_same_samples_have_the_same_vector_to_the_bit(runs) -> None:
    expected = runs[0].vectors["plain.wav"].tobytes()
    assert {name: runs[0].states[name] for name in SAME} == dict.fromkeys(SAME, DONE)
    assert [name for name in SAME if runs[0].vectors[name].tobytes() != expected] == []


def test_other_rates_channels_and_coders_each_have_a_vector(runs) -> None:
    assert {name: runs[0].reasons.get(name) for name in OTHER} == dict.fromkeys(OTHER)
    near, expected = runs[0].vectors["six channels.wav"], runs[0].vectors["plain.wav"]
    assert np.allclose(near, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", REFUSED)
def test_a_spoiled_file_costs_its_own_row_and_says_why(runs, name: str) -> None:
    assert runs[0].states[name] == FAILED
    assert REFUSED[name][1] in runs[0].reasons[name]


@pytest.mark.parametrize("name", [*BEFORE, *(name for name in AFTER if AFTER[name])])
def test_a_file_that_is_another_than_was_planned_costs_its_own_row_and_says_why(runs, name: str) -> None:
    assert runs[0].reasons[name] == (BEFORE | AFTER)[name]
    assert not any(runs[0].digests[name])  # nobody may take the row for one of that file


def test_the_next_run_finds_what_changed_and_nothing_else_is_encoded(runs) -> None:
    before, after = runs
    assert after.reasons.keys() == REFUSED.keys()
    expected = before.vectors["plain.wav"].tobytes()
    for name in (*BEFORE, *AFTER):
        same = after.vectors[name].tobytes() == expected
        assert same == (name not in ("longer.wav", "another.wav")), name
        assert after.digests[name] == digest_of_path(after.folder / name)
    assert verify(after.out) == len(after.states) + len(open_stores(after.out).text)


def test_a_row_of_changed_content_has_that_contents_digest_or_none(runs) -> None:
    before, _ = runs
    if before.states["another.wav"] == DONE:
        assert before.digests["another.wav"] == audio.digest_of(ANOTHER)
    else:
        assert before.reasons["another.wav"] == "changed after it was planned: run it again"


def test_a_file_larger_than_any_recording_is_not_even_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of 50 GB was hashed for two minutes."""
    path = tmp_path / "sparse.wav"
    path.write_bytes(b"RIFF")
    os.truncate(path, audio.MAX_FILE_BYTES + (1 << 30))
    monkeypatch.setattr(audio, "digest_of_file", None)
    with pytest.raises(audio.UnusableAudio, match="9 GiB: larger than any recording"):
        audio.Decoding(16_000, 10.0, "start").load(path)
