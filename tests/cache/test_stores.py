"""A folder of stores: its files belong together, or are refused."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest

from cache.captions import Caption, Captions, Prompt, read_captions, write_captions_file
from cache.errors import StoreCorrupt
from cache.manifest import write_manifest
from cache.stores import open_stores
from tests.cache.stores_of import filled
from tests.cache.test_manifest import manifest_of

CAPTIONS = Captions.of([Caption("a", "u1", [0, 2]), Caption("a", "u0", range(1, 3))], [Prompt("a", "u2", 1.0, 2.0, 0)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = manifest_of(3)
    manifest.id[:] = ["u0", "u1", "u2"]  # as `filled` calls its rows
    write_manifest(manifest, tmp_path / "manifest.csv")
    write_captions_file(Captions.of([Caption("a", f"u{row}", [row]) for row in range(3)]), tmp_path / "captions.jsonl")
    for name in ("audio.h5", "text.h5"):
        filled(tmp_path / name, 3)
    return tmp_path


def test_an_opened_folder_holds_each_name_once(folder: Path) -> None:
    stores = open_stores(folder)
    assert stores.audio.ids is stores.manifest.id
    assert stores.text.ids == stores.captions.texts()


def test_a_selection_has_the_manifest_and_captions_that_were_read(folder: Path) -> None:
    stores = open_stores(folder)
    view = stores.selected()
    assert view.manifest is stores.manifest
    assert view.captions is stores.captions


@pytest.mark.parametrize("text", ["u3", "u2 ", "", "\\ud800"], ids=["another", "longer", "none", "half a character"])
def test_texts_that_are_not_the_stores_rows_are_refused(folder: Path, text: str) -> None:
    path = folder / "captions.jsonl"
    path.write_text(path.read_text().replace('"u2"', f'"{text}"'))
    stores = open_stores(folder)
    assert len(stores.audio) == 3
    with pytest.raises(StoreCorrupt, match="other rows than the folder's manifest and captions"):
        stores.selected().text.read(np.arange(1))


def test_ids_in_another_order_are_refused(folder: Path) -> None:
    path = folder / "manifest.csv"
    header, first, second, third = path.read_text().splitlines()
    path.write_text("\n".join((header, second, first, third)) + "\n")
    with pytest.raises(StoreCorrupt, match="other rows"):
        _ = open_stores(folder).audio


def test_captions_come_back_as_they_were_and_their_links_are_packed(tmp_path: Path) -> None:
    write_captions_file(CAPTIONS, tmp_path / "c.jsonl")
    found = read_captions(tmp_path / "c.jsonl")
    assert found == CAPTIONS
    assert [caption.rows for caption in found.captions] == [array("q", [0, 2]), array("q", [1, 2])]
    links = found.links("a", 4)
    assert links.offsets.tolist() == [0, 1, 2, 4, 4]
    assert links.text.tolist() == [0, 1, 0, 1]
    assert np.diff(links.offsets).sum() == len(links.text)


@pytest.mark.parametrize("rows", ["[0.5]", '["a"]', '"ab"', "3", "[[1]]", "[9223372036854775808]"])
def test_rows_that_are_no_numbers_are_refused_with_their_line(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "c.jsonl"
    write_captions_file(CAPTIONS, path)
    path.write_text(path.read_text().replace("[1, 2]", rows))
    with pytest.raises(StoreCorrupt, match=r"c\.jsonl:2"):
        read_captions(path)


def test_captions_are_read_once_for_all_choices_of_layers(folder: Path) -> None:
    stores = open_stores(folder)
    first = stores.selected()
    assert first.captions is stores.captions is first.selected().captions
