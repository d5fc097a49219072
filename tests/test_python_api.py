"""The commands and the functions of `pipeline` are the same abilities; docs/python.md shows them and runs."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.commands.completion import COMMANDS
from pipeline.core.errors import EmotionRankError
from pipeline.training.run_folder import Run
from tests.data.captions.endpoint import serving
from tests.data.captions.writer import good

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
UNTIL_STOPPED = "serve("  # tests/inference/web serves
MINUTES = "run_demo("  # its block is compiled and bound; tests/experiments/demo runs the function

OTHER = "another function"
RETURNED = "what is returned"
# command -> each of its parameters -> the functions' parameters that do the same
SAME: dict[str, dict[str, list[str] | str]] = {
    "make-manifest": {
        "folder": ["make_manifest.folder"],
        "labels": ["make_manifest.labels"],
        "out": ["make_manifest.out"],
        "seed": ["make_manifest.seed"],
        "as_json": RETURNED,
    },
    "write-captions": {
        "config": ["write_captions.config", "plan_write_captions.config"],
        "out": ["write_captions.out", "plan_write_captions.out"],
        "audio_root": ["write_captions.audio_root", "plan_write_captions.audio_root"],
        "overrides": ["write_captions.overrides", "plan_write_captions.overrides"],
        "dry_run": OTHER,
        "plugins": ["load_plugins.files"],
        "as_json": RETURNED,
    },
    "extract-features": {
        "config": ["extract.config", "plan_extraction.config"],
        "out": [
            "extract.out",
            "plan_extraction.out",
            "status_of.folder",
            "verify.folder",
            "verify_sources.folder",
            "digest.folder",
        ],
        "audio_root": ["extract.audio_root", "plan_extraction.audio_root", "verify_sources.audio_root"],
        "encoders": ["extract.encoders", "plan_extraction.encoders"],
        "overrides": ["extract.overrides", "plan_extraction.overrides"],
        "precision": ["extract.overrides", "plan_extraction.overrides"],
        "batch_seconds": ["extract.overrides", "plan_extraction.overrides"],
        "num_workers": ["extract.num_workers"],
        "device": ["extract.device", "plan_extraction.device"],
        "engine": ["extract.engine"],
        "limit": ["extract.limit"],
        "retry_failed": ["extract.retry_failed"],
        "fresh": ["extract.fresh"],
        "strict": ["extract.strict", "plan_extraction.strict"],
        "dry_run": OTHER,
        "status": OTHER,
        "verify": OTHER,
        "digest": OTHER,
        "plugins": ["load_plugins.files"],
        "as_json": RETURNED,
    },
    "train-heads": {
        "stores": ["train.stores"],
        "config": ["train.method"],
        "out": ["train.out"],
        "training": ["train.training"],
        "seeds": ["train.seeds"],
        **{key: ["train.overrides"] for key in ("seed", "epochs", "batch_size", "learning_rate", "temperature")},
        "overrides": ["train.overrides"],
        "device": ["train.device"],
        "fresh": ["train.fresh"],
        "tensorboard": ["train.tensorboard"],
        "wandb": ["train.wandb"],
        "trackio": ["train.trackio"],
        "plugins": ["load_plugins.files"],
        "then": OTHER,
        "as_json": RETURNED,
    },
    "evaluate-heads": {
        "stores": ["evaluate.stores", "evaluation_report.stores", "write_challenge.stores"],
        "run": ["evaluate.run", "evaluation_report.run", "write_challenge.run"],
        "overrides": ["evaluate.overrides"],
        "device": ["evaluate.device", "evaluation_report.device", "write_challenge.device"],
        "no_report": OTHER,
        "conventions": RETURNED,
        "challenge": ["write_challenge.out"],
        "as_json": RETURNED,
    },
    "compare-methods": {
        "stores": ["compare.stores", "cross_validate.stores", "comparison_report.stores", "folds_report.stores"],
        "methods": ["compare.methods", "cross_validate.methods"],
        "out": ["compare.out", "cross_validate.out", "comparison_report.out", "folds_report.out"],
        "training": ["compare.training", "cross_validate.training"],
        "seeds": ["compare.seeds", "cross_validate.seeds"],
        "epochs": ["compare.overrides", "cross_validate.overrides"],
        "batch_size": ["compare.overrides", "cross_validate.overrides"],
        "learning_rate": ["compare.overrides", "cross_validate.overrides"],
        "temperature": ["compare.overrides", "cross_validate.overrides"],
        "overrides": ["compare.overrides", "cross_validate.overrides"],
        "evaluation": ["compare.evaluation", "cross_validate.evaluation"],
        "encoders": ["compare.encoders"],
        "others": ["compare.zero_shot_on", "cross_validate.zero_shot_on"],
        "folds": ["cross_validate.folds"],
        "conventions": ["compare.conventions", "cross_validate.conventions"],
        "device": ["compare.device", "cross_validate.device"],
        "fresh": ["compare.fresh", "cross_validate.fresh"],
        "no_report": OTHER,
        "tensorboard": ["compare.tensorboard", "cross_validate.tensorboard"],
        "plugins": ["load_plugins.files"],
        "as_json": RETURNED,
    },
    "sweep-heads": {
        "stores": ["sweep.stores"],
        "sweep": ["sweep.config"],
        "out": ["sweep.out"],
        "trials": ["sweep.trials"],
        "storage": ["sweep.storage"],
        "overrides": ["sweep.overrides"],
        "device": ["sweep.device"],
        "fresh": ["sweep.fresh"],
        "no_report": ["sweep.report"],
        "plugins": ["load_plugins.files"],
        "as_json": RETURNED,
    },
    "search-speech": {
        "stores": ["search.stores", "describe.stores", "serve.stores"],
        "run": ["search.run", "describe.run", "serve.run"],
        "sentences": ["search.sentences", "serve.sentence"],
        "audio": ["describe.recordings"],
        "top": ["search.top", "describe.top", "serve.top"],
        "split": ["search.split", "serve.split"],
        "speaker": ["search.speaker", "serve.speaker"],
        "emotion": ["search.emotion", "serve.emotion"],
        "device": ["search.device", "describe.device", "serve.device"],
        "served": OTHER,
        "port": ["serve.port"],
        "plugins": ["load_plugins.files"],
        "as_json": RETURNED,
    },
    "run-demo": {
        "out": ["run_demo.out"],
        "seeds": ["run_demo.seeds"],
        "fresh": ["run_demo.fresh"],
        "as_json": RETURNED,
    },
}
PYTHON_ONLY = {
    "train.callbacks": "code of one's own",
    "cross_validate.template": "the class prompts' wording",
    "run_demo.utterances": "a smaller corpus for tests",
    "serve.ready": "who is told the page's address",
    "evaluation_report.result": "what evaluate returned",
    "evaluation_report.references": "the rows of bounds where they were made before",
    "comparison_report.summary": "what compare returned",
    "folds_report.summary": "what cross_validate returned",
}
FUNCTIONS = sorted(name for name in pipeline.__all__ if inspect.isfunction(getattr(pipeline, name)))
DECORATORS = [name for name in FUNCTIONS if name.startswith("register_")]  # of code: a command has `--plugin` for it


def _parameters(function: str) -> set[str]:
    return {f"{function}.{name}" for name in inspect.signature(getattr(pipeline, function)).parameters}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_has_its_argument(command: str) -> None:
    main = import_module(f"pipeline.commands.{command.replace('-', '_')}").main
    assert {param.name for param in main.params} - {"quiet", "verbose", "version", "list_settings"} == SAME[
        command
    ].keys()
    for names in SAME[command].values():
        for name in names if isinstance(names, list) else []:
            assert name in _parameters(name.split(".")[0])


def test_every_argument_is_an_option_or_named_as_only_in_python() -> None:
    reached = {name for options in SAME.values() for names in options.values() for name in names if names is not OTHER}
    every = {name for function in FUNCTIONS if function not in DECORATORS for name in _parameters(function)}
    assert every - reached == PYTHON_ONLY.keys()


def test_every_public_name_is_imported_when_it_is_used_and_stands_on_the_page() -> None:
    assert sorted(pipeline._MODULE_OF) == pipeline.__all__
    assert set(pipeline.__all__) <= set(dir(pipeline))
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(pipeline.__all__) <= named
    stubs = ast.parse(Path(pipeline.__file__).read_text(encoding="utf-8"))
    [checked] = [node for node in stubs.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in checked.body for alias in node.names}
    assert typed == pipeline._MODULE_OF


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import pipeline, sys; dir(pipeline); print({'torch', 'numpy', 'optuna', 'pydantic'} & sys.modules.keys())"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_help_lists_every_command_and_without_optuna_leaves_sweep_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sweep" in dir(pipeline)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert set(pipeline.__all__) - set(dir(pipeline)) == {"sweep"}
    said = pydoc.render_doc(pipeline, renderer=pydoc.plaintext)  # a name that cannot be had would end it
    for command in COMMANDS:
        assert f"\n        {command} " in said
    assert re.search(r"\n    train\(\s*stores:", said)


@pytest.mark.parametrize(
    "given", [{}, {"audio_root": "nowhere"}, {"encoders": "papr"}, {"overrides": ["audio.poling=mean"]}]
)
def test_a_dry_run_takes_what_an_extraction_takes(given: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for function in (pipeline.plan_extraction, pipeline.extract):
        with pytest.raises(EmotionRankError) as caught:
            function("emodb", out=tmp_path / "stores", **given)
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert all(str(value).strip("[']").split("=")[0] in found[0] for value in given.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_shows_a_call_and_says_what_it_raises(name: str) -> None:
    said = inspect.getdoc(getattr(pipeline, name)) or ""
    assert re.search(rf"^    .*\b{name}\(", said, re.MULTILINE), "no example line"
    assert "Raises" in said, said


def test_the_examples_call_the_functions_as_they_are() -> None:
    """Every call of a public name in a docstring or on the page has arguments that its signature takes."""
    texts = [*BLOCKS, *(_example(name) for name in FUNCTIONS)]
    calls = [call for text in texts for call in ast.walk(ast.parse(text)) if isinstance(call, ast.Call)]
    bound = 0
    for call in calls:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name in FUNCTIONS:
            words = {word.arg: None for word in call.keywords}
            inspect.signature(getattr(pipeline, name)).bind(*call.args, **words)
            bound += 1
    assert bound > 35


def _example(name: str) -> str:
    said = inspect.getdoc(getattr(pipeline, name)) or ""
    return "\n".join(line.strip() for line in re.findall(r"^    (\S.*)$", said, re.MULTILINE))


@pytest.fixture
def user(all_styles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a corpus and its stores."""
    shutil.copytree(all_styles.parent / "c", tmp_path / "my")
    shutil.copytree(all_styles, tmp_path / "stores/mine")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("encoders_loaded_once", "user")
def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {}
    with serving(good) as endpoint:
        for block in BLOCKS:
            if MINUTES not in block and UNTIL_STOPPED not in block:
                exec(block.replace("http://127.0.0.1:8080/v1", endpoint.url), names)
    assert names["page"].is_file()


@pytest.mark.slow
def test_the_page_of_the_model_runs_from_top_to_bottom_but_for_the_hub(
    corpus: Path, stores: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stores, tmp_path / "stores/msp")
    shutil.copytree(trained.folder, tmp_path / "runs/erc")
    for name, clip in (("calm", "u03"), ("angry", "u04")):
        shutil.copy(corpus.parent / f"audio/{clip}.wav", tmp_path / f"{name}.wav")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/model.md").read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        if "push_to_hub" not in block:
            exec(block, names)
    assert names["same"].shape == (1, 16)
    assert len(blocks) > 4
