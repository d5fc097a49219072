"""The plan is cut from lengths alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import batches


@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(0, 5000))
def test_every_row_is_in_one_batch_and_no_batch_is_over_budget(lengths: list[int], budget: int) -> None:
    plan = batches(np.array(lengths, dtype=np.int64), budget)
    assert sorted(row for rows in plan for row in rows.tolist()) == list(range(len(lengths)))
    for rows in plan:
        longest = max(1, max(lengths[row] for row in rows))
        assert len(rows) == 1 or len(rows) * longest <= budget


def test_the_longest_come_first_and_ties_keep_manifest_order() -> None:
    plan = batches(np.array([5, 9, 5, 9, 1]), 18)
    assert [rows.tolist() for rows in plan] == [[1, 3], [0, 2, 4]]
