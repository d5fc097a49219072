"""A package that cannot be imported is named with the cure, whichever error it ends in; no disk is blamed for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cache.disk import translate_os_errors
from pipeline.commands.common import handle_errors
from pipeline.commands.train_heads import main as train_heads
from pipeline.core.errors import broken_package

WRAPPED = """
import ctypes
def load():  # as torch.ops.load_library
    try:
        ctypes.CDLL("libc10_cuda_absent.so")
    except OSError as error:
        raise OSError("Could not load this library: /site-packages/torchaudio/lib/_torchaudio.so") from error
load()
"""
MISSING = "cannot open shared object file: No such file or directory"


def _ended(body: Callable[[], object]) -> Result:
    @click.command()
    @handle_errors
    def command() -> None:
        body()

    return CliRunner().invoke(command)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a package of a name and a first line before those that are installed."""

    def write(name: str, line: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("from . import inner\n")
        (tmp_path / name / "inner.py").write_text(line)
        for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.syspath_prepend(tmp_path)

    return write


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import ctypes; ctypes.CDLL('libc10_cuda_absent.so')", f"libc10_cuda_absent.so: {MISSING}"),
        (WRAPPED, f"libc10_cuda_absent.so: {MISSING}"),
        (f"raise ImportError('libcudart.so.12: {MISSING}')", f"libcudart.so.12: {MISSING}"),
        (f"raise ImportError('libcudart.so.12: {MISSING}', name='torchaudio.lib')", f"libcudart.so.12: {MISSING}"),
    ],
)
def test_a_package_whose_libraries_do_not_load_is_named(package, tmp_path: Path, line: str, reason: str) -> None:
    package("torchaudio", line)

    def body() -> None:
        with translate_os_errors(tmp_path):
            import torchaudio  # noqa: F401

    result = _ended(body)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: package torchaudio: cannot be imported ({reason}); expected an install that fits. pip install "
        "--force-reinstall torchaudio; docs/installing.md says which fit together.\n"
    )


def test_a_package_that_is_missing_is_named_and_not_the_one_that_asked_for_it(package) -> None:
    package("asking", "import quite_absent")
    said = _ended(lambda: __import__("asking")).stderr
    assert said.startswith("error: package quite_absent: cannot be imported (No module named 'quite_absent'); ")


def test_the_cause_behind_another_packages_error_is_the_one_that_is_named(package) -> None:
    package("lazy", "try:\n    import quite_absent\nexcept ImportError as e:\n    raise ImportError('lazy') from e")
    assert _ended(lambda: __import__("lazy")).stderr.startswith("error: package quite_absent: ")


def test_a_plugin_that_cannot_import_is_named_with_its_line(package, tmp_path: Path) -> None:
    package("torchaudio", "import ctypes; ctypes.CDLL('libc10_cuda_absent.so')")
    (tmp_path / "mine.py").write_text("import math\nimport torchaudio\n")
    said = CliRunner().invoke(train_heads, ["stores", "--plugin", str(tmp_path / "mine.py")]).stderr
    assert f"mine.py: OSError: libc10_cuda_absent.so: {MISSING} (mine.py:2); expected a file that Python" in said


def test_an_import_of_our_own_that_fails_is_not_hidden() -> None:
    def body() -> None:
        from pipeline.core.errors import quite_absent  # noqa: F401

    assert isinstance(_ended(body).exception, ImportError)


def test_no_other_error_is_called_a_packages() -> None:
    assert broken_package(OSError("We could not connect")) is None
    assert broken_package(FileNotFoundError(2, "no such file")) is None
    assert broken_package(ValueError()) is None
