"""The main job in a process that is watched by an audit hook; what it did is written down as JSON when it has ended.

    python -m tests.security.watched MANIFEST OUT MODEL RECORD

Stage one and two and the evaluation by their commands, on the embedded encoders, then a text model of transformers out
of the folder MODEL. A call for the network is written down and refused.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType
from typing import Any

QUIET = ("-o", "captions.prompt_variants=1", "-o", "captions.per_utterance=1", "-o", "captions.grid=false")
SHORT = ("--no-report", "-o", "trials=1", "-o", "lists=1", "-o", "pairs=4", "-o", "projections=8")
PATHS = {  # event -> which of its arguments are paths that change
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.copyfile": (1,),
    "shutil.copytree": (1,),
    "shutil.move": (0, 1),
    "shutil.rmtree": (0,),
    "shutil.unpack_archive": (1,),
    "tempfile.mkstemp": (0,),
    "tempfile.mkdtemp": (0,),
    "sqlite3.connect": (0,),
}
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
CODE = {"exec": 0, "compile": 1}  # event -> which argument says where the code came from
SEEN: dict[str, list[str]] = defaultdict(list)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """The hook. It must neither fail nor print."""
    if event == "open" and _writes(arguments):
        _note("written", arguments[0])
    elif event in PATHS:
        for place in PATHS[event]:
            _note("written", arguments[place])
    elif event.startswith(("socket.", "http.client.", "urllib.", "ftplib.", "smtplib.")):
        if event != "socket.__new__":  # a socket that is never connected asks nobody
            SEEN["network"].append(f"{event} {arguments[1:]}")
            raise OSError("no network here")
    elif event in PROCESSES:
        SEEN["processes"].append(f"{arguments[0]}")
    elif event in CODE:
        _note("code", _origin(arguments[CODE[event]]))
    elif event.startswith(("pickle.", "marshal.load")):
        SEEN["unpickled" if event.startswith("pickle.") else "marshalled"].append(_caller())


def _note(kind: str, path: object) -> None:
    if not isinstance(path, int):  # a descriptor was a path when it was opened
        text = os.fsdecode(path) if isinstance(path, bytes | os.PathLike) else str(path)
        SEEN[kind].append(text if text.startswith("<") else os.path.abspath(text))


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return True
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _origin(code: object) -> str:
    """The file that code comes from; for code without one (a dataclass's methods) the file that made it."""
    name = code.co_filename if isinstance(code, CodeType) else str(code)
    return _caller() if name.startswith("<") and not name.startswith("<frozen ") else name


def _caller() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename


def main(manifest: str, out: str, model: str, record: str) -> None:
    sys.addaudithook(watch)
    from pipeline.commands import evaluate_heads, extract_features, train_heads

    stores, run = f"{out}/stores", f"{out}/run"
    extract_features.main([manifest, "--out", stores, *QUIET], standalone_mode=False)
    train_heads.main([stores, "--out", run, "-o", "epochs=1", "-o", "threads=1"], standalone_mode=False)
    evaluate_heads.main([stores, run, *SHORT], standalone_mode=False)

    from pipeline.core.config import TextConfig
    from pipeline.extraction.encoders import load_encoder

    load_encoder("text", TextConfig(encoder="transformers", model=model, pooling="cls"), "cpu").encode(["calm"])
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    seen = {kind: sorted(set(found)) for kind, found in SEEN.items()}
    seen["modules"] = sorted({file for file in files if isinstance(file, str) and os.path.exists(file)})
    Path(record).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
