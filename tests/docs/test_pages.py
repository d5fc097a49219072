"""What can be told of the pages without running them: commands parse, names exist, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from tests.docs.pages import PAGES, ROOT, Block, Line, blocks, command_lines, prose, simple_commands
from tests.docs.tables import PLAIN, reason_not_to_run
from tests.docs.warm import COMMANDS

INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINES = list(command_lines())
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
CORPUS_FILES = (".csv", ".jsonl", ".yaml", ".yml")


def _ours(words: list[str]) -> list[str]:
    """`words` from the first one on that is a command of ours, as after `srun --nodes 1`."""
    names = [word.rpartition("/")[2] for word in words]
    place = next((i for i, name in enumerate(names) if name in COMMANDS), len(words))
    return [*names[place : place + 1], *words[place + 1 :]]


def _shown() -> list[tuple[str, list[str]]]:
    """(where, words) of every command of ours in the pages' blocks and scripts."""
    found = [(line.place, _ours(words)) for line in LINES for words in simple_commands(line.text)]
    for page in PAGES:
        for block in blocks(page):
            if block.is_script:
                said = re.findall(rf"^\s*((?:{'|'.join(COMMANDS)}) .*)$", block.text, re.M)
                found += [(f"{page.name}:{block.line}", shlex.split(text)) for text in said]
    return [(where, words) for where, words in found if len(words) > 1]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.place)
def test_a_documented_command_is_one_that_the_replay_runs_or_says_why_not(line: Line) -> None:
    for words in simple_commands(line.text):
        known = words[0].removeprefix(".venv/bin/") in {*COMMANDS, *PLAIN, "python"}
        assert known or reason_not_to_run(words), f"{words[0]}: put it into tests/docs/tables.py, with the reason"


@pytest.mark.parametrize(("where", "words"), _shown(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_documented_command_parses_and_names_presets_that_exist(where: str, words: list[str]) -> None:
    command = import_module(COMMANDS[words[0]]).main
    if words[1:] in (["--help"], ["--list-settings"]):
        return
    context = command.make_context(words[0], list(words[1:]))
    if "--plugin" not in words:  # what a plugin registers is known when it has run: the replay
        _check_presets(words[0], context.params)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_in_running_text_has_the_options_that_it_is_named_with(page: Path) -> None:
    for text in INLINE.findall(prose(page).replace("\n", " ")):
        name, *rest = text.split()
        if name in COMMANDS:
            parameters = import_module(COMMANDS[name]).main.params
            known = {
                "--help",
                *(word for parameter in parameters for word in (*parameter.opts, *parameter.secondary_opts)),
            }
            named = {word.partition("=")[0] for word in re.findall(r"--?[a-z][\w-]*", " ".join(rest))}
            assert not {word for word in named if word.startswith("--")} - known, text


def _check_presets(name: str, given: dict[str, object]) -> None:
    """Resolve what the command would, without reading a corpus or a store. Raises UsageError for an unknown name."""
    from pipeline.core.config import EvaluateConfig, TrainConfig
    from pipeline.core.config_files import load_config
    from pipeline.experiments.sweeps.config import load_sweep
    from pipeline.extraction.settings import resolve_extraction

    def theirs(value: object) -> bool:
        return str(value).endswith((".yaml", ".yml"))

    def methods(param: str) -> list[str]:
        """Of words that may also name stores."""
        words = [str(word) for word in given[param] if not str(word).startswith("stores/") and not theirs(word)]
        return words or ([] if given[param] else ["emotionrankclap"])

    if name == "extract-features" and not theirs(given["config"]):
        resolve_extraction(str(given["config"]), encoders=given["encoders"], overrides=given["overrides"])
    elif name == "train-heads":
        training = [f"training/{given['training']}"] if given["training"] else []
        for method in methods("config"):
            load_config(TrainConfig, [method, *training], given["overrides"], kind="methods")
    elif name == "evaluate-heads":
        load_config(EvaluateConfig, None, given["overrides"], kind="evaluation")
    elif name == "compare-methods":
        for method in methods("methods"):
            load_config(TrainConfig, method, given["overrides"], kind="methods")
        load_config(EvaluateConfig, None, given["evaluation"], kind="evaluation")
    elif name == "sweep-heads" and not theirs(given["sweep"]):
        load_sweep(given["sweep"], given["overrides"], given["trials"])
    elif name == "write-captions" and not theirs(given["config"]):
        from pipeline.data.captions.llm.config import resolve_writing

        resolve_writing(str(given["config"]), overrides=given["overrides"])


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page.name}:{block.line}")
def test_a_documented_block_of_python_compiles_and_imports_what_is_there(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("cache", "pipeline"):
            module = import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_file_of_this_repository_that_a_page_names_is_there(page: Path) -> None:
    text = prose(page)
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert not [link for link in links if link and not (page.parent / link).exists()]
    named = [
        name for name in INLINE.findall(text) if re.fullmatch(r"(tests|pipeline|cache|configs|docs)/[\w./*-]+", name)
    ]
    assert not [name for name in named if not any(ROOT.glob(name.rstrip("/")))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_anchor_that_a_page_links_to_is_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", prose(page)):
        if "://" not in target:
            headings = re.findall(r"^#+ (.*)$", prose((page.parent / target) if target else page), re.M)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}#{anchor}"


def test_every_command_has_a_line_on_some_page() -> None:
    alone = (_ours(words) for line in LINES for words in simple_commands(line.text))  # run-demo has no words
    assert set(COMMANDS) == {words[0] for words in [*alone, *(words for _, words in _shown())] if words}


def test_every_page_is_in_the_index_and_the_index_names_no_other() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[[^]]+\]\(([\w.-]+)\)", index, re.M)
    there = {path.name for path in (ROOT / "docs").glob("*") if path.suffix in (".md", ".ipynb")} - {"README.md"}
    assert len(listed) == len(set(listed))
    assert set(listed) == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_needs_no_list_of_facts_that_its_reader_does_not_have(page: Path) -> None:
    assert not re.findall(r"\bF\d{1,2}\b", page.read_text(encoding="utf-8"))


def test_command_lines_are_split_as_bash_splits_them() -> None:
    text = "A=1 B='x y' write-captions a \\\n  --out 'b c' > log 2>&1 && cat < in | wc -l; echo \"it's\" # no; more\n"
    assert simple_commands(text) == [["write-captions", "a", "--out", "b c"], ["cat"], ["wc", "-l"], ["echo", "it's"]]


def test_a_block_and_a_line_say_where_they_stand_on_their_page() -> None:
    for page in PAGES:
        physical = page.read_text(encoding="utf-8").splitlines()
        for block in blocks(page):
            assert physical[block.line - 1 :][: block.text.count("\n")] == block.text.splitlines()
    for line in LINES:
        assert line.text.startswith(line.page.read_text(encoding="utf-8").splitlines()[line.number - 1])


def test_a_line_goes_on_over_quotes_continuations_and_here_documents() -> None:
    from tests.docs.pages import lines

    text = "one \\\n  two   # exit 4\n# a comment that isn't a command\nthree 'a\nb'\ncat > x <<'E'\nfour\nE\nfive\n"
    found = list(lines(Block(ROOT / "README.md", 10, "bash", text)))
    assert [(line.number, line.code, simple_commands(line.text)) for line in found] == [
        (10, 4, [["one", "two"]]),
        (13, 0, [["three", "a\nb"]]),
        (15, 0, [["cat"]]),
        (18, 0, [["five"]]),
    ]
    with pytest.raises(ValueError, match=r"README.md:10: no end"):
        list(lines(Block(ROOT / "README.md", 10, "bash", "echo 'a\n")))


def test_a_click_mistake_would_be_seen() -> None:
    for words in (["--no-such"], ["stores/msp", "--seeds", "0"]):
        with pytest.raises(click.ClickException):
            import_module(COMMANDS["train-heads"]).main.make_context("train-heads", words)
