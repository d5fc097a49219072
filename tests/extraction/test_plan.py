"""The plan is cut from lengths alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.captions import Caption, Captions, ClassPrompt, GridText, Prompt
from pipeline.extraction.batching import BatchSampler, batches, text_plan


@settings(deadline=None)
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


PLANS = st.tuples(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 40))


@settings(deadline=None)
@given(PLANS, st.data())
def test_counts_sizes_and_a_choice_of_batches_are_those_of_a_list(
    plan: tuple[list[int], int], data: st.DataObject
) -> None:
    lengths, budget = plan
    cut = batches(np.array(lengths, dtype=np.int64), budget)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))), dtype=bool)
    assert cut.sizes.tolist() == [len(rows) for rows in cut]
    assert cut.counts(chosen).tolist() == [int(chosen[rows].sum()) for rows in cut]
    places = np.flatnonzero(cut.counts(chosen))
    part = cut.take(places)
    assert [rows.tolist() for rows in part] == [cut[int(place)].tolist() for place in places]
    assert part.counts(chosen).tolist() == cut.counts(chosen)[places].tolist()
    assert [rows.tolist() for rows in cut[1:3]] == [rows.tolist() for rows in list(cut)[1:3]]


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(1, 7))
def test_batches_of_one_size_are_slices(count: int, size: int) -> None:
    order = np.arange(count)[::-1]
    assert [rows.tolist() for rows in BatchSampler.of_size(order, size)] == [
        order[start : start + size].tolist() for start in range(0, count, size)
    ]


@given(count=st.integers(0, 50), size=st.integers(1, 20))
def test_batches_of_one_size_hold_every_row_once_and_say_how_many_each_has(count: int, size: int) -> None:
    cut = BatchSampler.of_size(np.arange(count)[::-1], size)
    assert [row for rows in cut for row in rows] == list(range(count))[::-1]
    assert cut.sizes.tolist() == [len(rows) for rows in cut]
    assert cut.counts(np.arange(count) % 2 == 0).tolist() == [sum(row % 2 == 0 for row in rows) for rows in cut]


TEXTS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=20)


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS, st.integers(1, 9))
def test_texts_that_were_there_keep_their_batches_when_others_are_added(
    captions: list[str], prompts: list[str], norms: list[str], grid: list[str], size: int
) -> None:
    """The captions' batches; then of the prompts and classes, of the rated words' other texts, of the grid's."""

    def batches_of(norms: list[str], grid: list[str]) -> list[list[str]]:
        of = Captions.of(
            [Caption("a", text, [0]) for text in captions],
            [Prompt("a", text, 1, 1, 0) for text in prompts] + [Prompt("word_norms", text, 1, 1, 0) for text in norms],
            [ClassPrompt("{emotion}", "sad", "sad")],
            [GridText("a", text, 1, 1, 0) for text in grid],
        )
        texts = of.texts()
        return [[texts[row] for row in rows.tolist()] for rows in text_plan(of, size)]

    def cut(texts: list[str]) -> list[list[str]]:
        longest_first = sorted(dict.fromkeys(texts), key=lambda text: -len(text))
        return [longest_first[start : start + size] for start in range(0, len(longest_first), size)]

    asked = [text for text in [*prompts, "sad"] if text not in captions]
    words = [text for text in norms if text not in captions + asked]
    others = [text for text in grid if text not in captions + asked + words]
    assert batches_of([], []) == cut(captions) + cut(asked)
    assert batches_of(norms, []) == cut(captions) + cut(asked) + cut(words)
    assert batches_of(norms, grid) == cut(captions) + cut(asked) + cut(words) + cut(others)
