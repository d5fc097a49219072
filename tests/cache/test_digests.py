"""digests.json: a changed byte of a listed file is found, whoever writes in the meantime."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from cache import digests as module
from cache import disk
from cache.digests import DIGESTS, FileDigests
from cache.errors import EmotionRankError, StoreCorrupt
from tests.faults.faulty_os import CHANGES, Crash, FaultyOs

NAMES = ("a.csv", "b/c.jsonl")


@pytest.fixture
def digests(tmp_path: Path) -> FileDigests:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.csv").write_bytes(b"id,valence\nu,4.8\n")
    (tmp_path / "b/c.jsonl").write_bytes(b"{}\n")
    made = FileDigests(tmp_path, "a-command", "Run a-command again.")
    made.write(NAMES)
    return made


def test_a_list_holds_blake2b_of_each_file_and_of_itself(digests: FileDigests) -> None:
    contents = json.loads((digests.folder / DIGESTS).read_bytes())
    assert contents["digests"] == {
        name: hashlib.blake2b((digests.folder / name).read_bytes(), digest_size=16).hexdigest() for name in NAMES
    }
    text = json.dumps(contents["digests"], separators=(",", ":"), sort_keys=True)
    assert contents["of_these"] == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    digests.check()


@pytest.mark.parametrize("name", [*NAMES, DIGESTS])
def test_every_flipped_bit_and_every_cut_is_found(digests: FileDigests, name: str) -> None:
    path = digests.folder / name
    good = path.read_bytes()
    flips = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(len(good)) for bit in range(8)]
    for content in [*flips, *(good[:end] for end in range(len(good))), good + b"\n", good + good]:
        path.write_bytes(content)
        with pytest.raises(StoreCorrupt, match=name):
            digests.check()
    path.write_bytes(good)
    digests.check()


def test_an_edit_is_told_from_damage_by_its_time(digests: FileDigests) -> None:
    path, listed = digests.folder / "a.csv", (digests.folder / DIGESTS).stat().st_mtime_ns
    path.write_bytes(b"id,valence\nu,5.8\n")
    os.utime(path, ns=(listed, listed + 1))
    with pytest.raises(StoreCorrupt, match=r"a\.csv: modified after a-command wrote it"):
        digests.check()
    os.utime(path, ns=(listed, listed))
    with pytest.raises(StoreCorrupt, match=r"a\.csv: corrupt: its bytes changed, but its modification time did not"):
        digests.check()
    path.unlink()
    with pytest.raises(StoreCorrupt, match=r"a\.csv: cannot be read \(No such file"):
        digests.check()


def test_a_folder_without_a_list_is_read_with_one_note(digests: FileDigests, caplog: pytest.LogCaptureFixture) -> None:
    (digests.folder / DIGESTS).unlink()
    with caplog.at_level(logging.INFO, logger="cache"):
        for _ in range(3):
            digests.note_unlisted()
            digests.check()
    assert caplog.text.count("a-command adds it") == 1


@pytest.mark.parametrize("again", ["removed", "written anew"])
def test_a_file_that_a_writer_replaces_during_the_check_is_not_called_corrupt(
    digests: FileDigests, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    real = module.digest_file

    def meanwhile(path: Path) -> str:
        monkeypatch.setattr(module, "digest_file", real)
        digests.remove()
        path.write_bytes(b"another\n")
        if again == "written anew":
            digests.write(NAMES)
        return real(path)

    monkeypatch.setattr(module, "digest_file", meanwhile)
    digests.check()


def test_a_list_that_is_there_is_true_after_a_crash_at_any_call(
    digests: FileDigests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(text: str) -> None:
        with digests.rewritten(NAMES):
            disk.write_text(digests.folder / "a.csv", text)
            disk.write_text(digests.folder / "b/c.jsonl", text)

    undisturbed = FaultyOs(counted=CHANGES)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "os", undisturbed)
        change("first")
    names = [call.name for call in undisturbed.calls]
    assert names.index("unlink") < names.index("fsync") < names.index("pwrite")  # gone for good before anything changes
    for k in range(len(names)):
        for how in (Crash, errno.EIO):
            with monkeypatch.context() as patch:
                patch.setattr(disk, "os", FaultyOs(k, how, counted=CHANGES))
                with pytest.raises((Crash, EmotionRankError)):
                    change(f"{k} {how}")
            digests.check()
            change("again")
            digests.check()
            assert (digests.folder / DIGESTS).exists()
