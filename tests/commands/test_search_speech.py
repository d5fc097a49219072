"""search-speech: what it prints, and that bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.commands.search_speech import main
from pipeline.inference.search import search
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.stage_two import SETTINGS, run_command, small_stores

pytestmark = pytest.mark.usefixtures("encoders_loaded_once")
SENTENCES = ["The person is speaking quietly.", "The person is speaking with joy."]


def _with_stdin(given: bytes, *words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=given)


def test_json_is_what_search_finds_in_the_order_asked(stores: Path, trained: Run) -> None:
    options = ["--top", 3, "--split", "train", "--split", "test", "--emotion", "sad", "--emotion", "calm"]
    result = run_command(main, stores, trained.folder, *SENTENCES, *options, "--json")
    said = json.loads(result.stdout)
    assert [answer["asked"] for answer in said["answers"]] == SENTENCES
    found = search(trained, SENTENCES, split=["train", "test"], emotion=["sad", "calm"], top=3)
    assert [answer["hits"] for answer in said["answers"]] == found
    assert [len(hits) for hits in found] == [3, 3]
    keys = {"id", "audio", "similarity", "valence", "arousal", "emotion", "speaker", "split", "trained_on"}
    assert found[0][0].keys() == keys


def test_the_table_has_a_line_a_hit_in_aligned_columns(stores: Path, trained: Run) -> None:
    options = "--top", 3, "--speaker", "s2"
    lines = run_command(main, stores, trained.folder, SENTENCES[1], *options).stdout.splitlines()
    hits = search(trained, SENTENCES[1], speaker="s2", top=3)[0]
    assert lines[0] == SENTENCES[1]
    assert lines[1].split() == ["similarity", "id", "valence", "arousal", "emotion", "speaker", "split", "audio"]
    assert len(lines) == 5
    for rank, (line, hit) in enumerate(zip(lines[2:], hits, strict=True), start=1):
        shown = [str(rank), f"{hit['similarity']:.3f}", hit["id"], f"{hit['valence']:.3f}", f"{hit['arousal']:.3f}"]
        assert line.split() == [*shown, hit["emotion"] or "-", "s2", hit["split"], hit["audio"]]
        assert line.index(hit["audio"]) == lines[1].index("audio")


def test_a_hit_that_was_trained_on_is_marked_in_the_table(stores: Path, trained: Run) -> None:
    lines = run_command(main, stores, trained.folder, "calm", "--split", "all", "--top", 24).stdout.splitlines()
    column = lines[1].split().index("trained_on") + 1
    marks = {(line.split()[column - 1], line.split()[column]) for line in lines[2:]}
    assert marks == {("train", "yes"), ("dev", "-"), ("test", "-")}


def test_a_recording_gets_captions_with_similarity_and_style(stores: Path, corpus: Path, trained: Run) -> None:
    clip = corpus.parent / "audio/u03.wav"
    answers = json.loads(run_command(main, stores, trained.folder, "--audio", clip, "--top", 2, "--json").stdout)[
        "answers"
    ]
    assert [(answer["asked"], len(answer["hits"])) for answer in answers] == [(str(clip), 2)]
    assert answers[0]["hits"][0].keys() == {"text", "similarity", "style"}
    lines = run_command(main, stores, trained.folder, "--audio", clip, "--top", 2).stdout.splitlines()
    assert lines[1].split() == ["similarity", "style", "text"]
    assert lines[2].endswith(answers[0]["hits"][0]["text"])


def test_a_dash_is_the_lines_of_stdin(stores: Path, trained: Run) -> None:
    given = b"\xef\xbb\xbfcaf\xc3\xa9 noise\r\n\n  \nloud\n"
    result = _with_stdin(given, stores, trained.folder, "calm", "-", "sad", "--json")
    assert [answer["asked"] for answer in json.loads(result.stdout)["answers"]] == ["calm", "café noise", "loud", "sad"]


@pytest.mark.parametrize(
    ("given", "said"),
    [(b"calm\n\xff\xfe\n", "error: stdin:2: not UTF-8; "), (b"", "error: the sentence: empty; ")],
)
def test_stdin_that_holds_no_sentences_is_one_line(given: bytes, said: str, stores: Path, trained: Run) -> None:
    result = _with_stdin(given, stores, trained.folder, "-")
    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_nothing_that_fits_is_said_and_no_failure(stores: Path, trained: Run) -> None:
    options = ["--split", "dev", "--speaker", "s0", "--emotion", "happy"]
    assert search(trained, "calm", split="dev", speaker="s0", emotion="happy") == [[]]
    result = run_command(main, stores, trained.folder, "calm", *options, "--json")
    assert json.loads(result.stdout)["answers"] == [{"asked": "calm", "hits": []}]
    assert "no utterance that fits the filter" in result.stderr
    assert "nothing found" in run_command(main, stores, trained.folder, "calm", *options).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "neither a sentence nor --audio"),
        (["calm", "--audio", "a.wav"], "both sentences and --audio"),
        (["--audio", "a.wav", "--split", "test"], "--split: given with --audio"),
        ([" "], "the sentence: empty"),
        (["calm", "--emotion", "hapy"], "emotion 'hapy': not in the stores; "),
        (["--audio", "no/such.wav"], "no/such.wav: cannot be read (No such file or directory)"),
        (["--audio", "."], ".: cannot be read (a folder, not a file)"),
    ],
)
def test_a_question_that_is_none_is_one_line_and_exit_2(
    words: list[str], said: str, stores: Path, trained: Run
) -> None:
    result = run_command(main, stores, trained.folder, *words)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_a_recording_that_cannot_be_decoded_is_one_line(stores: Path, trained: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"this is no audio" * 400)
    result = run_command(main, stores, trained.folder, "--audio", tmp_path / "bad.wav")
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'bad.wav'}: cannot be decoded" in result.stderr
    assert result.stdout == ""


def test_stores_and_runs_that_are_not_there_or_do_not_match_have_their_exit_codes(
    stores: Path, trained: Run, tmp_path: Path
) -> None:
    other = train(small_stores(tmp_path / "stores"), overrides=SETTINGS, out=tmp_path / "run")
    for question in (["calm"], ["--audio", "a.wav"]):
        assert run_command(main, tmp_path / "nothing", trained.folder, *question).exit_code == 2
        assert run_command(main, stores, tmp_path / "nothing", *question).exit_code == 2
        assert run_command(main, stores, other.folder, *question).exit_code == 4


def test_a_control_character_is_shown_as_an_escape(stores: Path, trained: Run) -> None:
    said = run_command(main, stores, trained.folder, "loud\x1b[31m", "--top", 1).stdout
    assert said.startswith("loud\\x1b[31m\n")


def test_help_opens_with_examples() -> None:
    said = run_command(main, "--help").stdout
    assert said.index('search-speech stores/msp runs/erc "The person') < said.index("Options:")
