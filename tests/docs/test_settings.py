"""docs/settings.md is made from the config models; UPDATE_TEXTS=1 python -m pytest -n 0 tests/docs/test_settings.py"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
from click.testing import CliRunner

from pipeline.commands.command_line import SettingsOption
from pipeline.core.config_files import load_config
from pipeline.core.settings import REQUIRED, Group, groups_of
from tests.docs.warm import COMMANDS

PAGE = Path(__file__).resolve().parents[2] / "docs/settings.md"
TITLES = {  # config model -> the heading of its settings
    "pipeline.core.config:ExtractConfig": "extract-features",
    "pipeline.data.captions.llm.config:WriteConfig": "write-captions",
    "pipeline.core.config:TrainConfig": "train-heads, compare-methods",
    "pipeline.core.config:EvaluateConfig": "evaluate-heads, and -e of compare-methods",
    "pipeline.experiments.sweeps.config:SweepConfig": "sweep-heads",
}
NOTES = {  # before a model's tables
    "write-captions": "Those of `extract-features` as well, of which `corpus` is read.",
    "sweep-heads": "Under `fixed` and `space` stand settings of `train-heads` ([sweeps](sweeps.md)).",
}
TOP = """\
# Settings

What `-o NAME=VALUE` and a YAML file may set, by command, with the default; a preset may have another.
`--list-settings` prints the same, after any command that has `-o`. [Commands](commands.md#grammar) has the grammar.
This page is made from the config models by `tests/docs/test_settings.py`.
"""
OPTIONS = [
    (name, param)
    for name, module in COMMANDS.items()
    for param in import_module(module).main.params
    if isinstance(param, SettingsOption)
]


def settings_page() -> str:
    """docs/settings.md as the models have it."""
    parts = [TOP]
    for model, title in TITLES.items():
        parts.append(f"## {title}\n")
        parts += [f"{NOTES[title]}\n"] if title in NOTES else []
        groups = groups_of(resolve_name(model))
        of_extraction = groups_of(resolve_name("pipeline.core.config:ExtractConfig"))
        parts += [_table(group) for group in groups if title == "extract-features" or group not in of_extraction]
    return "\n".join(parts)


def _table(group: Group) -> str:
    lines = [f"**{_code(group.name)}**: {_cell(group.about)}\n"] if group.name else []
    lines += ["| setting | type | default | what |", "|---|---|---|---|"]
    for each in group.settings:
        cells = (_code(each.name), _code(each.kind), _code(each.default), _cell(each.description))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_page_is_what_the_models_say() -> None:
    if os.environ.get("UPDATE_TEXTS"):
        PAGE.write_text(settings_page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == settings_page()


def test_every_command_with_settings_is_on_the_page_and_lists_them() -> None:
    assert {option.model for _, option in OPTIONS} == TITLES.keys()
    for name, option in OPTIONS:
        result = CliRunner().invoke(import_module(COMMANDS[name]).main, ["--list-settings"])
        assert (result.exit_code, result.stderr) == (0, "")
        listed = [re.split(" {2,}", line) for line in result.stdout.splitlines()]
        for group in groups_of(resolve_name(option.model)):
            assert not group.name or [f"{group.name}: {group.about}"] in listed
            for each in group.settings:
                assert listed.count([each.name, each.kind, each.default, each.description]) == 1, each


@pytest.mark.parametrize("model", TITLES)
def test_every_setting_has_a_line_and_no_number_of_a_list_that_users_lack(model: str) -> None:
    for group in groups_of(resolve_name(model)):
        for setting in group.settings:
            assert setting.description, setting.name
            assert "\n" not in setting.description
            assert "(F" not in setting.description + group.about


@pytest.mark.parametrize("model", TITLES)
def test_the_defaults_as_they_are_listed_are_the_models(model: str) -> None:
    """Every listed `name=default`, given as -o, makes the config that giving none makes."""
    config = resolve_name(model)
    required = ["space.width=[1]"] if "space" in config.model_fields else []
    listed: dict[str, str] = {}
    for group in groups_of(config):
        if not group.name.startswith("objective.name=") or "rank_n" in group.name:
            listed |= {each.name: each.default for each in group.settings if each.default != REQUIRED}
    assert len(listed) > 5
    overrides = [f"{name}={value}" for name, value in listed.items()]
    assert load_config(config, None, [*overrides, *required], kind="") == load_config(config, None, required, kind="")


def test_a_listing_loads_nothing_heavy() -> None:
    program = (
        "import sys; from importlib import import_module\n"
        f"for module in {sorted({COMMANDS[name] for name, _ in OPTIONS})!r}:\n"
        "    import_module(module).main(['--list-settings'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'transformers', 'h5py', 'optuna', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PAGE.parents[1])
    assert ended.stdout.splitlines()[-1] == "[]"
