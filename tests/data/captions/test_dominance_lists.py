"""Lists that run dominance at one place of the plane, and the ratings that they need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.captions import Captions, Prompt, read_captions, write_captions_file
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import ManyProblems, StoreCorrupt, UsageError
from pipeline.data.captions.word_norms import dominance_lists, read_word_norms, word_lists, word_prompts
from tests.data.captions.test_word_norms import GLASGOW, made_up

PLACES = [(v, a) for v in range(2, 7) for a in range(3, 6)]


def rated_file(folder: Path, count: int, *, seed: int = 0, unrated: int = 5) -> Path:
    """Words with a dominance that leans on valence, but for every `unrated`-th."""
    words, ratings = made_up(count, seed)
    dominance = np.clip(0.6 * ratings[:, 0] + np.random.default_rng(seed).normal(2, 1.5, count), 1, 9).round(3).tolist()
    shown = ["" if row % unrated == 0 else str(value) for row, value in enumerate(dominance)]
    lines = [f"{word},{v},{a},{d}" for word, (v, a), d in zip(words, ratings.tolist(), shown, strict=True)]
    path = folder / "rated.csv"
    path.write_text("\n".join(["word,valence,arousal,dominance", *lines]) + "\n")
    return path


def lists_by_hand(prompts: list[Prompt], lists: int) -> list[list[Prompt]]:
    found = []
    for number in range(lists):
        v, a = PLACES[number % 15]
        words = [p for p in prompts if p.variant == 0 and p.dominance is not None]
        choice = min(2, len(words) // 14)
        near = sorted(words, key=lambda p: (p.valence - v) ** 2 + (p.arousal - a) ** 2)[: 14 * choice]
        rising = sorted(near, key=lambda p: p.dominance or 0)
        steps = [sorted(rising[k : k + choice], key=near.index) for k in range(0, 14 * choice, choice)]
        turn = number // 15
        chosen = [step[turn % choice] for step in steps]
        sentence = turn // choice % 4
        found.append([next(p for p in prompts if p.variant == sentence and p[2:4] == of[2:4]) for of in chosen])
    return found


@pytest.mark.parametrize("count", [20, 60, 400])
def test_a_list_takes_a_word_of_each_step_of_dominance_among_those_nearest_to_its_point(
    tmp_path: Path, count: int
) -> None:
    prompts = list(word_prompts(CaptionsConfig(word_norms=rated_file(tmp_path, count))))
    found = [[prompts[row] for row in rows] for rows in dominance_lists(prompts, 70)]
    assert found == lists_by_hand(prompts, 70)
    for of_list in found:
        assert len({prompt.text for prompt in of_list}) == 14
        rated = [prompt.dominance for prompt in of_list]
        assert rated == sorted(rated)


@settings(deadline=None, max_examples=10)
@given(st.integers(20, 300), st.integers(0, 9), st.integers(2, 6))
def test_the_words_that_are_kept_make_the_lists_that_all_words_make(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, unrated: int
) -> None:
    path = rated_file(tmp_path_factory.mktemp("rated"), count, seed=seed, unrated=unrated)
    norms = read_word_norms(path)
    rated = [None if np.isnan(value) else value for value in norms.dominance.tolist()]
    every = [
        Prompt("word_norms", word, *point, k, value)
        for k in range(4)
        for word, point, value in zip(norms.words, norms.points.tolist(), rated, strict=True)
    ]
    kept = list(word_prompts(CaptionsConfig(word_norms=path)))
    if sum(value is not None for value in rated) >= 14:
        found, expected = dominance_lists(kept, 65), dominance_lists(every, 65)
        assert [[kept[row][2:] for row in rows] for rows in found] == [
            [every[row][2:] for row in rows] for rows in expected
        ]
    of_plane = word_lists(kept, "valence", 30)
    assert [[kept[row][2:] for row in rows] for rows in of_plane] == [
        [every[row][2:] for row in rows] for rows in word_lists(every, "valence", 30)
    ]  # words kept for dominance alone change none of the other lists


def test_ratings_of_dominance_may_be_blank_and_are_checked_where_they_are_there(tmp_path: Path) -> None:
    path = tmp_path / "norms.csv"
    path.write_text("word,valence,arousal,dominance\na,1,9,5\nb,2,3,\n")
    assert read_word_norms(path).dominance.tolist() == pytest.approx([4.0, np.nan], nan_ok=True)
    path.write_text("word,valence,arousal,dominance\na,1,9,10\n")
    with pytest.raises(ManyProblems, match="dominance '10'; expected a number from 1 to 9"):
        read_word_norms(path)
    path.write_text("word,valence,arousal\na,1,9\n")
    assert np.isnan(read_word_norms(path).dominance).all()


def test_without_the_dominance_of_14_words_there_are_no_such_lists(tmp_path: Path) -> None:
    prompts = list(word_prompts(CaptionsConfig(word_norms=rated_file(tmp_path, 26, unrated=2))))
    with pytest.raises(UsageError, match="dominance of 13 words; expected of at least 14"):
        dominance_lists(prompts, 5)


def test_a_captions_file_names_the_dominance_of_what_has_one_and_files_of_before_open(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    before = '{"use": "prompt", "style": "word_norms", "text": "p0", "valence": 1.0, "arousal": 2.0, "variant": 0}\n'
    path.write_text(before)
    found = read_captions(path)
    assert list(found.prompts) == [Prompt("word_norms", "p0", 1.0, 2.0, 0)]
    write_captions_file(found, path)
    assert path.read_text() == before
    rated = Captions.of(prompts=[*found.prompts, Prompt("word_norms", "p1", 1.0, 2.0, 0, 6.5)])
    write_captions_file(rated, path)
    first, second = path.read_text().splitlines(keepends=True)
    assert (first, json.loads(second)["dominance"]) == (before, 6.5)
    assert read_captions(path) == rated
    path.write_text(second.replace("6.5", "8.5"))
    with pytest.raises(StoreCorrupt, match=r"dominance '8\.5'"):
        read_captions(path)


def test_lists_of_the_glasgow_norms_run_dominance_and_hardly_valence_or_arousal() -> None:
    if not GLASGOW.is_file():
        pytest.skip("the shared corpora are not here")
    prompts = list(word_prompts(CaptionsConfig(word_norms=GLASGOW)))
    lists = np.array([[prompts[row][2:4] + prompts[row][5:] for row in rows] for rows in dominance_lists(prompts, 100)])
    assert lists[:, 0, 2].mean() < 3
    assert lists[:, -1, 2].mean() > 4.8
    for column in (0, 1):
        assert lists[:, :, column].std(axis=1).mean() < 0.12
        of_lists = [np.corrcoef(of[:, column], of[:, 2])[0, 1] for of in lists]
        assert abs(np.mean(of_lists)) < 0.15
