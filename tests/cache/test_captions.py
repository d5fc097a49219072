"""Captions as columns: read as records, chosen by style, joined."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.captions import Caption, Captions, GridText, Prompt, read_captions, write_captions_file

RECORDS = [Caption("a", "t0", [0, 2]), Caption("b", "t1", [1]), Caption("a", "t2", range(3))]
ONE, TWO = (
    Captions.of(part, [Prompt("a", f"p{row}", 1.0, 2.0, row)]) for row, part in enumerate([RECORDS, RECORDS[:1]])
)


def _plain(captions: list[Caption]) -> list[tuple[str, str, list[int]]]:
    return [(caption.style, caption.text, list(caption.rows)) for caption in captions]


def test_columns_are_a_sequence_of_records() -> None:
    assert _plain(list(ONE.captions)) == _plain(RECORDS)
    assert _plain(ONE.captions[1:]) == _plain(RECORDS[1:])
    assert _plain([ONE.captions[-1]]) == _plain(RECORDS[-1:])
    assert len(ONE.captions) == 3
    assert not Captions().captions
    with pytest.raises(IndexError):
        ONE.captions[3]


def test_a_style_keeps_its_items_in_order() -> None:
    assert _plain(list(ONE.captions.of_style("a"))) == _plain([RECORDS[0], RECORDS[2]])
    assert not ONE.prompts.of_style("b")


def test_joined_captions_come_one_after_the_other() -> None:
    both = ONE + TWO
    assert _plain(list(both.captions)) == _plain([*RECORDS, RECORDS[0]])
    assert both.texts() == ["t0", "t1", "t2", "p0", "p1"]
    assert both.styles() == ["a", "b"]
    assert len(ONE.captions) == 3  # neither is changed


def test_whole_grammar_texts_come_last_and_come_back(tmp_path: Path) -> None:
    grid = [GridText("a", "g0", 0.5, 7.0, 0), GridText("a", "t1", 1.0, 2.0, 3)]
    with_grid = Captions.of(RECORDS, ONE.prompts, grid=grid)
    assert (with_grid + TWO).texts() == ["t0", "t1", "t2", "p0", "p1", "g0"]
    write_captions_file(with_grid, tmp_path / "c.jsonl")
    found = read_captions(tmp_path / "c.jsonl")
    assert found == with_grid
    assert list(found.grid) == grid


def test_captions_of_before_there_were_whole_grammar_texts_open(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(
        '{"use": "caption", "style": "a", "text": "t0", "rows": [0, 2]}\n'
        '{"use": "prompt", "style": "a", "text": "p0", "valence": 1.0, "arousal": 2.0, "variant": 0}\n'
        '{"use": "class", "template": "{emotion}", "text": "sad", "emotion": "sad"}\n'
    )
    found = read_captions(tmp_path / "c.jsonl")
    assert found.texts() == ["t0", "p0", "sad"]
    assert not found.grid
