"""A process with torch and transformers loaded, which forks for every command: a page's commands start at once.

    python -m tests.docs.warm SOCKET

A message is JSON {words, cwd, env} and the three standard streams; the answer is the exit code. `words` is one of our
commands with its options, `python -c CODE`, `python -m MODULE ...`, or `session`: blocks of Python from stdin (each a
line of JSON), run one after the other in one namespace; each is answered by a line.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path

from tests.docs.tables import DEMO_UTTERANCES, QUICK

COMMANDS = {
    path.stem.replace("_", "-"): f"pipeline.commands.{path.stem}"
    for path in (Path(__file__).resolve().parents[2] / "pipeline/commands").glob("*_*.py")
    if "def main(" in path.read_text(encoding="utf-8") and not path.stem.startswith("_")
}
_LOADED = ("torch", "transformers", "torchaudio", "scipy.stats", "sklearn", "matplotlib.figure", "optuna", "openai")


def quicken() -> None:
    """Lay QUICK on the configs' defaults, and on those that hold one as their own default."""
    import pipeline.core.config as config
    import pipeline.data.captions.llm.config as writing
    import pipeline.experiments.demo.demo as demo

    for (model, field), value in QUICK.items():
        getattr(config, model).model_fields[field].default = value
        getattr(config, model).model_rebuild(force=True)
    for holder in (config.ExtractConfig, writing.WriteConfig):
        holder.model_fields["captions"].default = config.CaptionsConfig()
        holder.model_rebuild(force=True)
    demo.run_demo.__kwdefaults__["utterances"] = DEMO_UTTERANCES


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in (
        *_LOADED,
        "pipeline.extraction.extract",
        "pipeline.training.train",
        "pipeline.inference.model",
        *COMMANDS.values(),
    ):
        import_module(name)
    quicken()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(sys.argv[1])
    server.listen()
    server.settimeout(2)
    parent = os.getppid()
    print("ready", flush=True)
    while os.getppid() == parent:  # tests that were killed leave nothing behind
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            server.close()
            _answer(connection)
            os._exit(0)
        connection.close()


def _answer(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    asked = json.loads(message)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        _become(asked["words"], asked["cwd"], asked["env"])
    _, status = os.waitpid(child, 0)
    connection.send(str(os.waitstatus_to_exitcode(status) % 256).encode())


def _become(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Run the command in this process and end it, as an interpreter of its own would."""
    code: object = 0
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        _run(words)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - told, as an interpreter would
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _run(words: list[str]) -> None:
    name, *rest = words
    if name in COMMANDS:
        sys.argv = words
        import_module(COMMANDS[name]).main(prog_name=name)
    elif name == "session":
        _session()
    elif rest[:1] == ["-c"]:
        sys.argv = rest
        exec(compile(rest[1], "-c", "exec"), {"__name__": "__main__"})
    elif rest[:1] == ["-m"]:
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        runpy.run_path(rest[0], run_name="__main__")


def _session() -> None:
    sys.path.insert(0, os.getcwd())
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line in sys.stdin:
        block = json.loads(line)
        failed = ""
        try:
            exec(compile("\n" * (block["line"] - 1) + block["text"], block["page"], "exec"), namespace)
        except BaseException:  # noqa: BLE001 - the page's, told to whoever asked
            failed = traceback.format_exc()
        sys.stderr.flush()
        print("\N{END OF TRANSMISSION}" + json.dumps(failed), flush=True)


if __name__ == "__main__":
    main()
