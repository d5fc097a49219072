"""RAVDESS, EmoDB, CREMA-D and TESS: labels read off the file names, checked against manifests made elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.acted import nominal_point, nominal_points

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "corpora"


def read(root: Path, reader: str, *names: str) -> Manifest:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return read_corpus(CorpusConfig(reader=reader, root=root))


def only(manifest: Manifest) -> dict[str, object]:
    assert len(manifest) == 1
    names = ("id", "audio", "split", "emotion", "intensity", "speaker", "gender", "valence", "arousal")
    return {name: getattr(manifest, name)[0] for name in names}


@pytest.mark.parametrize("reader", ["ravdess", "emodb"])
def test_names_say_what_the_shared_manifests_say(reader: str) -> None:
    folder = SHARED / reader
    if not folder.is_dir():
        pytest.skip("the shared corpora are not here")
    ours = read(folder, reader)
    theirs = read_corpus(CorpusConfig(manifest=folder / "manifest.csv"))
    names = ("audio", "split", "emotion", "intensity", "speaker", "gender", "valence", "arousal")

    def by_id(manifest: Manifest) -> dict[str, tuple[object, ...]]:
        columns = [list(getattr(manifest, name)) for name in names]
        return dict(zip(manifest.id, zip(*columns, strict=True), strict=True))

    assert by_id(ours) == by_id(theirs)


def test_a_ravdess_name_is_read_field_by_field(tmp_path: Path) -> None:
    assert only(read(tmp_path, "ravdess", "Actor_24/03-01-06-02-02-01-24.wav")) == {
        "id": "03-01-06-02-02-01-24",
        "audio": "Actor_24/03-01-06-02-02-01-24.wav",
        "split": "test",
        "emotion": "fearful",
        "intensity": "strong",
        "speaker": "actor24",
        "gender": "female",
        "valence": 1.75,
        "arousal": 5.625,
    }


def test_songs_and_silent_videos_of_ravdess_are_dropped_and_counted(tmp_path: Path) -> None:
    names = ("03-01-05-01-01-01-01.wav", "03-02-05-01-01-01-01.wav", "02-01-05-01-01-01-01.wav")
    manifest = read(tmp_path, "ravdess", *names)
    assert manifest.id == ["03-01-05-01-01-01-01"]
    assert "dropped 2 clips of song or silent video" in manifest.notes


def test_an_emodb_name_is_read_field_by_field(tmp_path: Path) -> None:
    assert only(read(tmp_path, "emodb", "wav/13b09Lc.wav")) == {
        "id": "13b09Lc",
        "audio": "wav/13b09Lc.wav",
        "split": "dev",
        "emotion": "bored",
        "intensity": "",
        "speaker": "spk13",
        "gender": "female",
        "valence": 3.2,
        "arousal": 2.0,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1001_DFA_ANG_XX", ("train", "angry", "", "1001", "male", 1.9, 5.8)),
        ("1064_IEO_HAP_HI", ("dev", "happy", "high", "1064", "male", 6.375, 5.5)),
        ("1091_IEO_SAD_LO", ("test", "sad", "low", "1091", "female", 2.56, 2.88)),
        ("1078_IEO_NEU_MD", ("test", "neutral", "medium", "1078", "female", 4.0, 3.2)),
        ("1040_ITH_SAD_X", ("train", "sad", "", "1040", "male", 2.2, 2.6)),  # the release's one odd name
    ],
)
def test_a_cremad_name_is_read_field_by_field(tmp_path: Path, name: str, expected: tuple[object, ...]) -> None:
    fields = only(read(tmp_path, "cremad", f"AudioWAV/{name}.wav"))
    assert tuple(list(fields.values())[2:]) == expected


def test_cremads_mp3_are_read_where_there_is_no_wav(tmp_path: Path) -> None:
    names = ["1001_DFA_ANG_XX", "1002_DFA_SAD_XX"]
    manifest = read(tmp_path, "cremad", *(f"AudioMP3/{name}.mp3" for name in names))
    assert manifest.audio == [f"AudioMP3/{name}.mp3" for name in names]
    assert manifest.emotion == ["angry", "sad"]
    assert "no .wav or .flac is there: .mp3 is read" in manifest.notes
    both = read(tmp_path, "cremad", *(f"AudioWAV/{name}.wav" for name in names))
    assert both.audio == [f"AudioWAV/{name}.wav" for name in names]
    assert not [note for note in both.notes if ".mp3" in note]


def test_cremad_has_forty_three_women() -> None:
    assert len(word_list("labels/acted")["cremad"]["women"]) == 43


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OAF_angry/OAF_back_angry", ("test", "angry", "", "OAF", "female", 1.9, 5.8)),
        ("YAF_disgust/YAF_bar_disgust", ("test", "disgust", "", "YAF", "female", 2.1, 4.4)),
        ("OAF_Fear/OAF_food_fear", ("test", "fearful", "", "OAF", "female", 2.2, 5.3)),
        ("YAF_happy/YAF_third_happy", ("test", "happy", "", "YAF", "female", 5.9, 5.2)),
        ("OAF_neutral/OA_bite_neutral", ("test", "neutral", "", "OAF", "female", 4.0, 3.2)),  # the release's odd name
        ("YAF_pleasant_surprised/YAF_youth_ps", ("test", "surprised", "", "YAF", "female", 4.9, 5.4)),
        ("OAF_Sad/OAF_yes_sad", ("test", "sad", "", "OAF", "female", 2.2, 2.6)),
    ],
)
def test_a_tess_name_is_read_field_by_field(tmp_path: Path, name: str, expected: tuple[object, ...]) -> None:
    fields = only(read(tmp_path, "tess", f"{name}.wav"))
    assert fields["id"] == name.split("/")[1]
    assert tuple(list(fields.values())[2:]) == expected


def test_tess_is_two_voices_and_all_of_it_is_the_test(tmp_path: Path) -> None:
    emotions = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
    manifest = read(tmp_path, "tess", *(f"{who}_back_{emotion}.wav" for who in ("OAF", "YAF") for emotion in emotions))
    assert set(manifest.split) == {"test"}
    assert manifest.speaker == ["OAF"] * 7 + ["YAF"] * 7
    assert len(set(manifest.emotion)) == 7  # as F29 counts them


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        ("tess", "OAF_back_joy"),
        ("tess", "MAF_back_sad"),
        ("tess", "YA_back_sad"),  # only the older voice's name is ever cut short
        ("tess", "OAF_sad"),
        ("ravdess", "03-01-09-01-01-01-01"),  # no ninth emotion
        ("ravdess", "03-01-01-01-01-01-25"),
        ("ravdess", "03-01-01-01-01-01"),
        ("emodb", "04a01Fa"),
        ("emodb", "03a01Xa"),
        ("cremad", "1092_DFA_ANG_XX"),
        ("cremad", "1000_DFA_ANG_XX"),
        ("cremad", "1001_DFA_JOY_XX"),
    ],
)
def test_a_name_that_does_not_fit_is_named(tmp_path: Path, reader: str, name: str) -> None:
    with pytest.raises(ManyProblems) as caught:
        read(tmp_path, reader, f"{name}.wav", f"sub/x{name}.flac")
    first, second = caught.value.problems
    assert first.startswith(f"{tmp_path}/{name}.wav: not a file name of ")
    assert "; expected a name like " in first
    assert second.startswith(f"{tmp_path}/sub/x{name}.flac: not a file name of ")
    action = "Rename or remove the files, or pass the folder of the corpus as --audio-root."
    assert str(caught.value).endswith(f"2 problems. {action}")


def test_hidden_files_and_other_kinds_are_no_part_of_the_corpus(tmp_path: Path) -> None:
    names = ("03a01Fa.WAV", "._03a01Fa.wav", "readme.txt", "__MACOSX/x.wav", ".git/y.wav", "lab/03a01Fa.lab")
    assert read(tmp_path, "emodb", *names).audio == ["03a01Fa.WAV"]


def problems(root: Path, reader: str, *names: str) -> list[str]:
    with pytest.raises(ManyProblems) as caught:
        read(root, reader, *names)
    return [problem.replace(f"{root}", "ROOT") for problem in caught.value.problems]


ONCE = "expected each clip once (pass one copy as --audio-root)"


@pytest.mark.parametrize("copy", ["AAA", "TESS Toronto", "ZZZ", "archive/TESS"])  # before, among and behind the folders
def test_a_corpus_copied_inside_itself_is_one_line_however_many_clips(tmp_path: Path, copy: str) -> None:
    clips = [f"{who}_{emotion}/{who}_back_{emotion}.wav" for who in ("OAF", "YAF") for emotion in ("angry", "sad")]
    doubled = [*clips, *(f"{copy}/{clip}" for clip in clips)]
    assert problems(tmp_path, "tess", *doubled) == [f"ROOT/{copy}: 4 of its clips lie in ROOT too; {ONCE}"]
    assert len(read(tmp_path / copy, "tess")) == 4  # what the line tells one to do


def test_each_pair_of_folders_that_share_clips_is_a_line_beside_the_other_problems(tmp_path: Path) -> None:
    names = ("a/03a01Fa.wav", "a/03a01Na.wav", "b/03a01Fa.wav", "c/d/03a01Na.flac", "c/x.wav")
    assert sorted(problems(tmp_path, "emodb", *names)) == [
        f"ROOT/b: 1 of its clips lie in ROOT/a too; {ONCE}",
        f"ROOT/c/d: 1 of its clips lie in ROOT/a too; {ONCE}",
        "ROOT/c/x.wav: not a file name of EmoDB; expected a name like 03a01Fa.wav",
    ]


def test_one_clip_in_two_formats_is_refused_by_its_id(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "emodb", "a/03a01Fa.flac", "a/03a01Fa.wav")
    assert line == "ROOT/a/03a01Fa.wav: id '03a01Fa': already at ROOT/a/03a01Fa.flac; expected unique ids"


def test_rows_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = [f"wav/03a0{text}{letter}a.wav" for text in (5, 1, 4) for letter in "WNF"]
    assert read(tmp_path, "emodb", *names).audio == sorted(names)


def test_no_speaker_of_any_corpus_is_in_two_splits_and_all_splits_are_there(tmp_path: Path) -> None:
    names = {
        "ravdess": [f"03-01-01-01-01-01-{actor:02}.wav" for actor in range(1, 25)],
        "emodb": [f"{speaker:02}a01Na.wav" for speaker in (3, *range(8, 17))],
        "cremad": [f"{actor}_DFA_NEU_XX.wav" for actor in range(1001, 1092)],
    }
    for reader, files in names.items():
        manifest = read(tmp_path / reader, reader, *files)
        assert len(set(manifest.speaker)) == len(files)
        assert set(manifest.split) == {"train", "dev", "test"}
        assert manifest.split.count("train") >= 0.6 * len(files)


def test_a_folder_without_clips_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.wav or \.flac file in it or below; expected CREMA-D"):
        read(tmp_path, "cremad")


def test_labels_are_said_to_be_nominal(tmp_path: Path) -> None:
    assert any("nominal, not annotations" in note for note in read(tmp_path, "emodb", "03a01Fa.wav").notes)


def test_the_circumplex_is_russells_order() -> None:
    valence = {emotion: point[0] for emotion, point in nominal_points().items()}
    arousal = {emotion: point[1] for emotion, point in nominal_points().items()}
    assert max(valence, key=valence.__getitem__) == "happy"
    assert max(arousal, key=arousal.__getitem__) == "angry"
    assert min(arousal, key=arousal.__getitem__) == "bored"
    assert valence["sad"] < 4 < valence["calm"]
    assert arousal["sad"] < 4 < arousal["fearful"]


@pytest.mark.parametrize("emotion", nominal_points())
def test_intensity_moves_a_point_along_its_ray_and_stays_on_the_scale(emotion: str) -> None:
    plain, strong, low = nominal_point(emotion), nominal_point(emotion, "strong"), nominal_point(emotion, "low")
    for at, out, inward in zip(plain, strong, low, strict=True):
        assert out - 4 == pytest.approx(1.25 * (at - 4))
        assert inward - 4 == pytest.approx(0.8 * (at - 4))
        assert 1 <= out <= 7
