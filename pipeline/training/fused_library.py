"""`fused_step.cpp`, compiled for this CPU and PyTorch on first use and kept in the user's cache folder.

Not by torch.utils.cpp_extension: that needs ninja and builds against Python and all of ATen, some 40 s; this takes 3.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from cache.disk import make_folder, write_atomic
from cache.errors import EmotionRankError
from pipeline.core.files import cache_folder

SOURCE = Path(__file__).with_name("fused_step.cpp")
COMPILER = "CXX"  # of the environment; else c++
_FLAGS = ["-std=c++20", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
_COMPILE_SECONDS, _DIGEST_BYTES = 120.0, 16


class Unavailable(Exception):
    """Why the fused step cannot be used here."""


@functools.cache
def load_library() -> ctypes.CDLL:
    """The source, compiled for this CPU and PyTorch; kept in the user's cache folder. Raises Unavailable."""
    folder = cache_folder()
    kept = folder / "compiled" / f"{_build_name()}.so" if folder else None
    contents = _read_kept(kept)
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "fused_step.so"
        if contents is not None:
            write_atomic(built, [contents])
        else:
            _compile(built)
            if kept is not None:
                _keep(kept, built.read_bytes())
        try:
            return ctypes.CDLL(str(built))
        except OSError as error:
            raise Unavailable(f"what was compiled cannot be loaded ({error})") from None


def _compile(built: Path) -> None:
    torch_folder = Path(torch.__file__).parent
    compiler = shlex.split(os.environ.get(COMPILER) or "c++")
    paths = [f"-I{torch_folder / 'include'}", str(SOURCE), f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    try:
        command = [*compiler, *_FLAGS, *paths, "-o", str(built)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
    except OSError as error:
        reason = f"{compiler[0]}: {error.strerror}"
        raise Unavailable(f"no C++ compiler ({reason}); install one, or name it in {COMPILER}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{compiler[0]} took more than {_COMPILE_SECONDS:g} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or [f"exit {error.returncode}"]
        raise Unavailable(f"{compiler[0]} could not compile it ({lines[0][:200]})") from None


def _build_name() -> str:
    """Of all that decides what is compiled: the source, the flags, PyTorch and the CPU."""
    parts = [SOURCE.read_text(), *_FLAGS, torch.__version__, platform.machine(), os.environ.get(COMPILER, "")]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        parts += [line for line in lines if line.startswith(("vendor_id", "model name", "flags", "Features"))]
    return _digest("\n".join(parts).encode()).hex()


def _digest(contents: bytes) -> bytes:
    return hashlib.blake2b(contents, digest_size=_DIGEST_BYTES).digest()


def _read_kept(path: Path | None) -> bytes | None:
    """What was compiled before, after its digest; None where there is nothing whole."""
    try:
        raw = path.read_bytes() if path is not None else b""
    except OSError:
        return None
    contents = raw[_DIGEST_BYTES:]
    return contents if raw and raw[:_DIGEST_BYTES] == _digest(contents) else None


def _keep(path: Path, contents: bytes) -> None:
    with suppress(EmotionRankError):  # a folder that cannot be written costs the next run some seconds
        make_folder(path.parent)
        write_atomic(path, [_digest(contents), contents])
