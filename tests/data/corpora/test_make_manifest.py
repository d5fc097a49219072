"""From a folder of audio and a table to a manifest: what was guessed is right, shown, and split by whole speakers."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner

from pipeline.commands import extract_features, make_manifest, train_heads
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import load_config, word_list
from pipeline.core.errors import UsageError
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.make_manifest import make_manifest as make
from tests.speech import QUICK_OPTIONS, tone


def ravdess(root: Path, *, actors: int = 6, audio: bool = False) -> list[str]:
    """RAVDESS' own folders, two clips of each of four emotions an actor."""
    clips = []
    for actor in range(1, actors + 1):
        folder = root / f"Actor_{actor:02}"
        folder.mkdir(parents=True)
        for emotion in (3, 4, 5, 8):
            for repetition in (1, 2):
                name = f"Actor_{actor:02}/03-01-{emotion:02}-01-01-{repetition:02}-{actor:02}.wav"
                clips.append(name)
                if audio:
                    soundfile.write(root / name, tone(0.4 + 0.02 * emotion, pitch=100 + 20 * emotion + actor), 16_000)
                else:
                    (root / name).touch()
    return clips


def european_csv(path: Path, clips: list[str]) -> None:
    """As Excel saves it where a comma is the decimal sign."""
    points = word_list("labels/circumplex")["emotions"]
    names = {"03": "Happy", "04": "Sadness", "05": "ANGRY", "08": "surprise"}
    lines = ["File Name;Pleasure;Activation;Category;Participant"]
    for clip in clips:
        name = clip.rpartition("/")[2]
        emotion = names[name.split("-")[2]]
        valence, arousal = points[{"Sadness": "sad", "surprise": "surprised"}.get(emotion, emotion.lower())]
        lines.append(f"{name};{valence};{arousal};{emotion};P{name[-6:-4]}".replace(".", ",").replace(",wav", ".wav"))
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ";;;;", ""]).encode())


def test_a_table_of_a_european_excel_becomes_a_manifest(tmp_path: Path) -> None:
    clips = ravdess(tmp_path / "RAVDESS")
    european_csv(tmp_path / "labels.csv", clips)
    found = make(tmp_path / "RAVDESS", labels=tmp_path / "labels.csv", out=tmp_path / "m.csv")
    assert {name: found["guessed"][name] for name in ("audio", "valence", "arousal", "emotion", "speaker")} == {
        "audio": "File Name",
        "valence": "Pleasure",
        "arousal": "Activation",
        "emotion": "Category",
        "speaker": "Participant",
    }
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "m.csv", root=tmp_path / "RAVDESS"))
    assert sorted(manifest.audio) == sorted(clips)
    points = word_list("labels/circumplex")["emotions"]
    for row in range(len(manifest)):
        assert [manifest.valence[row], manifest.arousal[row]] == points[manifest.emotion[row]]
        assert manifest.speaker[row] == f"P{manifest.audio[row][-6:-4]}"
    assert manifest.leaks == []
    assert found["next"] == f"extract-features {tmp_path}/m.csv --audio-root {tmp_path}/RAVDESS --out stores/RAVDESS"


def test_what_was_said_goes_into_the_manifest_beside_the_sentences_number(tmp_path: Path) -> None:
    clips = ravdess(tmp_path / "r", actors=1)
    said = ["Kids are talking.", "Dogs are\tsitting."]
    rows = [f'{clip.rpartition("/")[2]},train,{place % 2},"{said[place % 2]}"' for place, clip in enumerate(clips)]
    rows[1] = rows[1].replace("train", "test")
    (tmp_path / "l.csv").write_text("\n".join(["file,split,Statement,Transcription", *rows]))
    found = make(tmp_path / "r", labels=tmp_path / "l.csv", out=tmp_path / "m.csv")
    assert (found["guessed"]["sentence"], found["guessed"]["transcript"]) == ("Statement", "Transcription")
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "m.csv", root=tmp_path / "r"))
    assert manifest.transcript == ["Kids are talking.", "Dogs are sitting."] * 4
    (tmp_path / "l.csv").write_text((tmp_path / "l.csv").read_text().replace("Statement", "number"))
    without_number = make(tmp_path / "r", labels=tmp_path / "l.csv", out=tmp_path / "m.csv")
    for notes in (found["notes"], without_number["notes"]):
        assert any("1 sentences are spoken in training and in a test, by 4 utterances" in note for note in notes)


def test_what_the_raters_said_goes_into_the_manifest(tmp_path: Path) -> None:
    clips = ravdess(tmp_path / "r", actors=1)
    rows = [f"{clip.rpartition('/')[2]},2.5,4,5,0.5,happy:3|joy:1|sad:1" for clip in clips]
    (tmp_path / "l.csv").write_text("\n".join(["file,valence,arousal,Annotators,Valence Std,Votes", *rows]))
    found = make(tmp_path / "r", labels=tmp_path / "l.csv", out=tmp_path / "m.csv")
    assert {name: found["guessed"][name] for name in ("ratings", "valence_std", "votes")} == {
        "ratings": "Annotators",
        "valence_std": "Valence Std",
        "votes": "Votes",
    }
    ratings = read_corpus(CorpusConfig(manifest=tmp_path / "m.csv", root=tmp_path / "r")).ratings
    assert ratings is not None
    assert ratings.count.tolist() == [5] * len(clips)
    assert ratings.std[:, 0].tolist() == [0.5] * len(clips)
    assert ratings.votes == ["happy:4|sad:1"] * len(clips)


def test_splits_are_whole_speakers_by_the_seed_and_none_is_empty(tmp_path: Path) -> None:
    ravdess(tmp_path / "r", actors=9)
    european_csv(
        tmp_path / "l.csv", [str(p.relative_to(tmp_path / "r")) for p in sorted((tmp_path / "r").rglob("*.wav"))]
    )
    seen = set()
    for seed in (0, 0, 1, 2, 3):
        make(tmp_path / "r", labels=tmp_path / "l.csv", seed=seed)
        rows = list(csv.DictReader((tmp_path / "r/manifest.csv").read_text().splitlines()))
        split_of: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            split_of[row["speaker"]].add(row["split"])
        assert all(len(splits) == 1 for splits in split_of.values())
        assert {row["split"] for row in rows} == {"train", "dev", "test"}
        assert sum(row["split"] == "train" for row in rows) > len(rows) / 2
        seen.add(str(sorted((name, *splits) for name, splits in split_of.items())))
    assert len(seen) > 1


def test_names_of_an_acted_corpus_tell_without_a_table(tmp_path: Path) -> None:
    clips = ravdess(tmp_path / "r", actors=24)
    found = make(tmp_path / "r")
    own = read_corpus(load_config_of("ravdess", tmp_path / "r"))
    made = read_corpus(CorpusConfig(manifest=tmp_path / "r/manifest.csv"))
    assert (made.id, made.emotion, made.speaker, made.split) == (own.id, own.emotion, own.speaker, own.split)
    assert made.valence.tolist() == own.valence.tolist()
    assert sum(found["utterances"].values()) == len(clips)


def load_config_of(reader: str, root: Path) -> CorpusConfig:
    from pipeline.core.config import ExtractConfig

    return load_config(ExtractConfig, reader, [f"corpus.root={root}"], kind="corpora").corpus


def test_labels_on_another_scale_come_with_the_line_to_add(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.wav").touch()
    rows = [f"{number}.wav,{1 + number % 5},{5 - number % 5},s{number}" for number in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,valence,arousal,speaker", *rows]))
    found = make(tmp_path, labels=tmp_path / "labels.csv")
    assert " -o corpus.scale=[1,5] " in found["next"]
    assert any("look like labels on 1-5" in note for note in found["notes"])


def test_what_does_not_meet_is_counted(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_text("file,emotion\na,happy\nB.WAV,sad\nz.wav,sad\n")
    found = make(tmp_path, labels=tmp_path / "labels.csv")
    assert found["utterances"].keys() <= {"train", "dev", "test"}
    assert sum(found["utterances"].values()) == 2
    assert "WARNING: 1 rows of the table have no audio file (first: 'z.wav')" in found["notes"]
    assert "1 audio files are in no row of the table and left out" in found["notes"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("emotion,valence\nsad,2\n", "columns emotion, valence; expected a column of file names"),
        ("file,file\na,b\n", "column 'file' twice"),
        ("file,emotion\nz,sad\n", "no row whose file is there"),
        ("", "no header"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(table: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UsageError, match=message):
        make(tmp_path, labels=tmp_path / "labels.csv")
    assert not (tmp_path / "manifest.csv").exists()


def test_from_the_folder_to_trained_heads_in_three_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    european_csv(Path("labels.csv"), ravdess(Path("RAVDESS"), audio=True))
    made = CliRunner().invoke(make_manifest.main, ["RAVDESS", "--labels", "labels.csv", "--out", "m.csv"])
    assert made.exit_code == 0, made.output
    following = made.stdout.splitlines()[-1].removeprefix("next: ").split()
    assert following[0] == "extract-features"
    assert CliRunner().invoke(extract_features.main, [*following[1:], *QUICK_OPTIONS]).exit_code == 0
    training = ["stores/RAVDESS", "--training", "small_corpus", "--out", "run", "-o", "threads=1", "-o", "width=8"]
    assert CliRunner().invoke(train_heads.main, training).exit_code == 0
    assert list((tmp_path / "run").rglob("heads.safetensors"))
