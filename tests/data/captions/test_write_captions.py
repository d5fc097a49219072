"""write-captions: what is asked, which answers become captions, and what is refused."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.disk import writer_lock
from pipeline.data.captions.llm.responses import problem_of, tidy
from tests.data.captions.endpoint import Reply, serving
from tests.data.captions.writer import KEY, REQUESTS, good, kept, lines, many, run

pytestmark = pytest.mark.usefixtures("api_key")

JUNK = {
    "": "empty",
    "The person is speaking at level 3.": "has digits",
    "The person is speaking calmly. They are sad.": "more than one sentence",
    "A calm person is speaking.": "does not start 'The person is speaking'",
    "The person is speakingly calm.": "does not start 'The person is speaking'",
    "The person is speaking\ncalmly.": "not one plain line",
    "The person is speaking in a way that is": "no end of a sentence",
    "The person is speaking ٣ times.": "has digits",
    "The person is speaking \ud800.": "not one plain line",
}


@pytest.mark.parametrize(("text", "problem"), JUNK.items())
def test_a_response_that_is_not_a_caption_is_refused_with_the_reason(text: str, problem: str) -> None:
    assert problem_of(tidy(text)) == problem


@pytest.mark.parametrize(
    "text",
    [
        "The person is speaking calmly, if a little sadly.",
        ' "The person is speaking with joy!" \n',
        "The person is speaking as if to say 'no more.'",
    ],
)
def test_a_caption_is_accepted(text: str) -> None:
    assert problem_of(tidy(text)) is None


def test_a_refused_answer_is_asked_again_and_never_paid_again(tmp_path: Path) -> None:
    source, out = many(tmp_path / "c", len(JUNK)), tmp_path / "o"
    junk = list(JUNK)
    order: list[str] = []

    def script(name: str, prompt: str, before: int) -> Reply:
        base, tried = name.rsplit("-", 1)
        if base not in order:
            order.append(base)
        return Reply(text=junk[order.index(base)]) if tried == "0" else good(name, prompt, before)

    with serving(script) as endpoint:
        result = run(source, out, endpoint, "--json", "llm.concurrency=1")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["refused_answers"] == Counter(JUNK.values())
        assert set(endpoint.paid.values()) == {1}
        assert len(kept(out)) == 2 * len(JUNK)
        asked = endpoint.requests
        assert run(source, out, endpoint).exit_code == 0
        assert endpoint.requests == asked


def test_a_prompt_that_keeps_failing_is_reported_and_costs_its_attempts_once(manifest: Path, tmp_path: Path) -> None:
    def script(name: str, prompt: str, before: int) -> Reply:
        return Reply(text="No.") if "1.67" in prompt else good(name, prompt, before)

    with serving(script) as endpoint:
        for _ in range(2):  # the second time asks nothing
            result = run(manifest, tmp_path / "o", endpoint, "--json")
            assert result.exit_code == 1
            found = json.loads(result.stdout)
            assert found["answered"] == REQUESTS - 1
            assert list(found["failures"]) == ["1.67 5.0 (train, paraphrase 0)"]
            assert "does not start" in found["failures"]["1.67 5.0 (train, paraphrase 0)"]
            assert endpoint.requests == REQUESTS - 1 + 3
        assert len(lines(tmp_path / "o/captions.jsonl")) == REQUESTS - 1
        assert run(manifest, tmp_path / "o", endpoint, "writing.attempts=4").exit_code == 1
        assert endpoint.requests == REQUESTS - 1 + 4


def test_training_and_test_captions_are_disjoint_and_paraphrases_differ(manifest: Path, tmp_path: Path) -> None:
    heard: Counter[str] = Counter()

    def script(name: str, prompt: str, before: int) -> Reply:
        heard[prompt] += 1
        return Reply(text=f"The person is speaking {'very ' * (heard[prompt] // 3)}softly.")  # three times the same

    with serving(script) as endpoint:
        settings = ("writing.paraphrases=2", "writing.attempts=20")
        result = run(manifest, tmp_path / "o", endpoint, *settings)
        assert result.exit_code == 0, result.output
        found = lines(tmp_path / "o/captions.jsonl")
        train, test = ({x["text"] for x in found if x["phrasing"] == p} for p in ("train", "test"))
        assert train
        assert test
        assert not train & test
        for phrasing, count in Counter((x["phrasing"], x["valence"]) for x in found).items():
            texts = {x["text"] for x in found if (x["phrasing"], x["valence"]) == phrasing}
            assert len(texts) == count == 2
        asked = endpoint.requests
        assert run(manifest, tmp_path / "o", endpoint, *settings).exit_code == 0
        assert endpoint.requests == asked


def test_the_grid_of_prompts_is_written_and_shares_its_answers_with_test_captions(
    manifest: Path, tmp_path: Path
) -> None:
    with serving(good) as endpoint:
        result = run(manifest, tmp_path / "o", endpoint, "writing.prompts_grid=true", "llm.concurrency=16")
        assert result.exit_code == 0, result.output
        assert endpoint.requests == REQUESTS + 196 - 1  # (7, 1) is a test pair and a point of the grid
    found = lines(tmp_path / "o/captions.jsonl")
    prompts = [line for line in found if line["use"] == "prompt"]
    assert len({(p["valence"], p["arousal"]) for p in prompts}) == len(prompts) == 196
    assert len(found) == REQUESTS + 196  # no caption of a point where nobody speaks
    (corner,) = [p for p in prompts if (p["valence"], p["arousal"]) == (7.0, 1.0)]
    (shared,) = [line for line in found if line["use"] == "caption" and line["valence"] == 7.0]
    text = shared["text"]
    assert corner == {"use": "prompt", "style": "dimensional", "valence": 7, "arousal": 1, "variant": 0, "text": text}


def test_one_caption_an_utterance_or_an_emotion(manifest: Path, tmp_path: Path) -> None:
    with serving(good) as endpoint:
        assert run(manifest, tmp_path / "u", endpoint, "writing.per=utterance").exit_code == 0
        assert [line["id"] for line in lines(tmp_path / "u/captions.jsonl")] == ["a", "b", "c", "d", "e"]
        prompt = "writing.prompt=A person is {emotion} ({words})."
        hint = 'writing.words={"angry": [rage, fury], "happy": [joy], "sad": [tears]}'
        result = run(manifest, tmp_path / "e", endpoint, "writing.style=clap4emo", prompt, hint)
        assert result.exit_code == 0, result.output
        assert any(b["messages"][0]["content"] == "A person is angry (rage, fury)." for b in endpoint.bodies)
    found = lines(tmp_path / "e/captions.jsonl")
    assert {(line["phrasing"], line["emotion"]) for line in found} == {
        *(("train", emotion) for emotion in ("angry", "happy", "sad")),
        *(("test", emotion) for emotion in ("angry", "happy")),
    }


def test_labels_are_printed_with_two_decimals_at_most(manifest: Path, tmp_path: Path) -> None:
    with serving(good) as endpoint:
        run(manifest, tmp_path / "o", endpoint, "writing.prompt={valence}/{arousal}")
        assert {b["messages"][0]["content"] for b in endpoint.bodies} == {"4.2/3", "1.67/5", "7/1"}
        assert endpoint.bodies[0].keys() == {"model", "messages"}  # o1 takes no temperature


@pytest.mark.parametrize(
    ("setting", "subject"),
    [
        (f"llm.key_env={KEY}", "llm.key_env"),
        (f"llm.base_url=http://me:{KEY}@127.0.0.1/v1", "llm.base_url"),
        ("llm.model=null", "llm.model"),
        ("writing.prompt=no places", "{arousal} and {valence}"),
        ("writing.prompt={valence} {arousal} {speaker}", "{arousal} and {valence}"),
        ("writing.atempts=2", "did you mean writing.attempts?"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_anything_is_written(
    setting: str, subject: str, manifest: Path, tmp_path: Path
) -> None:
    result = run(manifest, tmp_path / "o", "http://127.0.0.1:9/v1", setting)
    assert result.exit_code == 2
    assert subject in result.stderr
    assert not (tmp_path / "o").exists()


def test_a_second_writer_is_refused(manifest: Path, tmp_path: Path) -> None:
    with serving(good) as endpoint, writer_lock(tmp_path / "o"):
        result = run(manifest, tmp_path / "o", endpoint)
        assert result.exit_code == 75
        assert endpoint.requests == 0


def test_a_folder_of_stores_is_left_alone(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o/text.h5").touch()
    assert run(manifest, tmp_path / "o", "http://127.0.0.1:9/v1").exit_code == 2
    assert os.listdir(tmp_path / "o") == ["text.h5"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"not a database " * 1000,
        lambda content: content[:5000],
        lambda content: content.replace(b'{\n "key"', b'[\n "key"'),
        lambda content: content.replace(b'"text": "T', b'"text": "t'),
        lambda content: content.replace(b"CREATE TABLE", b"CREATE TAPLE"),
    ],
    ids=["another file", "cut off", "not JSON", "another letter", "another schema"],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_corrupt_cache_of_responses_is_named(
    damage: Callable[[bytes], bytes], dry: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    with serving(good) as endpoint:
        assert run(manifest, tmp_path / "o", endpoint).exit_code == 0
        path = tmp_path / "o/responses.sqlite"
        path.write_bytes(damage(path.read_bytes()))
        requests = endpoint.requests
        result = run(manifest, tmp_path / "o", endpoint, *dry)
        assert result.exit_code == 5, result.output
        assert str(path) in result.stderr
        assert endpoint.requests == requests


def test_a_full_disk_is_one_line_and_keeps_the_responses_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connected(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 6")
        return connection

    source, out, connected = many(tmp_path / "c", 60), tmp_path / "o", sqlite3.connect
    with serving(good) as endpoint:
        with monkeypatch.context() as context:
            context.setattr("pipeline.data.captions.llm.responses.sqlite3.connect", connect)
            result = run(source, out, endpoint, "llm.concurrency=1")
        assert result.exit_code == 1
        assert f"{out / 'responses.sqlite'}: cannot be written (database or disk is full)" in result.stderr
        assert 0 < len(kept(out)) < 60
        assert run(source, out, endpoint).exit_code == 0
        assert len(kept(out)) == 60
        assert sum(endpoint.paid.values()) == 61  # the one that found no room


def test_the_log_of_an_earlier_version_is_imported_once(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    with serving(good) as endpoint:
        assert run(manifest, out, endpoint, "llm.concurrency=1").exit_code == 0
        written, responses = (out / "captions.jsonl").read_bytes(), kept(out)
        (out / "responses.sqlite").unlink()
        log = "".join(json.dumps(response | {"digest": None}) + "\n" for response in responses[:-1])
        log = log.replace(', "digest": null', "")  # it had none
        (out / "answers.jsonl").write_text(log + '{"key": "cut of')  # what a crash left
        plan = json.loads(run(manifest, out, endpoint, "--dry-run", "--json").stdout)
        assert (plan["answered"], plan["to_ask"]) == (REQUESTS - 1, 1)
        assert not (out / "responses.sqlite").exists()
        requests = endpoint.requests
        for _ in range(2):
            assert run(manifest, out, endpoint).exit_code == 0
            assert kept(out) == responses
            assert (out / "captions.jsonl").read_bytes() == written
        assert endpoint.requests == requests + 1
        (out / "responses.sqlite").unlink()
        (out / "answers.jsonl").write_text("{]\n" + log)
        result = run(manifest, out, endpoint)
        assert result.exit_code == 5
        assert f"{out / 'answers.jsonl'}:1" in result.stderr


def test_a_dry_run_counts_and_needs_no_key_and_no_endpoint(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good) as endpoint:
        run(manifest, tmp_path / "o", endpoint)
        asked = endpoint.requests
        monkeypatch.delenv("OPENAI_API_KEY")
        plan = json.loads(
            run(manifest, tmp_path / "o", endpoint, "writing.prompts_grid=true", "--dry-run", "--json").stdout
        )
        assert endpoint.requests == asked
    assert plan["prompts"] == REQUESTS + 195
    assert plan["answered"] == REQUESTS
    assert plan["to_ask"] == 195
    length = len(plan["example"])
    assert 195 * length / 6 < plan["tokens_in"] < 195 * length / 2
    assert run(manifest, tmp_path / "none", "null", "llm.model=null", "--dry-run").exit_code == 0
    assert not (tmp_path / "none").exists()
