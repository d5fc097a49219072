"""Captions out of one number for each link."""

from __future__ import annotations

import zlib
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.captions.base import group_rows, hash_ids
from tests.data.captions.test_category import corpus

LINKS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=1, max_size=12)
)


@settings(deadline=None)
@given(LINKS, st.sampled_from([1, 70_000]))
def test_each_key_becomes_one_caption_with_its_rows_in_order(links: list[list[int]], scale: int) -> None:
    rows = np.arange(len(links)) * 2
    owners: dict[int, list[int]] = defaultdict(list)
    for row, keys in zip(rows.tolist(), links, strict=True):
        for key in keys:
            owners[key * scale].append(row)
    found = group_rows("x", scale * np.array(links, dtype=np.int64), rows, lambda keys: [f"text {key}" for key in keys])
    assert [(c.text, list(c.rows)) for c in found] == [(f"text {key}", owners[key]) for key in sorted(owners)]


def test_no_rows_make_no_caption() -> None:
    assert not group_rows("x", np.empty((0, 4), np.int64), np.empty(0, np.int64), list)


@pytest.mark.parametrize("seed", [0, 17])
def test_the_hash_of_an_id_is_the_checksum_of_seed_and_id(seed: int) -> None:
    manifest = corpus(["sad", "sad", "happy"])
    manifest.id[1] = "ümlaut \udcff"
    expected = [zlib.crc32(f"{seed}:{manifest.id[row]}".encode(errors="surrogateescape")) for row in (0, 1)]
    assert hash_ids(manifest, np.array([0, 1]), seed).tolist() == expected
