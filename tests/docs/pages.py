"""The pages as a reader sees them: their fenced blocks, the command lines in these, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)$", re.M | re.S)
_JOINS = {"&&", "||", "|", ";", "&", "(", ")"}
_INTO = re.compile(r"[<>]")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line on the page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that the block is, by a first line such as `# my_encoder.py`; "" for commands and snippets."""
        named = re.match(r"# ([\w/.-]+\.\w+)\n", self.text)
        return named[1] if named else ""

    @property
    def is_script(self) -> bool:
        return self.text.startswith("#!")


@dataclass(frozen=True)
class Line:
    """One whole command line, its continuations joined; `code` is the exit code that its comment promises."""

    page: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.number}"

    @property
    def code(self) -> int:
        said = re.search(r"#.*\bexit (\d+)", self.text)
        return int(said[1]) if said else 0


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    text = page.read_text(encoding="utf-8")
    return tuple(
        Block(page, text.count("\n", 0, found.start("text")) + 1, found["language"], found["text"])
        for found in _FENCE.finditer(text)
    )


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def lines(block: Block) -> Iterator[Line]:
    """The command lines of a ```bash block. Raises ValueError for a quote that nothing closes."""
    text, start = "", block.line
    for number, physical in enumerate(block.text.splitlines(), start=block.line):
        start = start if text else number
        text += f"{physical}\n"
        if _goes_on(text):
            continue
        if shlex.split(text, comments=True):
            yield Line(block.page, start, text)
        text = ""
    if text:
        raise ValueError(f"{block.page.name}:{start}: no end of the command line: {text}")


def _goes_on(text: str) -> bool:
    if text.endswith("\\\n"):
        return True
    here = re.search(r"<<-?\s*['\"]?(\w+)", text)
    if here:
        return text.splitlines()[-1] != here[1] or text.count("\n") == 1
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def simple_commands(text: str) -> list[list[str]]:
    """`A=b x y > z && w` -> [[x, y], [w]]: words without assignments and redirections, as bash would split them."""
    text = re.sub(r"(<<-?\s*['\"]?(\w+)['\"]?).*", "", text, flags=re.S)  # what a here-document says is no command
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if word in _JOINS:
            found.append([])
        elif _INTO.match(word):
            skip = True
            if found[-1] and found[-1][-1].isdigit():  # 2>&1
                found[-1].pop()
        elif skip:
            skip = False
        elif found[-1] or not re.match(r"\w+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def examples(command: click.Command, page: Path) -> Block:
    """The examples in a command's `--help`, less the remarks in brackets behind them."""
    said = re.findall(r"^ *((?:\w+-\w+) \S.*)$", (command.help or "").partition("\b")[2].partition("\n\n")[0], re.M)
    return Block(page, 1, "bash", "\n".join(re.sub(r"  +\(.*\)$", "", line) for line in said) + "\n")


def bash_blocks(page: Path) -> Iterator[Block]:
    yield from (block for block in blocks(page) if block.language == "bash" and not block.is_script)


def command_lines() -> Iterator[Line]:
    """Every command line of every page, in the pages' order."""
    for page in PAGES:
        for block in bash_blocks(page):
            yield from lines(block)
