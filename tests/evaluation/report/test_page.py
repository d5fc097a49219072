"""A report is one file: well-formed, nothing fetched, no string of a file's is markup."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from pipeline.evaluation.report.drawing import Figure
from pipeline.evaluation.report.page import (
    Section,
    facts_html,
    label,
    notes_list,
    table_html,
    value_text,
    write_page,
)
from pipeline.evaluation.tables import evaluation_tables
from tests.evaluation.report.conftest import HOSTILE, Page

FETCHING = {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "foreignobject"}


@pytest.mark.parametrize("kind", ["run", "compared", "swept"])
def test_a_report_is_one_well_formed_file_that_fetches_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    page = Page((request.getfixturevalue(kind) / "report.html").read_text(encoding="utf-8"))
    assert not FETCHING & set(page.tags)
    assert not page.values("src")
    for name in ("href", "xlink:href"):
        assert all(value.startswith(("#", "data:image/png;base64,")) for value in page.values(name))
    assert "http" not in " ".join(page.words)
    assert not re.search(r"url\((?!#)|@import", page.text)
    assert page.tags.count("svg") >= 5


@pytest.mark.parametrize("kind", ["run", "compared", "swept"])
def test_every_reference_within_the_page_leads_to_one_element(kind: str, request: pytest.FixtureRequest) -> None:
    page = Page((request.getfixturevalue(kind) / "report.html").read_text(encoding="utf-8"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    asked = {value[1:] for value in page.values("href") if value.startswith("#")}
    asked |= set(re.findall(r"url\(#([^)]+)\)", page.text)) | set(page.values("data-copy"))
    assert len(asked) > 20
    assert asked <= set(ids)
    assert all(re.fullmatch(r"#[0-9a-f]{3,6}|none", value) for value in page.values("fill"))


def test_the_policy_lets_one_script_run_and_it_is_the_pages_own(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (policy,) = [value for value in Page(text).values("content") if "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "http" not in policy


def test_hostile_strings_are_text_wherever_they_stand(tmp_path: Path) -> None:
    entry = {"mean": 0.5, "std": 0.1, "seed_std": 0.0, "convention": HOSTILE}
    (table,) = evaluation_tables({HOSTILE: {"ordinality": {"aoc": entry | {"taus": [0.5, 0.4]}}}})

    def draw(figure: object) -> None:
        axes = figure.add_subplot()
        axes.set(title=label(HOSTILE), xlabel=label(HOSTILE))

    hostile = Figure("hostile", HOSTILE, HOSTILE, ("a",), [(HOSTILE,)], draw, (4, 3))
    body = table_html(table.texts()) + notes_list([HOSTILE]) + facts_html([(HOSTILE, HOSTILE)])
    path = tmp_path / "report.html"
    write_page(HOSTILE, HOSTILE, [Section(HOSTILE, body, [hostile])], path, ["hostile"])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not page.values("onerror")
    assert not page.values("src")
    escaped = HOSTILE.replace("\u202e", "\\u202e").replace("\x07", "\\x07")
    whole = "".join(page.words)
    assert whole.count(escaped) >= 9
    assert page.values("aria-label") == [escaped]
    assert not any(ord(letter) < 32 and letter != "\n" for letter in page.text)
    assert escaped in (tmp_path / "report/hostile.csv").read_text(encoding="utf-8").replace('""', '"')


@pytest.mark.parametrize("kind", ["run", "compared", "swept"])
def test_no_python_stands_in_a_report_and_its_settings_fold(kind: str, request: pytest.FixtureRequest) -> None:
    text = (request.getfixturevalue(kind) / "report.html").read_text(encoding="utf-8")
    text = re.sub("<(script|style)>.*?</\\1>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    words = "\n".join(Page(text).words)
    assert not re.search(r"\b(None|True|False)\b|\['|\[\d+, |\{'|[0-9a-f]{24}", words)
    (foot,) = re.findall('<details class="settings">(.*?)</details>', text, re.DOTALL)
    assert foot.count("<tr>") > 20
    assert (kind == "run") == bool(re.search("training data</th><td>[0-9a-f]{12}…<", foot))
    if kind != "swept":
        assert "seed 1: epoch" in foot
        assert "trained." not in foot


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"),
        (True, "yes"),
        ([], "none"),
        ([0, 1.0, None], "0, 1, none"),
        ({"low": 1e-5, "high": [2]}, "low 1e-05, high 2"),
        ("0123456789ab" * 3, "0123456789ab…"),
        (f"sha256:{'ab' * 32}", f"sha256:{'ab' * 6}…"),
        ("decade", "decade"),
    ],
)
def test_a_setting_is_said_in_words(value: object, words: str) -> None:
    assert value_text(value) == words


def test_each_table_stands_beside_what_its_buttons_copy(compared: Path) -> None:
    from pipeline.evaluation.comparison import paper_tables

    page = Page((compared / "report.html").read_text(encoding="utf-8"))
    markdown = (compared / "comparison.md").read_text(encoding="utf-8")
    latex = (compared / "comparison.tex").read_text(encoding="utf-8")
    assert not any(ord(letter) < 32 and letter != "\n" for letter in page.text)
    buttons = page.values("data-copy")
    assert len(buttons) == 2 * page.text.count("<caption>") >= 10
    blocks = [block.strip() for block in re.findall(r"<pre[^>]*>(.*?)</pre>", page.text, re.DOTALL)]
    assert len(blocks) == len(buttons)
    for block in (words for words in page.words if words.startswith("**Alignment")):
        assert block.strip() in markdown
    assert sum(words.strip() in latex for words in page.words if words.startswith(r"\begin{table}")) == 7
    assert paper_tables().tables[0].name == "paper_alignment"
