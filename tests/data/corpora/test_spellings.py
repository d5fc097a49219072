"""Emotions are one class however they are spelt, and what stands for nothing is nothing; both are said."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.label_names import one_spelling

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "aud").mkdir()
    for number in range(40):
        (tmp_path / f"aud/u{number:03}.wav").touch()
    return tmp_path


def read(folder: Path, text: str, name: str = "m.csv", **config: object) -> Manifest:
    (folder / name).write_text(text)
    return read_corpus(CorpusConfig(manifest=folder / name, **config))


def table(*emotions: str, column: str = "emotion") -> str:
    rows = [f"u{i},aud/u{i:03}.wav,train,{emotion}" for i, emotion in enumerate(emotions)]
    return "\n".join([f"id,audio,split,{column}", *rows]) + "\n"


def test_six_spellings_are_one_class_and_the_notes_say_so(folder: Path) -> None:
    text = (CASES / "emotion_case.csv").read_text()
    given = Counter(line.split(",")[3] for line in text.split()[1:])
    assert len(given) > 5
    manifest = read(folder, text)
    assert manifest.emotion == ["happy"] * sum(given.values())
    (note,) = [note for note in manifest.notes if note.startswith("emotion happy")]
    assert all(f"{name!r} {count}" in note for name, count in given.items())


@pytest.mark.parametrize(
    ("given", "name"),
    [  # as EmoBox's label maps, IEMOCAP, CREMA-D, TESS and MELD have them
        *[(text, "angry") for text in ("Angry", "anger", "ANG", "ang", " Anger ")],
        *[(text, "happy") for text in ("Happiness", "HAP", "joy", "Joy")],
        *[(text, "sad") for text in ("sadness", "SAD", "Sad")],
        *[(text, "fearful") for text in ("Fear", "FEA", "fearful")],
        *[(text, "surprised") for text in ("ps", "Surprise", "pleasant_surprised", "Pleasant Surprise")],
        *[(text, "neutral") for text in ("NEU", "neutrality")],
        *[(text, "disgust") for text in ("disgusted", "DIS")],
        *[(text, "bored") for text in ("boredom", "boredem")],  # EmoBox' own slip for EmoDB
        *[(text, "excited") for text in ("exc", "excitement")],
        *[(text, text.lower()) for text in ("Amused", "sleepy", "Sarcastic")],  # names of their own
        ("s", "s"),  # sad in one corpus, surprised in another
    ],
)
def test_the_spellings_of_the_field_have_one_name(given: str, name: str, folder: Path) -> None:
    assert one_spelling(given) == name
    assert read(folder, table(given)).emotion == [name]


def test_every_spelling_of_the_table_is_of_one_name_only() -> None:
    listed = [each for name, others in word_list("labels/spellings")["emotions"].items() for each in (name, *others)]
    assert len(listed) == len(set(listed))
    assert all(isinstance(each, str) and each == each.lower() for each in listed)


def test_spellings_stay_where_that_is_asked_for(folder: Path) -> None:
    assert read(folder, table("joy", "Happy", "happy"), spellings="as_given").emotion == ["joy", "Happy", "happy"]


def test_nearly_equal_names_that_are_left_are_listed_with_counts(folder: Path) -> None:
    notes = read(folder, table(*["surprised"] * 3, "suprised", "angry", "hungry")).notes
    (warning,) = [note for note in notes if note.startswith("WARNING: emotions")]
    assert "'suprised' (1) and 'surprised' (3)" in warning
    assert "-o corpus.merge='{suprised: surprised}'" in warning
    merged = read(folder, table("surprised", "suprised"), merge={"suprised": "surprised"})
    assert merged.emotion == ["surprised"] * 2


def test_settings_may_spell_an_emotion_as_they_like(folder: Path) -> None:
    text = table("Happiness", "Anger", "sad")
    assert read(folder, text, keep=("Joy", "ANGRY")).emotion == ["happy", "angry"]
    assert read(folder, text, merge={"Sadness": "Angry"}).emotion == ["happy", "angry", "angry"]
    with pytest.raises(UsageError, match="unknown 'bored'"):
        read(folder, text, keep=("bored",))


def test_nan_is_neither_a_class_nor_a_speaker(folder: Path) -> None:
    text = (CASES / "nan_emotion.csv").read_text()
    manifest = read(folder, text)
    rows = [line.split(",") for line in text.split()[1:]]
    assert manifest.emotion == ["" if row[3] == "nan" else row[3] for row in rows]
    assert manifest.speaker == ["" if row[6] == "nan" else row[6] for row in rows]
    count = sum(row[3] == "nan" for row in rows)
    assert f"emotion: {count} values are read as missing ('nan' {count})" in manifest.notes


MISSING = ["nan", "NaN", "None", "NA", "N/A", "null", "-", "?", "<NA>", "#N/A"]


@pytest.mark.parametrize("column", ["emotion", "speaker", "gender", "intensity", "caption", "valence", "dominance"])
def test_what_stands_for_nothing_is_missing_in_every_column(column: str, folder: Path) -> None:
    manifest = read(folder, table(*MISSING, column=column))
    values = getattr(manifest, column)
    assert all(value == "" or (not isinstance(value, str) and math.isnan(value)) for value in values)
    (note,) = [note for note in manifest.notes if note.startswith(f"{column}: ")]
    assert note.startswith(f"{column}: {len(MISSING)} values are read as missing (")
    lines = "".join(
        json.dumps({"id": f"u{i}", "audio": f"aud/u{i:03}.wav", "split": "dev", column: value}) + "\n"
        for i, value in enumerate([*MISSING, None, math.nan, ""])
    )
    again = getattr(read(folder, lines, "m.jsonl"), column)
    assert len(again) == len(MISSING) + 3
    assert all(value == "" or (not isinstance(value, str) and math.isnan(value)) for value in again)


def test_words_that_hold_such_a_value_are_words(folder: Path) -> None:
    names = ["nancy", "nana", "na-1", "none1"]
    assert read(folder, table(*names, column="speaker")).speaker == names
