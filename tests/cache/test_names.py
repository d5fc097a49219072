"""Names are the strings they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.manifest import RowNames

# what a file name read from the system may hold: any text, and bytes that are no UTF-8 as surrogates
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff\udcc3")), max_size=8)


@settings(deadline=None)
@given(TEXTS)
def test_names_are_each_texts_bytes_one_after_the_other(texts: list[str]) -> None:
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    names = RowNames.of(texts)
    assert names.data == b"".join(encoded)
    assert [names[row] for row in range(len(names))] == encoded
    assert names.take(np.arange(len(texts))[::-1]) == encoded[::-1]
    assert names.texts() == [data.decode("utf-8", "surrogateescape") for data in encoded]


def test_the_same_letters_cut_elsewhere_are_other_names() -> None:
    assert RowNames.of(["ab", "c"]) == RowNames.of(["ab", "c"])
    assert RowNames.of(["ab", "c"]) != RowNames.of(["a", "bc"])
    assert RowNames.of([]) != RowNames.of([""])


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 2, 1, 3]])
def test_offsets_that_cut_no_names_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        RowNames(b"abc", np.array(offsets, dtype=np.int64))
