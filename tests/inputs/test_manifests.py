"""Manifests nobody meant: rows that are right are read as they are, everything else is refused by its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cache.captions import Captions
from cache.errors import StoreCorrupt
from cache.manifest import Manifest, read_manifest, write_manifest
from pipeline.commands import extract_features
from pipeline.core.config import CaptionsConfig, CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.captions import CaptionSource, assign_captions
from pipeline.data.corpora import read_corpus
from tests.inputs.commands import as_nobody, command, contract
from tests.inputs.counts import cases, hold
from tests.inputs.mutations import ENDLESS, WHOLES, spoilt

CAPTIONS = CaptionsConfig(styles=("dimensional", "template"), per_utterance=1, prompt_variants=1)
ROWS = [
    {"id": "u1", "audio": "a.wav", "split": "train", "valence": 2.4, "arousal": 5, "emotion": "angry", "speaker": "s1"},
    {"id": "u2", "audio": "in/b.wav", "split": "dev", "valence": 7, "arousal": 1.25, "emotion": "", "speaker": "s2"},
    {"id": "u3", "audio": "./in/c.wav", "split": "test", "valence": None, "arousal": None, "emotion": "calm"},
    {"id": "ü4", "audio": "a.wav", "split": "TRAIN", "valence": 4, "arousal": 4, "emotion": "calm", "speaker": "7"},
]
COLUMNS = ("id", "audio", "split", "valence", "arousal", "emotion", "speaker")
CSV = "".join(
    ",".join("" if row.get(name) is None else str(row[name]) for name in COLUMNS) + "\n"
    for row in [{name: name for name in COLUMNS}, *ROWS]
).encode()
JSON = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
WORDS = (b"u1", b"a.wav", b"train", b"valence", b"id", b'"id"', b'"a.wav"', b"../../a.wav", ENDLESS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "in/b.wav", "in/c.wav"):
        (tmp_path / name).touch()
    (tmp_path.parent / "a.wav").touch()
    return tmp_path


def planned(path: Path, **options: object) -> tuple[Manifest, Captions]:
    manifest = read_corpus(CorpusConfig(manifest=path, **options))
    return manifest, assign_captions(CaptionSource(manifest), CAPTIONS)


def refused(folder: Path, text: str, **options: object) -> ManyProblems:
    (folder / "m.csv").write_text(text)
    with pytest.raises(ManyProblems) as caught:
        planned(folder / "m.csv", **options)
    return caught.value


def is_sound(manifest: Manifest, root: Path) -> None:
    """What must be true of any manifest, said as plainly as can be."""
    assert len(set(manifest.id)) == len(manifest.id)
    for row in range(len(manifest)):
        whole = os.path.normpath(os.path.join(root, manifest.audio[row]))
        assert whole.startswith(f"{root}/"), f"{manifest.audio[row]!r} is outside"
        assert os.path.isfile(whole)
        assert manifest.split[row] in ("train", "dev", "test", "test1", "test2", "test3")
        for label in (manifest.valence[row], manifest.arousal[row], manifest.dominance[row]):
            assert np.isnan(label) or 1 <= label <= 7


@cases(80, 2500)
@pytest.mark.parametrize(("name", "good"), [("m.csv", CSV), ("m.jsonl", JSON), ("m.json", JSON)])
def test_a_manifest_spoilt_anywhere_is_sound_or_refused_by_line(
    name: str, good: bytes, count: int, folder: Path
) -> None:
    path = folder / name
    path.write_bytes(good)
    assert contract(lambda: planned(path), path).code == 0

    def holds(content: bytes) -> None:
        path.write_bytes(content)
        outcome = contract(lambda: planned(path), path)
        if outcome.code == 0:
            manifest, captions = outcome.result
            is_sound(manifest, folder)
            write_manifest(manifest, folder / "written.csv")
            again = read_manifest(folder / "written.csv", folder)
            assert (again.id, again.audio, again.caption) == (manifest.id, manifest.audio, manifest.caption)
            assert {row for caption in captions.captions for row in caption.rows} <= set(range(len(manifest)))

    hold(holds, spoilt(good, WORDS), count)


@pytest.mark.parametrize("content", WHOLES, ids=range(len(WHOLES)))
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_the_whole_command_refuses_and_leaves_nothing(name: str, content: bytes, folder: Path) -> None:
    path = folder / name
    path.write_bytes(content)
    for out in (folder / "new", folder / "old"):
        if out.name == "old":
            out.mkdir()
            (out / "audio.h5").write_bytes(b"precious")
        assert command(extract_features.main, [path, "--out", out], path, out=out).code == 2


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name), lambda path: None])
def test_what_is_no_file_is_refused_and_not_waited_for(make, folder: Path) -> None:
    path = folder / "m.csv"
    make(path)
    assert command(extract_features.main, [path, "--out", folder / "out"], path, out=folder / "out").code == 2


def test_what_may_not_be_read_is_refused(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_bytes(CSV)
    with as_nobody():
        assert contract(lambda: planned(path), path).code == 2
        assert contract(lambda: planned(path, root=folder / "in"), path, folder).code == 2


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ({"root": "~nobody-of-this-name/x"}, "~nobody-of-this-name/x"),
        ({"root": "x" * 300}, "x" * 300),
        ({"root": "nul\0"}, "no such folder"),
        ({"scale": (1, 1)}, "corpus.scale"),
        ({"scale": (0, 5e-324)}, "corpus.scale"),
        ({"keep": ("happy",)}, "corpus.keep"),
        ({"merge": {"happy": "sad"}}, "corpus.merge"),
    ],
)
def test_a_setting_that_does_not_fit_the_corpus_is_named(options: dict, subject: str, folder: Path) -> None:
    (folder / "m.csv").write_bytes(CSV)
    if "nul" not in str(options):
        assert contract(lambda: planned(folder / "m.csv", **options), subject).code == 2


# ---- paths that leave the root

HEAD = "id,audio,split\n"


@pytest.mark.parametrize(
    "audio", ["../a.wav", "in/../../a.wav", "{up}/a.wav", "/{up}/a.wav", "{up}/{name}/../a.wav", "{root}x/a.wav"]
)
def test_a_path_that_leaves_the_root_is_refused_unless_allowed(audio: str, folder: Path) -> None:
    (folder.parent / f"{folder.name}x").mkdir()
    (folder.parent / f"{folder.name}x" / "a.wav").touch()
    given = audio.format(up=folder.parent, name=folder.name, root=folder)
    error = refused(folder, f"{HEAD}u1,a.wav,train\nu2,{given},dev\nu3,a.wav,dev\nu4,{given},dev\n")
    assert [line.split(": ")[0] for line in error.problems] == [f"{folder}/m.csv:3", f"{folder}/m.csv:5"]
    assert all(f"leaves {folder}; expected a path inside it" in line for line in error.problems)
    assert "-o corpus.outside_root=true" in error.action
    manifest, _ = planned(folder / "m.csv", outside_root=True)
    assert manifest.audio == ["a.wav", given, "a.wav", given]
    assert all(manifest.path(row).is_file() for row in range(4))


def test_an_absolute_path_inside_the_root_is_fine_and_kept_as_given(folder: Path) -> None:
    given = [f"{folder}/a.wav", f"{folder}//in/./b.wav", f"{folder}/in/../in/c.wav"]
    (folder / "m.csv").write_text(HEAD + "".join(f"u{row},{path},train\n" for row, path in enumerate(given)))
    manifest, _ = planned(folder / "m.csv")
    assert manifest.audio == given
    assert all(manifest.path(row).is_file() for row in range(3))


def test_a_link_inside_the_root_may_lead_anywhere(folder: Path) -> None:
    (folder / "link.wav").symlink_to(folder.parent / "a.wav")
    (folder / "m.csv").write_text(f"{HEAD}u1,link.wav,train\n")
    assert planned(folder / "m.csv")[0].audio == ["link.wav"]


def test_the_folder_above_all_paths_is_named_where_it_would_do(folder: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists/m.csv").write_text(
        f"{HEAD}u1,{folder}/in/b.wav,train\nu2,{folder}/in/c.wav,dev\nu3,{folder}/a.wav,dev\n"
    )
    path, out = folder / "lists/m.csv", folder / "out"
    outcome = command(extract_features.main, [path, "--out", out], f"{path}:2", out=out)
    assert f"Pass --audio-root {folder}, where all of them lie" in outcome.lines[-1]
    assert planned(path, root=folder)[0].id == ["u1", "u2", "u3"]


@pytest.mark.parametrize("other", ["../a.wav", "a.wav"])
def test_no_folder_is_named_where_another_root_would_move_a_path(other: str, folder: Path) -> None:
    error = refused(folder, f"{HEAD}u1,{other},train\nu2,{folder.parent}/a.wav,dev\n")
    assert "--audio-root" not in error.action


def test_only_a_manifest_may_leave_its_root() -> None:
    outcome = contract(lambda: CorpusConfig(reader="manifest", outside_root=True), "corpus")
    assert outcome.code == 0
    with pytest.raises(ValueError, match="outside_root is for reader manifest; msp_podcast keeps to its folder"):
        CorpusConfig(reader="msp_podcast", outside_root=True)


# ---- one id, one file


def test_two_files_under_one_id_are_refused_with_both_lines(folder: Path) -> None:
    error = refused(folder, f"{HEAD}u1,a.wav,train\nu2,a.wav,dev\nu1,in/b.wav,train\nu2,a.wav,dev\n")
    assert [line.removeprefix(f"{folder}/") for line in error.problems] == [
        "m.csv:4: id 'u1': already at line 2; expected unique ids",
        "m.csv:5: id 'u2': already at line 3; expected unique ids",
    ]


def test_one_file_under_several_ids_is_told_however_it_is_spelt(folder: Path) -> None:
    spelt = ["a.wav", "./a.wav", f"{folder}/a.wav", "in/../a.wav", f"{folder}//a.wav", "in/b.wav"]
    (folder / "m.csv").write_text(HEAD + "".join(f"u{row},{path},train\n" for row, path in enumerate(spelt)))
    assert (
        "4 utterances are another's audio file: u0 and u1, u0 and u2, u0 and u3, ..."
        in planned(folder / "m.csv")[0].notes
    )


def test_one_file_in_two_splits_is_told_loudly(folder: Path) -> None:
    (folder / "m.csv").write_text(f"{HEAD}u1,a.wav,train\nu2,in/b.wav,train\nu3,a.wav,train\nu4,in/b.wav,test\n")
    notes = planned(folder / "m.csv")[0].notes
    assert "2 utterances are another's audio file: u1 and u3, u2 and u4" in notes
    assert "WARNING: 1 audio files stand in two splits, so that a test hears what was trained on: u2 and u4" in notes


def test_files_that_differ_are_not_told(folder: Path) -> None:
    (folder / "m.csv").write_text(f"{HEAD}u1,a.wav,train\nu2,in/b.wav,test\nu3,{folder}/in/c.wav,test\n")
    assert not [note for note in planned(folder / "m.csv")[0].notes if "audio file" in note]


# ---- the stores' own manifest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("2.4", "7.5", "m.csv:2: valence 7.5; expected a label from 1 to 7, or nothing"),
        ("2.4", "inf", "m.csv:2: valence inf; "),
        ("1.25", "0", "m.csv:3: arousal 0; "),
        ("dev", "train2", "m.csv:3: split 'train2'; expected train, dev, test"),
        ("u2", "u1", "m.csv:3: id 'u1', already at line 2; "),
        ("2.4", "high", "m.csv: cannot be read"),
    ],
)
def test_the_stores_manifest_edited_is_refused_by_line(old: str, new: str, said: str, folder: Path) -> None:
    (folder / "given.csv").write_bytes(CSV)
    write_manifest(planned(folder / "given.csv")[0], folder / "m.csv")
    path = folder / "m.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(StoreCorrupt) as caught:
        read_manifest(path, folder)
    assert str(caught.value).removeprefix(f"{folder}/").startswith(said)
    assert "\n" not in str(caught.value)
