"""Caption files nobody meant, and the stores' captions after an edit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.captions import Caption, Captions, ClassPrompt, GridText, Prompt, read_captions, write_captions_file
from cache.errors import StoreCorrupt
from pipeline.commands import extract_features
from pipeline.core.config import CaptionsConfig
from pipeline.data.captions import CaptionSource, assign_captions
from pipeline.data.captions.category import read_lexicon
from tests.data.captions.test_files import corpus
from tests.inputs.commands import as_nobody, command, contract
from tests.inputs.counts import cases, hold
from tests.inputs.mutations import ENDLESS, spoilt

LINES = [
    {"id": "a", "text": "A calm voice."},
    {
        "use": "caption",
        "style": "dimensional",
        "phrasing": "train",
        "valence": 2.0,
        "arousal": 5,
        "text": "Low, tense.",
    },
    {"style": "file", "emotion": "angry", "text": "An angry voice, ü."},
    {"use": "prompt", "style": "file", "valence": 0.5, "arousal": 7.0, "variant": 0, "text": "Asked."},
]
JSONL = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES).encode()
CLAP4EMO = json.dumps({"anger": ["A cross voice."], "sadness": ["A low voice.", "A slow one."]}, indent=1).encode()
WORDS = (
    b'"a"',
    b'"text"',
    b"9",
    b'"prompt"',
    b'"dimensional"',
    b"[1]",
    b'{"id": "a", "id": "b", "text": "T."}',
    ENDLESS,
)


@cases(80, 2000)
@pytest.mark.parametrize(("name", "good"), [("c.jsonl", JSONL), ("c.json", CLAP4EMO)])
def test_a_captions_file_spoilt_anywhere_is_read_or_refused_by_line(
    name: str, good: bytes, count: int, tmp_path: Path
) -> None:
    path = tmp_path / name
    source, config = CaptionSource(corpus()), CaptionsConfig(styles=("template",), files=(path,), per_utterance=1)
    path.write_bytes(good)
    assert contract(lambda: assign_captions(source, config), path).code == 0

    def holds(content: bytes) -> None:
        path.write_bytes(content)
        outcome = contract(lambda: assign_captions(source, config), path)
        if outcome.code == 0:
            write_captions_file(outcome.result, tmp_path / "written.jsonl")
            assert read_captions(tmp_path / "written.jsonl") == outcome.result

    hold(holds, spoilt(good, WORDS), count)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "a", "id": "b", "text": "T."}', "key 'id' appears twice"),
        (b'{"id": "a", "text": "\xe9"}', "not UTF-8"),
        (b'{"id": "a", "text": "T.", "valence": 1e999, "arousal": 1}', "valence = inf: "),
        (b'{"valence": true, "arousal": 1, "text": "T."}', "valence = True: "),
        (b'{"valence": NaN, "arousal": 1, "text": "T."}', "valence = nan: "),
        (
            b'{"use": "prompt", "valence": 1, "arousal": 1, "variant": 99999999999, "text": "T."}',
            "variant = 99999999999: ",
        ),
        (b'{"id": "a", "text": "one\\ntwo"}', "one line of text is needed"),
        (b'{"a\\nb": 3, "id": "a", "text": "T."}', "'a\\nb': no such setting"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b"9" * 10_000, "not JSON (a number too long)"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_a_slip_in_a_caption_is_said_with_its_line(line: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "Good."}\r\n\r\n' + line + b"\r\n")
    config = CaptionsConfig(files=(path,))
    outcome = contract(lambda: assign_captions(CaptionSource(corpus()), config), path)
    assert outcome.code == 2
    assert f"{path}:3: " in outcome.said
    assert said in outcome.said


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name), lambda path: None])
def test_what_is_no_file_is_refused_and_not_waited_for(make, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    make(path)
    assert contract(lambda: assign_captions(CaptionSource(corpus()), CaptionsConfig(files=(path,))), path).code == 2
    assert contract(lambda: read_lexicon(path), path).code == 2


def test_the_whole_command_refuses_every_slip_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "c.jsonl", tmp_path / "out"
    path.write_bytes(JSONL.replace(b'"id"', b'"name"').replace(b"7.0", b"NaN"))
    arguments = [tmp_path / "missing.csv", "-o", f"captions.files=[{path}]", "--out", out]
    assert command(extract_features.main, arguments, "missing.csv", out=out).code == 2
    manifest = tmp_path / "m.csv"
    (tmp_path / "a.wav").touch()
    manifest.write_text("id,audio,split\na,a.wav,train\n")
    outcome = command(extract_features.main, [manifest, *arguments[1:]], f"{path}:1", out=out)
    assert [line.split(": ")[0] for line in outcome.lines[:-1]] == [f"{path}:1", f"{path}:4"]


def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(JSONL)
    path.chmod(0)
    with as_nobody():
        assert contract(lambda: assign_captions(CaptionSource(corpus()), CaptionsConfig(files=(path,))), path).code == 2
        assert contract(lambda: read_lexicon(path), path).code == 2


# ---- the stores' own captions

CUSTOM = Captions.of(
    [Caption("a", "u0", [0, 2]), Caption("a", "u1", [1, 2])],
    [Prompt("a", "u2", 1.0, 2.0, 0)],
    [ClassPrompt("{emotion}", "sad", "sad")],
    [GridText("a", "u3", 3.0, 4.0, 0)],
)
EDITS = [
    ('"rows": [1, 2]', f'"rows": {rows}', 2)
    for rows in ("[true, 2]", "[1.0, 2]", '["1"]',  "[-1]",
"[1, 1]", "[2, 1, 2]", "[[1]]", '"12"', "null", f"[{2**63}]")
] + [
    ('"text": "u1"', '"text": 3', 2),
    ('"style": "a", "text": "u1"', '"style": null, "text": "u1"', 2),
    ('"valence": 1.0', '"valence": NaN', 3),
    ('"valence": 1.0', '"valence": Infinity', 3),
    ('"valence": 1.0', '"valence": true', 3),
    ('"valence": 1.0', '"valence": 8', 3),
    ('"valence": 1.0', '"valence": "1"', 3),
    ('"arousal": 2.0', '"arousal": 1e999', 3),
    ('"variant": 0', '"variant": 0.5', 3),
    ('"variant": 0', '"variant": -1', 3),
    ('"variant": 0', f'"variant": {"9" * 5000}', 3),
    ('"emotion": "sad"', '"emotion": []', 4),
    ('"use": "class"', '"use": "klass"', 4),
    ('"use": "class"', '"use": "grid"', 4),
    ('"use": "class"', '"use": ["class"]', 4),
    ('"use": "class", ', "", 4),
    ('"template": "{emotion}", ', "", 4),
    ('"emotion": "sad"', '"emotion": "sad", "more": 1', 4),
    ('"valence": 3.0', '"valence": 7.5', 5),
    ('"arousal": 4.0, "variant"', '"variant"', 5),
    ('{"use": "class"', '[' * 100_000, 4),
    ('{"use": "class"', '3 {', 4),
    ('{"use": "class"', '\n{"use": "class"', 4),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line"), EDITS, ids=[f"{new[:24]}" for _, new, _ in EDITS])
def test_the_stores_captions_edited_are_refused_by_line(old: str, new: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    write_captions_file(CUSTOM, path)
    assert read_captions(path) == CUSTOM
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(StoreCorrupt) as caught:
        read_captions(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:{line}: cannot be read (")
    assert "\n" not in said
    assert len(said) < 500
    assert "__init__" not in said


@pytest.mark.parametrize("rows", [[0, 3], [-1], [2**40]])
def test_links_to_rows_outside_the_manifest_are_refused(rows: list[int], tmp_path: Path) -> None:
    captions = Captions.of([Caption("a", "t", rows), Caption("b", "u", [0])])
    captions = replace(captions, source=tmp_path / "captions.jsonl")
    with pytest.raises(StoreCorrupt, match=r"captions\.jsonl: a caption of style a describes row .* 0 to 2"):
        captions.links("a", 3)
    assert np.array_equal(captions.links("b", 3).offsets, [0, 1, 1, 1])
