"""The builder keeps what is right, and says everything that is wrong, once, with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.manifest import Manifest, read_manifest, write_manifest
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora import builder as builder_module
from pipeline.data.corpora.builder import ManifestBuilder
from pipeline.data.corpora.locations import AudioFiles

CSV = Path("m.csv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / "audio" / name).touch()
    return tmp_path


def build(
    root: Path, *rows: dict[str, object], scale: tuple[float, float] = (1, 7), missing: str = "error"
) -> Manifest:
    builder = ManifestBuilder(root, scale, missing_audio=missing, source=CSV)
    for line, row in enumerate(rows, start=2):
        builder.add(line, CSV, **{"id": f"u{line}", "audio": "audio/a.wav", "split": "train", **row})
    return builder.build()


def problems(root: Path, *rows: dict[str, object], **options: object) -> list[str]:
    with pytest.raises(ManyProblems) as caught:
        build(root, *rows, **options)
    return caught.value.problems


def test_every_problem_of_every_row_is_said_at_once(root: Path) -> None:
    lines = problems(root, {"id": ""}, {"valence": "x", "split": "trian"}, {}, {"audio": "audio/z.wav"})
    assert [line.split(": ")[0:2] for line in lines] == [
        ["m.csv:2", "id"],
        ["m.csv:3", "split 'trian'"],
        ["m.csv:3", "valence 'x'"],
        ["m.csv:5", "audio 'audio/z.wav'"],
    ]


def test_a_second_use_of_an_id_names_the_first_line(root: Path) -> None:
    assert problems(root, {"id": "same"}, {}, {"id": " same "}) == [
        "m.csv:4: id 'same': already at line 2; expected unique ids"
    ]


def test_an_id_used_in_two_files_names_the_first_file(root: Path) -> None:
    builder = ManifestBuilder(root, source="corpus")
    for name in ("one.txt", "two.txt"):
        builder.add(7, Path(name), id="same", audio="audio/a.wav", split="dev")
    with pytest.raises(ManyProblems, match=r"^two\.txt:7: id 'same': already at one\.txt:7;"):
        builder.build()


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("high", "not a number"),
        ("1_0", "not a number"),
        (True, "not a number"),
        ([3], "not a number"),
        ("inf", "not finite"),
        (10**400, "not finite"),
        ("0.999", "off the scale"),
        ("7.001", "off the scale"),
    ],
)
def test_a_label_that_is_no_point_of_the_scale_is_refused(root: Path, label: object, found: str) -> None:
    (line,) = problems(root, {"arousal": label})
    assert line.startswith("m.csv:2: arousal ")
    assert line.endswith(f": {found}; expected 1 to 7, or nothing")


def test_labels_on_the_paper_scale_are_kept_to_the_last_bit(root: Path) -> None:
    manifest = build(root, {"valence": "3.777778", "arousal": 0.1 + 1.2}, {"valence": 7})
    assert manifest.valence.tolist() == [3.777778, 7.0]
    assert manifest.arousal[0] == 0.1 + 1.2


@given(st.floats(1, 5), st.floats(1, 5))
def test_another_scale_is_mapped_linearly_onto_one_to_seven(tmp_path_factory, a: float, b: float) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "x.wav").touch()
    rows = [{"audio": "x.wav", "valence": value} for value in (1, 5, 3, a, b, (a + b) / 2)]
    low, high, middle, *mapped = build(root, *rows, scale=(1, 5)).valence
    assert (low, high, middle) == (1, 7, 4)
    assert mapped[2] == pytest.approx((mapped[0] + mapped[1]) / 2)


def test_a_scale_upside_down_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match=r"corpus\.scale: 7 to 1; expected lowest < highest"):
        build(root, {}, scale=(7, 1))


def test_a_blank_label_is_absent(root: Path) -> None:
    assert np.isnan(build(root, {"valence": " ", "arousal": None}).valence).all()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *[(name, "train") for name in ("train", "Train", "TRAINING")],
        *[(name, "dev") for name in ("dev", "Development", "val", "VALID", "validation")],
        *[(name, name.lower()) for name in ("test", "Test1", "TEST2", "test3")],
    ],
)
def test_splits_have_one_spelling(root: Path, given: str, kept: str) -> None:
    assert build(root, {"split": given}).split == [kept]


def test_an_unknown_split_is_refused_with_the_nearest_known(root: Path) -> None:
    assert problems(root, {"split": "Trian"}, {"split": "xyzzy"}, {"split": ""}) == [
        "m.csv:2: split 'Trian': unknown; did you mean 'train'?; expected train, dev, test, test1, test2, test3",
        "m.csv:3: split 'xyzzy': unknown; expected train, dev, test, test1, test2, test3",
        "m.csv:4: split '': unknown; expected train, dev, test, test1, test2, test3",
    ]


@pytest.mark.parametrize("audio", ["../a.wav", "/etc/passwd", "audio/../../a.wav", "..", "audio/./../../x/a.wav"])
def test_a_path_that_leaves_the_root_is_refused_by_name(root: Path, audio: str) -> None:
    (root.parent / "a.wav").touch()
    assert problems(root, {"audio": audio}) == [f"m.csv:2: audio {audio!r}: leaves {root}; expected a path inside it"]


@pytest.mark.parametrize("audio", ["./audio/a.wav", "audio//a.wav", "audio/../audio/a.wav"])
def test_a_path_inside_the_root_is_kept_tidy_and_relative(root: Path, audio: str) -> None:
    assert build(root, {"audio": audio}).audio == ["audio/a.wav"]


def test_a_root_given_relative_finds_the_same_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    manifest = build(Path("audio"), {"audio": "b.wav"})
    assert manifest.path(0).is_file()


def test_folders_and_broken_links_are_no_audio_but_good_links_are(root: Path) -> None:
    (root / "audio" / "folder.wav").mkdir()
    (root / "audio" / "broken.wav").symlink_to(root / "nowhere.wav")
    (root / "audio" / "good.wav").symlink_to(root / "audio" / "a.wav")
    names = ("folder", "broken", "good", "nul\0")
    lines = problems(root, *({"audio": f"audio/{name}.wav"} for name in names))
    assert [line.split(" ")[2] for line in lines[:2]] == ["'audio/folder.wav':", "'audio/broken.wav':"]
    assert not any("good" in line for line in lines)


def test_missing_audio_is_dropped_and_counted_when_asked(root: Path) -> None:
    manifest = build(root, {"audio": "audio/z.wav"}, {}, {"audio": "no/y.wav"}, missing="drop")
    assert manifest.id == ["u3"]
    assert "dropped 2 without an audio file (first: audio/z.wav)" in manifest.notes


def test_nothing_left_is_an_error_that_says_what_was_dropped(root: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.csv: no utterance; dropped 1 without an audio file"):
        build(root, {"audio": "audio/z.wav"}, missing="drop")


def test_texts_are_stripped_and_gender_and_unknown_speakers_normalised(root: Path) -> None:
    rows = [{"speaker": "Unknown", "gender": "Unknown"}, {"speaker": " 30 ", "gender": "Male"}, {"gender": "F"}, {}]
    manifest = build(root, *rows, {"gender": "other", "speaker": 41}, {"gender": "other"})
    assert manifest.speaker == ["", "30", "", "", "41", ""]
    assert manifest.gender == ["", "male", "female", "", "", ""]
    assert "gender 'other' of 2 utterances is not used" in manifest.notes


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b", "\ud800"])
def test_an_id_that_would_break_a_line_of_the_manifest_is_refused(root: Path, name: str) -> None:
    (line,) = problems(root, {"id": name})
    assert line.endswith("a control character; expected plain text")
    assert "\n" not in line


def test_a_line_break_in_a_caption_is_a_space(root: Path) -> None:
    assert build(root, {"caption": "calm,\n a  little\tsad "}).caption == ["calm, a little sad"]


def test_text_of_another_type_is_refused(root: Path) -> None:
    assert problems(root, {"speaker": [1]}, {"id": {}}, {"emotion": True})[0] == (
        "m.csv:2: speaker [1]: a list; expected text"
    )


def test_the_manifest_survives_being_written_and_read(root: Path) -> None:
    rows = [{"valence": "2.2", "emotion": "sad, tired", "caption": 'a "quote"'}, {"dominance": 1, "speaker": "ß"}]
    manifest = build(root, *rows)
    write_manifest(manifest, root / "manifest.csv")
    again = read_manifest(root / "manifest.csv", root)
    assert (again.id, again.caption, again.emotion) == (manifest.id, manifest.caption, manifest.emotion)
    np.testing.assert_array_equal(again.valence, manifest.valence)


def test_the_file_system_is_asked_once_per_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.data.corpora.locations as locations

    asked: list[str] = []
    listed = locations._listed
    monkeypatch.setattr(locations, "_listed", lambda folder: asked.append(folder) or listed(folder))
    build(root, *({"audio": f"audio/{name}.wav"} for name in "abcabc"))
    assert len(asked) == 1


def test_a_label_known_as_text_says_nothing_of_what_is_no_text(root: Path) -> None:
    """Python takes 1, 1.0 and true for one key."""
    assert build(root, {"valence": "1"}, {"valence": 1}, {"valence": "1.0"}, {}).valence.tolist()[:3] == [1, 1, 1]
    (line,) = problems(root, {"valence": "1"}, {"valence": "1"}, {"valence": True})
    assert line.startswith("m.csv:4: valence True: not a number")


def test_more_rows_than_a_block_keep_their_columns_and_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "_BLOCK", 3)
    rows = [{"id": f"u{row}", "speaker": f"s{row % 2}", "valence": f"{1 + row % 4}"} for row in range(8)]
    manifest = build(root, *rows)
    assert manifest.id == [f"u{row}" for row in range(8)]
    assert manifest.speaker == ["s0", "s1"] * 4
    assert manifest.audio == ["audio/a.wav"] * 8
    assert manifest.valence.tolist() == [1, 2, 3, 4] * 2


def test_a_loop_of_links_costs_no_other_file_its_place(root: Path) -> None:
    (root / "audio/loop.wav").symlink_to("loop.wav")
    assert AudioFiles(root).names("audio") == {"a.wav", "b.wav", "c.wav"}
