"""Captions of the category: CLAP-template, CLAP4Emo offline, and the prompts of zero-shot recognition."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from cache.captions import Captions, read_captions, write_captions_file
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions import CaptionSource
from pipeline.data.captions.category import (
    assign_clap4emo,
    assign_template,
    category_words,
    class_prompts,
    read_lexicon,
    words_of,
)

LEXICON = category_words()["lexicon"]
EMOTIONS = list(LEXICON)
TRAIN_SENTENCES, TEST_SENTENCES = (category_words()["sentences"][split] for split in ("train", "test"))


def corpus(emotion: list[str], split: list[str] | None = None, names: list[str] | None = None) -> Manifest:
    count = len(emotion)
    blank, none = [""] * count, np.full(count, np.nan)
    return Manifest(
        root=Path("."),
        id=names or [f"u{i}" for i in range(count)],
        audio=[f"u{i}.wav" for i in range(count)],
        split=split or ["train"] * count,
        valence=none,
        arousal=none,
        dominance=none,
        emotion=emotion,
        speaker=blank,
        gender=blank,
        intensity=blank,
        caption=blank,
    )


def clap4emo(manifest: Manifest, **settings: object) -> Captions:
    return assign_clap4emo(CaptionSource(manifest), CaptionsConfig(**settings))


def texts_of(found: Captions, row: int) -> list[str]:
    return [caption.text for caption in found.captions if row in caption.rows]


def everything() -> Manifest:
    """Each emotion 300 times in training and 300 times in test."""
    emotions = [emotion for emotion in EMOTIONS for _ in range(600)]
    return corpus(emotions, split=["train", "test1"] * (len(emotions) // 2))


def test_the_template_names_the_label_and_leaves_out_who_has_none() -> None:
    found = assign_template(CaptionSource(corpus(["sad", "", "angry", "sad"])), CaptionsConfig())
    assert [(c.style, c.text, list(c.rows)) for c in found.captions] == [
        ("template", "speech has angry emotion", [2]),
        ("template", "speech has sad emotion", [0, 3]),
    ]


def test_the_template_style_brings_the_class_prompts_of_all_known_categories_and_of_the_corpus_own() -> None:
    found = assign_template(CaptionSource(corpus(["anxious", "sad"])), CaptionsConfig())
    assert found.classes == class_prompts([*EMOTIONS, "anxious"])
    assert assign_template(CaptionSource(corpus([])), CaptionsConfig()).classes == class_prompts(
        category_words()["lexicon"]
    )


def test_a_class_prompt_reads_well_and_shares_its_text_with_the_template_caption() -> None:
    prompts = {(p.template, p.emotion): p.text for p in class_prompts(category_words()["lexicon"])}
    assert len(prompts) == 12 * 8
    assert prompts["this person is feeling {emotion}.", "angry"] == "this person is feeling angry."
    assert prompts["this person is feeling {emotion}.", "disgust"] == "this person is feeling disgusted."
    assert prompts["this person is feeling {emotion}.", "contempt"] == "this person is feeling contemptuous."
    assert prompts["{emotion}", "disgust"] == "disgust"
    assert prompts["speech has {emotion} emotion", "disgust"] == "speech has disgust emotion"
    for template in dict.fromkeys(of for of, _ in prompts):
        assert len({text for (of, _), text in prompts.items() if of == template}) == 12


def test_our_lexicon_has_words_enough_and_none_in_two_places() -> None:
    assert set(LEXICON) == {
        *("angry", "bored", "calm", "contempt", "disgust", "excited"),
        *("fearful", "frustrated", "happy", "neutral", "sad", "surprised"),
    }
    every = [word for words in LEXICON.values() for part in words.values() for word in part]
    assert len(every) == len(set(every)) >= 12 * 12
    assert all(min(map(len, words.values())) >= 6 for words in LEXICON.values())


@pytest.mark.parametrize("count", [1, 4, 8])
def test_clap4emo_gives_each_utterance_its_number_of_distinct_captions_of_its_own_emotion(count: int) -> None:
    manifest = corpus([*EMOTIONS, ""])
    found = clap4emo(manifest, per_utterance=count)
    assert {c.style for c in found.captions} == {"clap4emo"}
    adjectives = {**{e: e for e in EMOTIONS}, "contempt": "contemptuous", "disgust": "disgusted"}
    for row, emotion in enumerate(EMOTIONS):
        texts = texts_of(found, row)
        assert len(texts) == len(set(texts)) == count
        for text in texts:
            assert adjectives[emotion] in text
            assert sum(word in text for word in LEXICON[emotion]["train"]) >= 2
            assert "{" not in text
    assert texts_of(found, len(EMOTIONS)) == []


def test_training_and_test_captions_share_no_text_sentence_or_word() -> None:
    assert not set(TRAIN_SENTENCES) & set(TEST_SENTENCES)
    assert len(TRAIN_SENTENCES) == len(set(TRAIN_SENTENCES)) == len(TEST_SENTENCES) == len(set(TEST_SENTENCES)) == 8
    manifest = everything()
    for caption in clap4emo(manifest).captions:
        splits = {manifest.split[row] for row in caption.rows}
        emotions = {manifest.emotion[row] for row in caption.rows}
        assert len(splits) == len(emotions) == 1
        words = set(caption.text.replace(",", " ").replace(":", " ").replace(";", " ").replace(".", " ").split())
        train, test = LEXICON[emotions.pop()].values()
        assert not words & set(test if splits == {"train"} else train)


def test_development_utterances_get_the_training_templates() -> None:
    train, dev = (clap4emo(corpus(["sad"], split=[split])).captions for split in ("train", "dev"))
    assert train == dev


def test_a_text_appears_once_with_its_rows_ascending_and_links_to_them_from_the_file(tmp_path: Path) -> None:
    manifest = everything()
    found = clap4emo(manifest)
    assert len({c.text for c in found.captions}) == len(found.captions)
    assert all(list(c.rows) == sorted(set(c.rows)) for c in found.captions)
    write_captions_file(found, tmp_path / "captions.jsonl")
    links = read_captions(tmp_path / "captions.jsonl").links("clap4emo", len(manifest))
    assert (np.diff(links.offsets) == 4).all()


def test_an_utterance_keeps_its_captions_when_the_manifest_grows_around_it() -> None:
    alone = clap4emo(corpus(["sad"], names=["b"]))
    among = clap4emo(corpus(["angry", "sad", ""], names=["a", "b", "c"]))
    assert texts_of(alone, 0) == texts_of(among, 1)


def test_the_seed_changes_who_gets_which_sentence_and_equal_seeds_repeat_it() -> None:
    manifest = corpus(["sad"] * 400)

    def sentences(seed: int) -> list[str]:
        of = {row: c.text for c in clap4emo(manifest, per_utterance=1, seed=seed).captions for row in c.rows}
        return [of[row].split("sad")[0] for row in range(400) if "one thinks of" not in of[row]]

    assert sentences(3) == sentences(3)
    assert sentences(3) != sentences(4)
    assert clap4emo(everything(), seed=3) == clap4emo(everything(), seed=3)


def test_sentences_and_words_are_all_used_alike() -> None:
    texts = {c.text: len(c.rows) for c in clap4emo(corpus(["sad"] * 8000), per_utterance=1).captions}
    by_sentence = [sum(n for text, n in texts.items() if text.startswith(f.split("{")[0])) for f in TRAIN_SENTENCES]
    assert all(850 < count < 1150 for count in by_sentence)  # 1000 each, sd 30
    assert len(texts) == 8 * 24  # every word pair of every sentence


def test_the_assignment_for_the_papers_corpus_takes_about_a_second() -> None:
    emotions = [EMOTIONS[i % 12] for i in range(90_022)]
    manifest = corpus(emotions)
    start = perf_counter()
    clap4emo(manifest)
    assign_template(CaptionSource(manifest), CaptionsConfig())
    assert perf_counter() - start < 3  # measured: 0.3 s on two busy cores


def test_an_emotion_without_words_is_named_with_those_that_have_some() -> None:
    with pytest.raises(UsageError, match=r"emotion 'zealous': no words .*angry, bored, .*leave the style clap4emo out"):
        clap4emo(corpus(["sad", "zealous"]))


# ---- the user's NRC file: made-up words here, the real list may not be redistributed

AFFECTS = "anger anticipation disgust fear joy negative positive sadness surprise trust"


def nrc(path: Path, words: dict[str, str]) -> Path:
    """A file as NRC lays it out: ten lines a word. `words` maps a word to its affects."""
    lines = ["\n"]
    for word, affects in words.items():
        lines += [f"{word}\t{affect}\t{int(affect in affects.split())}\n" for affect in AFFECTS.split()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_nrc_affects_become_our_categories(tmp_path: Path) -> None:
    words = {
        "aaa": "anger negative",
        "bbb": "anger disgust negative",
        "ccc": "anger sadness negative",
        "ddd": "negative",
        "eee": "positive trust",
        "fff": "anticipation joy positive",
        "ggg": "fear surprise",
        "hhh": "",
    }
    read = {emotion: {*of["train"], *of["test"]} for emotion, of in read_lexicon(nrc(tmp_path / "n", words)).items()}
    assert read == {
        "angry": {"aaa", "bbb", "ccc"},
        "contempt": {"bbb"},
        "disgust": {"bbb"},
        "frustrated": {"ccc"},
        "sad": {"ccc"},
        "bored": {"ddd"},
        "calm": {"eee"},
        "happy": {"fff"},
        "excited": {"fff"},
        "fearful": {"ggg"},
        "surprised": {"ggg"},
    }


def test_captions_are_written_from_the_users_file_with_other_words_for_test(tmp_path: Path) -> None:
    path = nrc(tmp_path / "nrc.txt", {f"{chr(97 + i)}{i:03}x": "sadness negative" for i in range(26)})
    train, test = words_of(["sad"], path)["sad"].values()
    assert len(train) + len(test) == 26
    assert not set(train) & set(test)
    found = clap4emo(corpus(["sad"] * 50, split=["train", "test"] * 25), lexicon=path)
    for caption in found.captions:
        own, other = (train, test) if caption.rows[0] % 2 == 0 else (test, train)
        assert sum(word in caption.text for word in own) == 2
        assert not any(word in caption.text for word in other)


def test_neutral_keeps_our_words_and_inflections_stay_in_one_split(tmp_path: Path) -> None:
    path = nrc(tmp_path / "nrc.txt", {"abandon": "fear", "abandoned": "fear", "abandonment": "fear"})
    assert words_of(["neutral"], path)["neutral"] == LEXICON["neutral"]
    assert sorted(map(len, read_lexicon(path)["fearful"].values())) == [0, 3]


def test_a_file_with_too_few_words_for_an_emotion_of_the_corpus_is_refused(tmp_path: Path) -> None:
    path = nrc(tmp_path / "nrc.txt", {"abandon": "fear"})
    with pytest.raises(
        UsageError, match=r"captions.lexicon: .*nrc.txt: .* test words for fearful; expected at least 6"
    ):
        clap4emo(corpus(["fearful"]), lexicon=path)
    assert clap4emo(corpus(["neutral"]), lexicon=path).captions  # others are not asked for


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("abandon fear 1", "1 columns; expected word<TAB>emotion<TAB>0 or 1"),
        ("abandon\tfear\t1\textra", "4 columns"),
        ("\tfear\t1", "no word"),
        ("abandon\tfearful\t1", "emotion 'fearful'; expected one of anger, anticipation"),
        ("abandon\tfear\tyes", "value 'yes'; expected 0 or 1"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "nrc.txt"
    path.write_text(f"aback\tanger\t0\n{line}\nabacus\ttrust\t2\n")
    with pytest.raises(UsageError) as refused:
        read_lexicon(path)
    first, second = str(refused.value).splitlines()[:2]
    assert first.startswith(f"{path}:2: {found}")
    assert second.startswith(f"{path}:3: value '2'")


def test_a_lexicon_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\tjoy\t1\n")
    for path in (tmp_path / "missing", tmp_path / "latin"):
        with pytest.raises(UsageError, match=r"cannot be read .*Correct captions.lexicon"):
            read_lexicon(path)
