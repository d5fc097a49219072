"""One table, however it was saved: the same utterances, the same labels, and a note on what was understood."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.manifest import Manifest, write_manifest
from cache.stores import open_stores
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.corpora import read_corpus
from pipeline.extraction.extract import extract
from tests.faults.small import quick_encoders
from tests.speech import QUICK, tone, write_corpus

CASES = Path(__file__).parent / "cases"
COLUMNS = ("id", "audio", "split", "emotion", "valence", "arousal", "speaker", "gender")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "aud").mkdir()
    for number in range(12):
        (tmp_path / f"aud/u{number:03}.wav").touch()
    return tmp_path


def read(folder: Path, content: bytes) -> Manifest:
    (folder / "m.csv").write_bytes(content)
    return read_corpus(CorpusConfig(manifest=folder / "m.csv"))


def test_semicolons_and_decimal_commas_are_read_with_one_note_each(folder: Path) -> None:
    raw = (CASES / "deccomma_semicolon.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(raw.decode()), delimiter=";"))
    manifest = read(folder, raw)
    assert manifest.id == [row["id"] for row in rows]
    for name in ("valence", "arousal"):
        assert getattr(manifest, name).tolist() == [float(row[name].replace(",", ".")) for row in rows]
    assert "the table is read as written with semicolons" in manifest.notes
    assert f"{2 * len(rows)} labels have a decimal comma" in manifest.notes


def test_empty_rows_at_the_end_are_left_out_and_counted(folder: Path) -> None:
    raw = (CASES / "trailing_blank_rows.csv").read_bytes()
    lines = raw.decode().splitlines()
    full = [line for line in lines[1:] if line.strip(",")]
    manifest = read(folder, raw)
    assert len(manifest) == len(full) < len(lines) - 1
    assert f"{len(lines) - 1 - len(full)} empty rows are left out" in manifest.notes


def test_empty_columns_at_the_end_are_left_out(folder: Path) -> None:
    manifest = read(folder, b"id,audio,split,,\nu1,aud/u001.wav,train,,\nu2,aud/u002.wav,dev,,\n")
    assert manifest.id == ["u1", "u2"]
    assert "2 empty columns at the end are left out" in manifest.notes
    with pytest.raises(ManyProblems, match="4 fields; expected 3"):
        read(folder, b"id,audio,split,\nu1,aud/u001.wav,train,x\n")


@pytest.mark.parametrize(
    ("head", "separator"), [("sep=;\n", ";"), ("sep=\t\r\n", "\t"), ('"sep=;"\n', ";"), ("", "\t"), ("", ";")]
)
def test_the_separator_is_what_the_table_says_or_shows(head: str, separator: str, folder: Path) -> None:
    rows = [("id", "audio", "split", "caption"), ("u1", "aud/u001.wav", "train", "calm, a little; sad")]
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    assert read(folder, (head + text.getvalue()).encode()).caption == ["calm, a little; sad"]


def test_a_fault_has_its_own_line_below_a_sep_line(folder: Path) -> None:
    with pytest.raises(ManyProblems, match=r"m\.csv:4: split 'trian'"):
        read(folder, b"sep=;\nid;audio;split\nu1;aud/u001.wav;train\nu2;aud/u002.wav;trian\n")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1250", "cp932"])
def test_a_table_in_another_encoding_is_one_line_with_the_byte_and_never_other_letters(
    encoding: str, folder: Path
) -> None:
    name = "山田" if encoding == "cp932" else "Zoë Müß"
    rows = [f"u{number};aud/u{number:03}.wav;train;{name}" for number in range(9)]
    content = "\r\n".join(["id;audio;split;speaker", "u9;aud/u009.wav;dev;ann", *rows]).encode(encoding)
    with pytest.raises(ManyProblems) as error:
        read(folder, content)
    [problem] = error.value.problems
    first = content.split(b"\r\n")[2].decode("utf-8", "surrogateescape")
    place = next(place for place, letter in enumerate(first) if "\udc80" <= letter <= "\udcff")
    byte = ord(first[place]) - 0xDC00
    assert problem.startswith(f"{folder / 'm.csv'}:3: not UTF-8: byte 0x{byte:02X} at character {place + 1}")
    assert ("'ë' in Windows-1252" in problem) == (encoding != "cp932")
    assert "iconv -f CP1252 -t UTF-8" in problem


@pytest.mark.parametrize(
    "content", [b"id;audio;split;\xe9\nu1;aud/u001.wav;train;x\n", b"\xe9\n", b"id,audio,split\n\xff"]
)
def test_a_header_in_another_encoding_is_one_line(content: bytes, folder: Path) -> None:
    with pytest.raises(ManyProblems, match=r"m\.csv:[12]: not UTF-8: byte 0x(E9|FF)"):
        read(folder, content)


def test_half_a_character_of_utf_16_is_a_line(folder: Path) -> None:
    raw = "id,audio,split\nu1,aud/u001.wav,train\nu2\ud800,aud/u002.wav,dev\n".encode("utf-16-le", "surrogatepass")
    with pytest.raises(ManyProblems, match=r"m\.csv:3: "):
        read(folder, b"\xff\xfe" + raw)


ROWS = [
    ("u000", "aud/u000.wav", "train", "happy", "5.5", "6", "Zoë", "female"),
    ("u001", "aud/u001.wav", "train", "sad", "1.25", "2.5", "ben", "male"),
    ("u002", "aud/u002.wav", "dev", "angry", "2", "6.75", "çem", "male"),
    ("u003", "aud/u003.wav", "test", "", "", "", "", ""),
    ("u004", "aud/u004.wav", "test", "surprised", "4.125", "6.5", "dora", "female"),
]
SPELLINGS = {
    "happy": ("happy", "Happy", "JOY", "happiness", " hap "),
    "sad": ("sad", "Sadness", "SAD"),
    "angry": ("angry", "ang", "Anger"),
    "surprised": ("ps", "Surprise", "pleasant_surprise", "surprised"),
    "": ("", "nan", "NA", "-", "?", "None"),
    "train": ("train", "Train", "training"),
    "dev": ("dev", "Validation", "val", "Development"),
    "test": ("test", "TEST"),
    "female": ("female", "F", "Female"),
    "male": ("male", "m", "Male"),
}


@st.composite
def saved(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """`ROWS` as any program may have saved them, and the order of the rows."""
    order = draw(st.permutations(range(len(ROWS))))
    columns = draw(st.permutations(COLUMNS))
    separator, comma = draw(st.sampled_from(",;\t")), draw(st.booleans())
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]))
    table = [list(columns)]
    for row in order:
        values = dict(zip(COLUMNS, ROWS[row], strict=True))
        for name in ("valence", "arousal"):
            values[name] = values[name].replace(".", ",") if comma else values[name]
        for name in ("emotion", "split", "gender", "speaker"):
            values[name] = draw(st.sampled_from(SPELLINGS.get(values[name], (values[name],))))
        values["audio"] = draw(
            st.sampled_from([values["audio"], values["audio"].replace("/", "\\"), "./" + values["audio"]])
        )
        table.append([values[name] for name in columns])
    empty = draw(st.integers(0, 2))
    table = [row + [""] * empty for row in table] + [[""] * (len(COLUMNS) + empty)] * draw(st.integers(0, 3))
    text = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    csv.writer(
        text, delimiter=separator, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"]))
    ).writerows(table)
    head = draw(st.sampled_from(["", f"sep={separator}\n"]))
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    return mark + (head + text.getvalue()).encode(encoding), order


def plain() -> bytes:
    return "\n".join(",".join(row) for row in [COLUMNS, *ROWS]).encode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(saved())
def test_any_way_of_saving_a_table_gives_the_same_manifest(folder: Path, table: tuple[bytes, list[int]]) -> None:
    content, order = table
    expected = read(folder, plain()).take(np.array(order))
    write_manifest(expected, folder / "expected.csv")
    write_manifest(read(folder, content), folder / "found.csv")
    assert (folder / "found.csv").read_bytes() == (folder / "expected.csv").read_bytes()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=saved())
def test_any_way_of_saving_a_table_gives_the_same_stores(
    table: tuple[bytes, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each utterance its vector, its labels and its captions, whatever the order of the rows."""
    content, order = table
    root = tmp_path_factory.mktemp("saved")
    (root / "aud").mkdir()
    for place, row in enumerate(ROWS):
        soundfile.write(root / row[1], tone(0.4 + 0.05 * place, pitch=100 + 30 * place), 16_000)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        quick_encoders(patch)
        for name, text in (("plain", plain()), ("saved", content)):
            (root / f"{name}.csv").write_bytes(text)
            extract(root / f"{name}.csv", out=root / name, overrides=QUICK)
            found[name] = open_stores(root / name)
    assert found["saved"].manifest.id == [ROWS[row][0] for row in order]
    digests = [
        sorted(
            (
                manifest.id[row], vectors[row].tobytes(), str((manifest.valence[row], manifest.arousal[row])),
                manifest.emotion[row], manifest.speaker[row], manifest.gender[row], manifest.split[row],
                sorted((each.style, each.text) for each in stores.captions.captions if row in each.rows),
            )
            for row in range(len(ROWS))
        )
        for stores in found.values()
        for manifest, vectors in [(stores.manifest, stores.audio.read(np.arange(len(ROWS)))[0])]
    ]  # fmt: skip
    assert digests[0] == digests[1]


def test_stores_of_a_table_are_the_same_bytes_however_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_encoders(monkeypatch)
    path = write_corpus(tmp_path / "c", 12)
    rows = list(csv.reader(path.read_text().splitlines()))
    other = path.with_name("other.csv")
    text = io.StringIO()
    changed = [
        [cell.replace(".", ",") if n in (3, 4) else cell.upper() if n == 5 else cell for n, cell in enumerate(row)]
        for row in rows[1:]
    ]
    csv.writer(text, delimiter=";").writerows([rows[0], *changed, [""] * len(rows[0])])
    other.write_bytes(text.getvalue().encode("utf-16"))
    reordered = path.with_name("reordered.csv")
    reordered.write_text("\n".join(",".join(row) for row in [rows[0], *reversed(rows[1:])]))
    stores = {}
    for table in (path, other, reordered):
        extract(table, out=tmp_path / table.stem, overrides=QUICK)
        stores[table.stem] = open_stores(tmp_path / table.stem)
    for name in ("audio.h5", "text.h5", "manifest.csv", "captions.jsonl"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "manifest" / name).read_bytes()
    plain, turned = stores["manifest"], stores["reordered"]
    assert turned.manifest.id == plain.manifest.id[::-1]
    assert sorted(turned.captions.texts()) == sorted(plain.captions.texts())
    vectors = [each.audio.read(np.arange(12))[0] for each in (plain, turned)]
    np.testing.assert_array_equal(vectors[1], vectors[0][::-1])
