"""Captions out of files: what they describe, and every reason why a line is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache.captions import Captions
from cache.manifest import Manifest
from pipeline.commands.write_captions import main
from pipeline.core.config import CaptionsConfig, CorpusConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.captions import CaptionSource
from pipeline.data.captions.files import assign_files, read_caption_files
from pipeline.data.corpora import read_corpus
from tests.data.captions.endpoint import Reply, caption, serving

SPLITS = ["train", "dev", "test1", "test1"]


def corpus() -> Manifest:
    blank = [""] * 4
    return Manifest(
        root=Path("."),
        id=["a", "b", "c", "d"],
        audio=["a.wav", "b.wav", "c.wav", "d.wav"],
        split=SPLITS,
        valence=np.array([4.1666666, 2.0, 4.1666666, np.nan]),
        arousal=np.array([3.0, 5.0, 3.0, np.nan]),
        dominance=np.full(4, np.nan),
        emotion=["angry", "sad", "angry", ""],
        speaker=blank,
        gender=blank,
        intensity=blank,
        caption=blank,
    )


def file(folder: Path, *lines: object, name: str = "captions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def assigned(*paths: Path, per_utterance: int = 4) -> Captions:
    return assign_files(CaptionSource(corpus()), CaptionsConfig(files=paths, per_utterance=per_utterance))


def rows(captions: Captions) -> dict[str, list[int]]:
    return {c.text: list(c.rows) for c in captions.captions}


def test_a_caption_describes_an_id_a_pair_of_a_template_split_or_an_emotion(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        {"id": "b", "text": "By name."},
        {"use": "caption", "phrasing": "train", "valence": 4.17, "arousal": 3.0, "text": "By pair, train."},
        {"use": "caption", "phrasing": "test", "valence": 4.17, "arousal": 3, "text": "By pair, test."},
        {"valence": 4.17, "arousal": 3, "text": "By pair."},
        {"emotion": "anger", "text": "By emotion."},
        {"emotion": "Angry", "phrasing": "test", "text": "By emotion, test."},
    )
    assert rows(assigned(path)) == {
        "By name.": [1],
        "By pair, train.": [0],
        "By pair, test.": [2],
        "By pair.": [0, 2],
        "By emotion.": [0, 2],
        "By emotion, test.": [2],
    }


def test_a_line_without_a_style_is_of_style_file_and_styles_are_kept_apart(tmp_path: Path) -> None:
    path = file(tmp_path, {"id": "a", "text": "Same."}, {"id": "b", "style": "dimensional", "text": "Same."})
    found = assigned(path)
    assert [(c.style, list(c.rows)) for c in found.captions] == [("file", [0]), ("dimensional", [1])]


def test_prompts_come_as_they_are(tmp_path: Path) -> None:
    prompt = {"use": "prompt", "style": "dimensional", "valence": 0.5, "arousal": 7.0, "text": "Asked."}
    (found,) = assigned(file(tmp_path, prompt)).prompts
    assert (found.style, found.text, found.valence, found.arousal, found.variant) == (
        *("dimensional", "Asked."),
        *(0.5, 7.0, 0),
    )


def test_an_utterance_gets_as_many_captions_as_asked_for_whatever_its_place(tmp_path: Path) -> None:
    path = file(tmp_path, *({"emotion": "angry", "text": f"Caption {i}."} for i in range(50)))
    found = assigned(path, per_utterance=3)
    owners = [row for c in found.captions for row in c.rows]
    assert sorted(owners) == [0, 0, 0, 2, 2, 2]
    config = CaptionsConfig(files=(path,), per_utterance=3)
    alone = assign_files(CaptionSource(corpus().head(1)), config)
    assert rows(alone) == {text: [0] for text, of in rows(found).items() if 0 in of}


def test_utterances_without_a_caption_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assigned(file(tmp_path, {"id": "a", "text": "One."}, {"id": "z", "text": "Nobody."}))
    said = capsys.readouterr().err
    assert "3 of 4 utterances have no file caption" in said
    assert "ids, points or emotions describe no utterance of this corpus: id z\n" in said


def test_a_file_for_another_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file caption describes an utterance of this corpus"):
        assigned(file(tmp_path, {"id": "z", "text": "Nobody."}))


def test_clap4emos_published_captions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"anger": ["A cross voice.", "A loud voice."], "sadness": ["A low voice."]}))
    found = assigned(path)
    assert rows(found) == {"A cross voice.": [0, 2], "A loud voice.": [0, 2], "A low voice.": [1]}
    assert found.styles() == ["clap4emo"]


def test_every_faulty_line_of_every_file_is_named_at_once(tmp_path: Path) -> None:
    bad = file(
        tmp_path,
        {"id": "a", "text": "Good."},
        "{",
        "[1]",
        {"text": "Whose?"},
        {"id": "a", "emotion": "sad", "text": "Twice."},
        {"valence": 3, "text": "Half."},
        {"valence": 9, "arousal": 3, "text": "Off the scale."},
        {"id": "a", "text": " "},
        {"id": "a", "txet": "Misspelt.", "text": "T."},
        {"id": "a", "style": "dimensoinal", "text": "T."},
        {"use": "prompt", "valence": 1, "arousal": 1, "text": "T."},
        {"use": "prompt", "valence": 1.0, "arousal": 1, "text": "U."},
        {"use": "class", "text": "T."},
        {"id": "a", "phrasing": "test", "text": "T."},
        {"use": "grid", "valence": 1, "arousal": 1, "text": "G."},
        {"use": "grid", "valence": 2, "arousal": 1, "text": "G."},
        {"use": "grid", "valence": 2, "text": "H."},
        {"use": ["grid"], "valence": 2, "arousal": 1, "text": "I."},
    )
    worse = tmp_path / "worse.json"
    worse.write_text('{"angry": "not a list", "sad": [3]}')
    with pytest.raises(ManyProblems) as caught:
        read_caption_files([bad, worse, tmp_path / "none.jsonl"])
    places = [line.split(": ")[0] for line in caught.value.problems]
    assert places == [
        *(f"{bad}:{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 17, 18)),
        *(str(worse), str(worse), str(tmp_path / "none.jsonl")),
    ]
    said = str(caught.value)
    for hint in (
        "did you mean text?",
        "the styles are dimensional",
        f"as {bad}:11",
        f"as {bad}:15",
        "sad[0]",
        "18 problems",
    ):
        assert hint in said


@pytest.mark.parametrize("settings", [["writing.per=pair"], ["writing.per=utterance"], ["writing.style=clap4emo"]])
def test_what_write_captions_wrote_describes_every_labelled_utterance(settings: list[str], tmp_path: Path) -> None:
    labels = [("a", "train", "4.1666666", "3", "angry"), ("b", "dev", "2", "5", "sad")]
    labels += [("c", "test1", "4.1666666", "3", "angry"), ("d", "train", "", "", "")]
    table = [",".join((name, f"{name}.wav", *rest)) for name, *rest in labels]
    for name, *_ in labels:
        (tmp_path / f"{name}.wav").touch()
    manifest = file(tmp_path, "id,audio,split,valence,arousal,emotion", *table, name="manifest.csv")
    with serving(lambda name, prompt, before: Reply(text=caption(name))) as endpoint:
        options = [f"llm.base_url={endpoint.url}", "llm.model=m", "writing.paraphrases=2", *settings]
        words = [word for option in options for word in ("-o", option)]
        result = CliRunner().invoke(main, [str(manifest), "--out", str(tmp_path / "o"), *words])
        assert result.exit_code == 0, result.output
    source = CaptionSource(read_corpus(CorpusConfig(manifest=manifest)))
    found = assign_files(source, CaptionsConfig(files=(tmp_path / "o/captions.jsonl",)))
    assert np.diff(found.links(found.styles()[0], 4).offsets).tolist() == [2, 2, 2, 0]
    assert len(found.prompts) == (0 if found.styles() == ["clap4emo"] else 196)
    texts = rows(found)
    assert not [text for text, owners in texts.items() if {0, 2} <= set(owners)]  # the same pair, two phrasings
