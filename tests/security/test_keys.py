"""The endpoint's key is in no file, message, exception or list of processes, whatever the endpoint says."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import EmotionRankError
from pipeline.data.captions.llm.write import write_captions
from tests.data.captions.endpoint import Reply, serving
from tests.data.captions.writer import KEY, ROWS, WRITER, corpus, good, wait, words

# keys of several providers; the last two could be names of variables
KEYS = (KEY, "hf_abcdefghijklmnopqrstuvwxyz", "gsk_0123456789abcdefghij")
ECHOES: dict[str, Callable[[str], Reply]] = {
    "401": lambda key: Reply(401, f"Incorrect API key provided: {key}"),
    "400": lambda key: Reply(400, f"what is {key}?"),
    "a long message": lambda key: Reply(401, "x" * 265 + key),  # which is cut where it is shown
    "403 twice": lambda key: Reply(403, f"{key} or {key}"),
    "500": lambda key: Reply(500, f"no {key}"),
    "429 with headers": lambda key: Reply(429, f"slow, {key}", {"X-Key": key, "Retry-After": key}),
    "a redirection": lambda key: Reply(302, key, {"Location": f"http://127.0.0.1:9/?key={key}"}),
    "a header": lambda key: Reply(200, "The person is speaking calmly.", {"X-Request-Id": key, "Set-Cookie": key}),
    "an answer": lambda key: Reply(200, f"The person is speaking of {key} at length."),
    "an answer in Bearer": lambda key: Reply(200, f"Bearer {key}"),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return corpus(tmp_path / "c", ROWS)


def written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def settings(url: str, *more: str) -> tuple[str, ...]:
    fast = ("llm.model=scripted", "llm.retries=1", "writing.prompts_grid=false")
    return (f"llm.base_url={url}", *fast, *more)


@pytest.mark.parametrize("key", [KEY, *(pytest.param(key, marks=pytest.mark.exhaustive) for key in KEYS[1:])])
@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_that_the_endpoint_repeats_appears_nowhere(
    echo: str,
    key: str,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = ""
    with serving(lambda *_: ECHOES[echo](key)) as endpoint:
        try:
            said = str(write_captions(manifest, out=tmp_path / "o", overrides=settings(endpoint.url)))
        except EmotionRankError as error:
            said = str(error) + "".join(traceback.format_exception(error))
        assert endpoint.keys == {f"Bearer {key}"}  # it was sent
    assert said
    assert key[: len(key) // 2] not in said + "".join(capfd.readouterr())
    assert not [path for path in written(tmp_path) if key.encode() in path.read_bytes()]


def test_the_key_is_not_among_a_processs_arguments(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ps` shows every process's arguments to everybody. The client's own log is asked for, at its loudest."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    release = False

    def script(name: str, prompt: str, before: int) -> Reply:
        wait(lambda: release)
        return good(name, prompt, before)

    with serving(script) as endpoint:
        command = [*WRITER, *words(manifest, tmp_path / "o", endpoint)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait(lambda: endpoint.requests > 0)
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        release = True
        printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0, printed
    assert KEY.encode() in environment  # which only its owner may read
    assert KEY.encode() not in arguments
    assert KEY not in printed


@pytest.mark.parametrize(
    "setting",
    [
        *(
            f"llm.{name}={KEY}"
            for name in ("api_key", "key", "token", "secret", "password", "headers", "authorization")
        ),
        *(f"llm.key_env={key}" for key in KEYS),
        f"llm.base_url=http://me:{KEY}@127.0.0.1:9/v1",
        f"llm.base_url=http://{KEY}@127.0.0.1:9/v1",
        f"llm.base_url=http://127.0.0.1:9/v1?key={KEY}",
        f"llm.base_url=http://127.0.0.1:9/v1#{KEY}",
        f"llm.base_url={KEY}",
        f"llm.base_url=http://[{KEY}/v1",
    ],
)
@pytest.mark.parametrize("how", ["-o", "file", "--dry-run"])
def test_a_key_among_the_settings_is_refused_without_being_repeated(
    setting: str, how: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from pipeline.commands.write_captions import main

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    key = next(key for key in KEYS if key in setting)
    found = [f"corpus.manifest={manifest}", *settings("http://127.0.0.1:9/v1"), setting]
    command = [str(manifest), "--out", str(tmp_path / "o"), *(["--dry-run"] if how == "--dry-run" else [])]
    if how == "file":
        command[0] = str(_yaml(tmp_path / "config.yaml", found))
    else:
        command += [word for each in found for word in ("-o", each)]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert key not in result.output
    assert "environment variable" in result.stderr or "such as http" in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "setting", [f"llm={KEY}", f"llm.key_env=[{KEY}]", f"llm.retries={KEY}", f"llm.timeout_s={KEY}"]
)
def test_a_key_in_the_place_of_another_setting_is_not_repeated(
    setting: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from pipeline.commands.write_captions import main

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = CliRunner().invoke(main, [str(manifest), "--out", str(tmp_path / "o"), "-o", setting])
    assert result.exit_code == 2
    assert KEY not in result.output
    assert setting.partition("=")[0] in result.stderr
    assert "environment variable" in result.stderr


def _yaml(path: Path, found: list[str]) -> Path:
    sections: dict[str, list[str]] = {}
    for each in found:
        (section, name), value = each.split("=", 1)[0].split("."), each.split("=", 1)[1]
        sections.setdefault(section, [])
        sections[section] = [line for line in sections[section] if not line.startswith(f"  {name}:")]
        sections[section].append(f"  {name}: {value!r}" if name != "retries" else f"  {name}: {value}")
    text = "".join(f"{section}:\n" + "\n".join(lines) + "\n" for section, lines in sections.items())
    path.write_text(text.replace("'false'", "false"))
    return path


def test_a_variable_of_small_letters_is_taken_where_there_is_one(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("my_key", "mine")
    with serving(good) as endpoint:
        write_captions(manifest, out=tmp_path / "o", overrides=settings(endpoint.url, "llm.key_env=my_key"))
        assert endpoint.keys == {"Bearer mine"}


def test_the_key_does_not_follow_a_redirection_to_another_host(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(good) as elsewhere:
        moved = Reply(307, "", {"Location": f"{elsewhere.url}/chat/completions"})
        with serving(lambda *_: moved) as endpoint:
            with pytest.raises(EmotionRankError, match="307, a redirection to"):
                write_captions(manifest, out=tmp_path / "o", overrides=settings(endpoint.url))
            assert endpoint.keys == {f"Bearer {KEY}"}
        assert elsewhere.requests == 0
