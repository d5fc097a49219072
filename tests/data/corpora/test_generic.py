"""A manifest of one's own, CSV or JSON lines: read as written, or every fault with file and line."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import EmotionRankError, ManyProblems, UsageError
from pipeline.data.corpora import read_corpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, content: str | bytes, name: str = "m.csv", **config: object) -> Manifest:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_corpus(CorpusConfig(manifest=path, **config))


def problems(folder: Path, content: str | bytes, name: str = "m.csv") -> list[str]:
    with pytest.raises(ManyProblems) as caught:
        read(folder, content, name)
    return [line.removeprefix(f"{folder}/") for line in caught.value.problems]


def test_columns_are_found_by_name_in_any_order(folder: Path) -> None:
    text = 'split,arousal,caption,audio,valence,id\ntrain,5.5,"calm, sad",a.wav,2,one\nVAL,,,b.wav,,two\n'
    manifest = read(folder, text)
    assert (manifest.id, manifest.audio, manifest.split) == (["one", "two"], ["a.wav", "b.wav"], ["train", "dev"])
    assert (manifest.valence[0], manifest.arousal[0]) == (2.0, 5.5)
    assert math.isnan(manifest.valence[1])
    assert math.isnan(manifest.dominance[0])
    assert manifest.caption == ["calm, sad", ""]


def test_json_lines_say_the_same_as_csv(folder: Path) -> None:
    rows = [
        {"id": "one", "audio": "a.wav", "split": "Train", "valence": 2.25, "speaker": 7},
        {"id": "two", "audio": "b.wav", "split": "test", "valence": None, "gender": "F"},
    ]
    lines = "\n\n".join(json.dumps(row) for row in rows)
    table = "id,audio,split,valence,speaker,gender\none,a.wav,Train,2.25,7,\ntwo,b.wav,test,,,F\n"
    left, right = read(folder, lines, "m.jsonl"), read(folder, table)
    assert (left.id, left.split, left.speaker, left.gender) == (right.id, right.split, right.speaker, right.gender)
    assert left.valence.tobytes() == right.valence.tobytes()


def test_the_root_is_the_manifests_folder_unless_given(folder: Path) -> None:
    (folder / "lists").mkdir()
    text = "id,audio,split\none,a.wav,train\n"
    assert read(folder, text, "lists/m.csv", root=folder).path(0) == folder / "a.wav"
    with pytest.raises(ManyProblems, match=r"no such file under .*lists; expected an audio file"):
        read(folder, text, "lists/m.csv")


def test_a_missing_root_is_one_error_and_not_one_per_row(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such folder; .*--audio-root"):
        read(folder, "id,audio,split\none,a.wav,train\n", root=folder / "nowhere")


def test_labels_on_the_declared_scale_are_mapped(folder: Path) -> None:
    text = "id,audio,split,valence\none,a.wav,train,-1\ntwo,b.wav,train,0\n"
    assert read(folder, text, scale=(-1, 1)).valence.tolist() == [1.0, 4.0]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_an_unknown_column_is_told_with_the_nearest_known(folder: Path, name: str) -> None:
    row = {"id": "one", "audio": "a.wav", "split": "train", "valance": "3", "zzz": "1"}
    text = ",".join(row) + "\n" + ",".join(row.values()) if name == "m.csv" else json.dumps(row)
    notes = read(folder, text, name).notes
    assert "column 'valance' is not used; did you mean 'valence'?" in notes
    assert "column 'zzz' is not used" in notes


def test_missing_columns_are_all_named(folder: Path) -> None:
    assert problems(folder, "ids,file\nx,y\n") == [
        "m.csv:1: no column 'id'; did you mean 'ids'?; expected id, audio, split",
        "m.csv:1: no column 'audio'; expected id, audio, split",
        "m.csv:1: no column 'split'; expected id, audio, split",
    ]


GOOD = "id,audio,split\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "m.csv:1: empty; expected a header with id, audio, split"),
        ("\n\n", "m.csv:1: empty; expected a header with id, audio, split"),
        (GOOD, "m.csv:2: no record after the header; expected one for each utterance"),
        (GOOD + "one,a.wav\n", "m.csv:2: 2 fields; expected 3, as in the header"),
        (GOOD + "\none,a.wav,train,x\n", "m.csv:3: 4 fields; expected 3, as in the header"),
        ("id,audio,split,id\none,a.wav,train,x\n", "m.csv:1: column 'id' stands 2 times; expected once"),
        (
            b"id,audio,split\none,a.wav,train\n\xe9,b.wav,train\n",
            "m.csv:3: not UTF-8: byte 0xE9 at character 1, 'é' in Windows-1252; expected text in UTF-8 (save it as CSV "
            "UTF-8, or convert it: iconv -f CP1252 -t UTF-8)",
        ),
        (
            GOOD + 'one,a.wav,train\n"two,b.wav,train\nx,y,z\n',
            "m.csv:3: not CSV (unexpected end of data), and nothing after it was read; expected balanced quotes",
        ),
    ],
)
def test_a_broken_table_is_one_clear_line(folder: Path, content: str | bytes, expected: str) -> None:
    assert problems(folder, content) == [expected]


LINE = '{"id": "one", "audio": "a.wav", "split": "train"}\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "m.jsonl:1: empty; expected one JSON object per line"),
        (LINE + "{oops\n", "m.jsonl:2: not JSON (Expecting property name enclosed in double quotes);"),
        (LINE + "\n[1, 2]\n", "m.jsonl:3: a JSON list; expected one JSON object per line"),
        ('"text"\n', "m.jsonl:1: a JSON str; expected one JSON object per line"),
        (LINE.encode() + b"\xff\xfe\n", "m.jsonl:2: not UTF-8; expected one JSON object per line"),
        ("[" * 100_000 + "\n", "m.jsonl:1: JSON nested too deeply; expected one JSON object per line"),
        ("9" * 5_000 + "\n", "m.jsonl:1: not JSON (a number too long); expected one JSON object per line"),
        ('{"id": "one", "split": "train"}\n', "m.jsonl:1: no 'audio'; expected id, audio, split"),
        (LINE[:-2] + ', "valence": [[1]]}\n', "m.jsonl:1: valence [[1]]: not a number; expected 1 to 7, or nothing"),
    ],
)
def test_a_broken_line_is_one_clear_line(folder: Path, content: str | bytes, expected: str) -> None:
    (line,) = problems(folder, content, "m.jsonl")
    assert line.startswith(expected)


def test_faults_of_the_table_and_of_its_values_come_together(folder: Path) -> None:
    lines = problems(folder, GOOD + "one,a.wav\ntwo,b.wav,trian\ntwo,b.wav,train\n")
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4"]


def test_the_line_of_a_record_after_a_quoted_line_break_is_right(folder: Path) -> None:
    text = 'id,audio,split,caption\none,a.wav,train,"calm\nand low"\ntwo,b.wav,trian,\n'
    (line,) = problems(folder, text)
    assert line.startswith("m.csv:4: split 'trian'")


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(folder: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert read(folder, mark + b"id,audio,split\r\none,a.wav,train\r\n").id == ["one"]
    assert read(folder, mark + LINE.encode(), "m.jsonl").id == ["one"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"corpus\.manifest: not given"),
        ({"manifest": "nowhere.csv"}, r"nowhere\.csv: no such file; .* Check the path"),
        ({"manifest": "table.xlsx"}, r"table\.xlsx: a file ending in '\.xlsx'; expected \.csv or \.jsonl"),
    ],
)
def test_no_manifest_is_a_usage_error(config: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_corpus(CorpusConfig(**config))
    assert caught.value.exit_code == 2


def test_two_hundred_problems_are_held_and_fifty_shown(folder: Path) -> None:
    with pytest.raises(ManyProblems) as caught:
        read(folder, GOOD + "".join(f"u{i},z.wav,train\n" for i in range(200)))
    assert len(caught.value.problems) == 200
    assert "... and 150 more" in str(caught.value)
    assert "corpus.missing_audio=drop" in str(caught.value)


def bytes_near(good: bytes, *pieces: bytes) -> st.SearchStrategy[bytes]:
    """Anything at all, and files put together from pieces of right and wrong ones."""
    part = st.one_of(st.sampled_from([good, *pieces]), st.binary(max_size=6), st.text(max_size=6).map(_encoded))
    return st.one_of(st.binary(max_size=200), st.lists(part, max_size=12).map(b"".join))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


PIECES = (
    b"\n",
    b",",
    b'"',
    b"\r",
    b"\0",
    b"one,a.wav,train\n",
    b"u,../a.wav,dev,nan\n",
    b"\xff",
    b"valence,",
    b"1e999",
)
JSON_PIECES = (
    b"\n",
    b"{",
    b"}",
    b"[",
    b'"id":',
    b"NaN",
    b"1e999",
    b'"\\ud800"',
    b",",
    b'{"id":[],"audio":{},"split":1}\n',
)
fuzzed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(bytes_near(GOOD.encode(), *PIECES))
@example(b"id,audio,split\n\0,a.wav,train\n")
@example(b"id,audio,split\nx," + b"a" * 200_000 + b",train\n")
def test_no_bytes_of_a_csv_make_a_traceback(folder: Path, content: bytes) -> None:
    never_a_traceback(folder, content, "m.csv")


@fuzzed
@given(bytes_near(LINE.encode(), *JSON_PIECES))
@example(b'{"id": "\\ud800", "audio": "a.wav", "split": "train"}')
@example(b'{"id": "x", "audio": "\\u0000/a.wav", "split": ' + b"[" * 500 + b"]" * 500 + b"}")
def test_no_bytes_of_json_lines_make_a_traceback(folder: Path, content: bytes) -> None:
    never_a_traceback(folder, content, "m.jsonl")


def never_a_traceback(folder: Path, content: bytes, name: str) -> None:
    lines: list[str] = []
    audio = {"a.wav"}
    try:
        audio = set(read(folder, content, name).audio)
    except ManyProblems as error:
        lines = error.problems
    except EmotionRankError:
        pass
    assert all(line.startswith(f"{folder / name}:") and "\n" not in line for line in lines)
    assert audio
    assert audio <= {"a.wav", "b.wav", name}


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_transcripts_are_kept_on_one_line_each(folder: Path, name: str) -> None:
    rows = [
        {"id": "one", "audio": "a.wav", "split": "train", "transcript": " well,\n\x07 I\tnever "},
        {"id": "two", "audio": "b.wav", "split": "train", "transcript": ""},
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    found = read(folder, text.getvalue() if name == "m.csv" else "\n".join(map(json.dumps, rows)), name)
    assert found.transcript == ["well, I never", ""]
    assert "transcripts: 1 utterances have one" in found.notes


def test_a_column_of_blank_transcripts_is_none(folder: Path) -> None:
    assert read(folder, "id,audio,split,transcript\none,a.wav,train, \n").transcript is None
    assert read(folder, "id,audio,split\none,a.wav,train\n").transcript is None
