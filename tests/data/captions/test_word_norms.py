"""Prompts of rated words: the file, the words that are kept, and the lists of the ordinality test."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cache.captions import Prompt
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.captions import CaptionSource, assign_captions
from pipeline.data.captions.dimensional import LEVELS
from pipeline.data.captions.word_norms import NEAREST, read_word_norms, word_lists, word_prompts
from tests.data.captions.test_assign import corpus

GLASGOW = Path(__file__).resolve().parents[3].parent / "shared" / "corpora" / "glasgow_norms.csv"


def made_up(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """`count` words that do not exist, rated on 1-9 about as words are: extremes of valence are arousing."""
    draw = np.random.default_rng(seed)
    valence = np.clip(draw.normal(5, 1.8, count), 1, 9)
    arousal = np.clip(3 + 0.4 * np.abs(valence - 5) + draw.normal(1, 1, count), 1, 9)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["w" + letters[i // 676 % 26] + letters[i // 26 % 26] + letters[i % 26] for i in range(count)]
    return words, np.round(np.c_[valence, arousal], 3)


def norms_file(folder: Path, words: list[str], ratings: np.ndarray) -> Path:
    path = folder / "norms.csv"
    lines = [f"{word},{v},1.5,{a},2.0" for word, (v, a) in zip(words, ratings.tolist(), strict=True)]
    path.write_text("\n".join(["word,valence,valence_sd,arousal,arousal_sd", *lines]) + "\n")
    return path


def prompts_of(points: np.ndarray, sentences: int = 1) -> list[Prompt]:
    return [
        Prompt("word_norms", f"{row} in {variant}", v, a, variant)
        for variant in range(sentences)
        for row, (v, a) in enumerate(points.tolist())
    ]


def targets(axis: str, number: int) -> np.ndarray:
    """The points of a list, as F13 has them."""
    fixed = 0.5 * (1 + number % 14)
    return np.array([(0.5 * k, fixed) if axis == "valence" else (fixed, 0.5 * k) for k in range(1, 15)])


# ---- the file


def test_ratings_are_mapped_to_the_scale_of_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "norms.csv"
    path.write_text("arousal,word,valence\n1,low,9\n5, mid (dle),3\n\n")
    norms = read_word_norms(path)
    assert norms.words == ["low", "mid (dle)"]
    assert norms.points.tolist() == [[7.0, 1.0], [2.5, 4.0]]
    path.write_text("word,valence,arousal\na,-1,0.5\n")
    assert read_word_norms(path, (-1, 1)).points.tolist() == [[1.0, 5.5]]


def test_every_faulty_line_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "norms.csv"
    lines = [
        "word,valence,arousal",
        "joy,8,7",
        "joy,8,7",
        "far,9.5,0.9",
        "half,five,5",
        "nan,nan,5",
        ",5,5",
        "few,5",
        "inf,5,inf",
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(ManyProblems) as caught:
        read_word_norms(path)
    said = [line.removeprefix(f"{path}:") for line in caught.value.problems]
    assert said == [
        "3: word 'joy' stands in line 2 already; expected each once",
        "4: valence '9.5'; expected a number from 1 to 9",
        "4: arousal '0.9'; expected a number from 1 to 9",
        "5: valence 'five'; expected a number from 1 to 9",
        "6: valence 'nan'; expected a number from 1 to 9",
        "7: word ''; expected one line of text",
        "8: 2 fields; expected 3, as in the header",
        "9: arousal 'inf'; expected a number from 1 to 9",
    ]


def test_a_file_without_the_columns_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "norms.csv"
    path.write_text("word,pleasure,arousal\njoy,8,7\n")
    with pytest.raises(ManyProblems, match="no column 'valence'"):
        read_word_norms(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_word_norms(tmp_path / "nowhere.csv")
    with pytest.raises(ValidationError, match="the lowest rating comes first"):
        CaptionsConfig(word_norms_scale=(9, 1))


# ---- the prompts


def test_a_prompt_has_its_words_own_ratings_in_every_sentence(tmp_path: Path) -> None:
    words, ratings = made_up(40)
    words[3] = "bank (river)"
    config = CaptionsConfig(word_norms=norms_file(tmp_path, words, ratings))
    prompts = word_prompts(config)
    rated = dict(zip(words, (1 + 0.75 * (ratings - 1)).tolist(), strict=True))
    by_variant: dict[int, list[str]] = {}
    for prompt in prompts:
        (word,) = [word for word in words if word in prompt.text]
        assert [prompt.valence, prompt.arousal] == pytest.approx(rated[word])
        by_variant.setdefault(prompt.variant, []).append(word)
    assert len({tuple(each) for each in by_variant.values()}) == 1
    assert list(by_variant) == [0, 1, 2, 3]
    assert "bank (river)" not in by_variant[0]
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_too_few_words_are_refused(tmp_path: Path) -> None:
    words, ratings = made_up(15)
    words[0], words[1] = "two words", "a-b"
    with pytest.raises(UsageError, match="13 words of letters alone; expected at least 14"):
        word_prompts(CaptionsConfig(word_norms=norms_file(tmp_path, words, ratings)))


def test_prompts_of_rated_words_stand_beside_those_of_the_grammar(tmp_path: Path) -> None:
    manifest: Manifest = corpus([4.0, 2.0], [3.0, 6.0], ["train", "test1"])
    plain = assign_captions(CaptionSource(manifest), CaptionsConfig())
    config = CaptionsConfig(word_norms=norms_file(tmp_path, *made_up(30)))
    found = assign_captions(CaptionSource(manifest), config)
    assert found.prompts.of_style("dimensional") == plain.prompts
    assert found.prompts.of_style("word_norms") == word_prompts(config)
    assert (found.captions, found.classes, found.grid) == (plain.captions, plain.classes, plain.grid)


# ---- the lists


@pytest.mark.parametrize("axis", ["valence", "arousal"])
def test_a_list_is_of_different_words_and_no_other_choice_of_near_words_is_nearer(axis: str) -> None:
    """Against every exchange of two words and every exchange of a word for one that was left."""
    points = 1 + 0.75 * (made_up(2000)[1] - 1)
    exchanges = 0
    for number, rows in enumerate(word_lists(prompts_of(points), axis, 14)):
        assert len(set(rows.tolist())) == 14
        distance = ((targets(axis, number)[:, None] - points[None]) ** 2).sum(-1)
        near = [set(each) for each in np.argsort(distance, axis=1)[:, :NEAREST].tolist()]
        if not all(row in each for row, each in zip(rows.tolist(), near, strict=True)):
            continue  # a corner with fewer words than points
        for place, other in permutations(range(14), 2):
            if rows[place] in near[other] and rows[other] in near[place]:
                kept = distance[place, rows[place]] + distance[other, rows[other]]
                assert distance[place, rows[other]] + distance[other, rows[place]] >= kept - 1e-9
                exchanges += 1
        for place in range(14):
            for other in near[place] - set(rows.tolist()):
                assert distance[place, other] >= distance[place, rows[place]] - 1e-9
                exchanges += 1
    assert exchanges > 500


def test_words_on_the_points_themselves_are_the_lists_of_the_paper() -> None:
    points = np.array([(v, a) for v in LEVELS for a in LEVELS])
    prompts = prompts_of(points)
    for axis in ("valence", "arousal"):
        for number, rows in enumerate(word_lists(prompts, axis, 14)):
            assert np.array_equal(points[rows], targets(axis, number))


def test_later_lists_take_the_next_sentence_and_other_words() -> None:
    points = 1 + 0.75 * (made_up(1000)[1] - 1)
    lists = word_lists(prompts_of(points, sentences=3), "arousal", 14 * 4)
    for fixed in range(14):
        of_fixed = lists[fixed::14]
        assert [set((rows // 1000).tolist()) for rows in of_fixed] == [{0}, {1}, {2}, {0}]
        words = [set((rows % 1000).tolist()) for rows in of_fixed]
        assert len(words[0] & words[1]) <= 7  # in a corner the same few words are the nearest of several points
    shared = [len(set((lists[k] % 1000).tolist()) & set((lists[k + 14] % 1000).tolist())) for k in range(14)]
    assert sorted(shared)[7] == 0
    assert np.array_equal(lists[:14], word_lists(prompts_of(points), "arousal", 14))


@settings(deadline=None, max_examples=15)
@given(st.integers(14, 400), st.integers(0, 9), st.sampled_from(["valence", "arousal"]))
def test_the_words_that_are_kept_make_the_lists_that_all_words_make(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, axis: str
) -> None:
    words, ratings = made_up(count, seed)
    path = norms_file(tmp_path_factory.mktemp("norms"), words, ratings)
    kept, every = list(word_prompts(CaptionsConfig(word_norms=path))), prompts_of(read_word_norms(path).points, 4)
    found = [[kept[row][2:] for row in rows] for rows in word_lists(kept, axis, 40)]
    assert found == [[every[row][2:] for row in rows] for rows in word_lists(every, axis, 40)]


def test_prompts_that_are_not_whole_are_refused() -> None:
    points = made_up(20)[1]
    for prompts in ([], prompts_of(points[:13]), prompts_of(points, 2)[:-1], prompts_of(points, 2)[20:]):
        with pytest.raises(UsageError, match="expected at least 14 words, the same in each sentence"):
            word_lists(prompts, "valence", 14)


def test_the_glasgow_norms_give_lists_over_the_plane() -> None:
    if not GLASGOW.is_file():
        pytest.skip("the shared corpora are not here")
    prompts = word_prompts(CaptionsConfig(word_norms=GLASGOW))
    words = prompts.columns["variant"].count(0)
    assert 400 < words < 1_000
    assert len(prompts) == 4 * words
    points = np.array([prompt[2:4] for prompt in prompts])
    for column, axis in enumerate(("valence", "arousal")):
        for rows in word_lists(prompts, axis, 100):
            assert len(set(rows.tolist())) == 14
            assert np.corrcoef(points[rows, column], LEVELS)[0, 1] > 0.8
