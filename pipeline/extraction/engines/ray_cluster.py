"""Many machines: Ray actors read and encode whole batches, and the caller alone commits rows.

    extract-features msp_podcast --engine ray --out stores/msp

One actor a GPU, or one a CPU core; where nodes join, actors are added. A batch goes out as paths or texts and comes
back as vectors. An actor that dies costs its batches in flight: another does them again. See docs/clusters.md.
Ray is an extra: this module imports it, and the pool of actors, only inside functions.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.disk import make_folder
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import merge, validate
from pipeline.core.errors import UsageError, required_library
from pipeline.core.plugins import BUILT_IN, Kind, find, loaded_files
from pipeline.core.resources import cores
from pipeline.extraction.batching import AudioFile, EncodedBatch, EncodeTask
from pipeline.extraction.encoders.speech import with_precision

log = logging.getLogger(__name__)

PROBE_SECONDS = 10.0
OBJECT_STORE_BYTES = 100_000_000  # of a cluster started here; vectors are small, and /dev/shm may be
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
_HUB = "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"


class RayCluster:
    """An `Engine` of one actor a GPU, or a CPU core, of the cluster that this process is connected to."""

    def __init__(self, config: ExtractConfig, device: torch.device) -> None:
        self.device = device
        self.config = config.model_copy(update={"audio": with_precision(config.audio, device)})
        self._pool: Any = None

    @property
    def workers(self) -> float:
        """The most batches that could be encoded at once so far."""
        return float(self._pool.throughput) if self._pool else 0.0

    def encode_batches(
        self, task: EncodeTask[Any], batches: Sequence[NDArray[np.int64]]
    ) -> Generator[EncodedBatch | None, None, None]:
        """The batches as they come."""
        from pipeline.extraction.engines.ray_pool import ActorConfig, ActorPool

        actor = ActorConfig(
            kind=task.name,
            config=_with_absolute_models(self.config).model_dump_json(),
            device="cpu" if task.name == "acoustic" else str(self.device),  # Praat runs on the CPU alone
            fingerprint=task.encode.encoder.fingerprint(),
            environment={name: os.environ[name] for name in _HUB if name in os.environ},
            plugins=tuple(map(str, loaded_files())),
        )
        self._pool = ActorPool(actor, batches, lambda rows: [_absolute(source) for source in task.sources(rows)])
        yield from self._pool.results()


class RayMessages(io.TextIOBase):
    """A file for what Ray prints, 20 lines and more of its own logs for a dead node; that there is one is logged."""

    def __init__(self, path: Path) -> None:
        self._file: logging.FileHandler | None = None
        self._path, self._lock = path, threading.Lock()

    def write(self, text: str) -> int:
        """Append to the file, which is made for the first text."""
        with self._lock:
            if self._file is None:
                make_folder(self._path.parent)
                self._file = logging.FileHandler(self._path, encoding="utf-8", errors="backslashreplace")
                self._file.terminator = ""
                log.warning(f"ray: what Ray itself prints is in {self._path}")
        self._file.handle(logging.makeLogRecord({"msg": text}))
        return len(text)

    def close(self) -> None:
        """Close the file; what is printed later is lost."""
        if self._file:
            self._file.close()
        super().close()


@contextmanager
def ray_cluster(config: ExtractConfig, device: str = "auto", *, out: Path) -> Iterator[RayCluster]:
    """Connect to the cluster of RAY_ADDRESS, or of `ray start` on this machine, or start one here until the end.

    `device` is the actors': auto takes GPUs where the cluster has any. What Ray prints goes into `out`/ray.log. Raises
    UsageError where there is no Ray, no answer, or no GPU though one is asked for.
    """
    _require_reachable_code(config)
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}", "one device", "auto, cpu or cuda, with Ray", "Ray assigns the GPUs.")
    ray = required_library("ray", "ray", "--engine ray")
    connect = not ray.is_initialized()
    with closing(RayMessages(out / "ray.log")) as messages, redirect_stdout(messages):
        connection = _connect(ray) if connect else "in use by this process"
        try:
            yield RayCluster(config, _device(device, connection))
        finally:
            if connect:
                ray.shutdown()


def _require_reachable_code(config: ExtractConfig) -> None:
    """Raises UsageError for an encoder that no file or package registered: no actor has it."""
    named: dict[Kind, str] = {"audio encoder": config.audio.encoder, "text encoder": config.text.encoder}
    for kind, name in named.items():
        if name not in BUILT_IN[kind] and find(kind, name).registered_by is None:
            found, expected = "registered in this process alone", "a plugin file or an installed package"
            action = "Name its file with --plugin, under one path on all nodes."
            raise UsageError(f"--engine ray: {kind} {name}", found, expected, action)


def _connect(ray: Any) -> str:
    """Connect, or start a cluster of this machine; returns which. Ray's own signal handler is taken out again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless asked
    _probe(os.environ.get("RAY_ADDRESS", ""))
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    size = {"num_cpus": cores(), "object_store_memory": OBJECT_STORE_BYTES}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a tip of older Rays, about the environment of CPU actors
            try:
                ray.init(include_dashboard=False, **size, **_QUIET)
                return "started here"
            except ValueError:  # a running cluster was found, and its size is its own
                ray.init(**_QUIET)
                return "joined"
    except (ValueError, OSError, RuntimeError, ray.exceptions.RayError) as error:  # ConnectionError is an OSError
        raise _no_answer(os.environ.get("RAY_ADDRESS") or "on this machine", error) from None
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _probe(address: str) -> None:
    """Raises UsageError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
        except OSError as error:
            raise _no_answer(address, error) from None


def _no_answer(address: str, error: Exception) -> UsageError:
    found = (str(error).strip().splitlines() or [type(error).__name__])[0]
    action = "Check RAY_ADDRESS, or run `ray stop` to end what is left of a dead cluster."
    return UsageError(f"Ray cluster {address}", found, "a cluster that answers", action)


def _device(requested: str, connection: str) -> torch.device:
    """The actors' device; logs what the cluster has."""
    from pipeline.extraction.engines.ray_pool import nodes

    has_gpus = bool(nodes(gpus=True))
    if requested == "cuda" and not has_gpus:
        raise UsageError("--device cuda", "a Ray cluster without GPUs", "a GPU", "Leave it out.")
    use_gpus = has_gpus and requested != "cpu"
    found = nodes(gpus=use_gpus)
    places, kind = sum(node.actors for node in found), "GPU" if use_gpus else "CPU core"
    actors = f"{places} actor{'s' * (places != 1)} (one {kind} each)"
    log.info(f"ray: cluster {connection}; nodes: {len(found)}, room for {actors}")
    return torch.device("cuda" if use_gpus else "cpu")


def _with_absolute_models(config: ExtractConfig) -> ExtractConfig:
    """`config`, the folders of its checkpoints absolute: an actor's working directory is not the driver's."""
    models = {
        part: {"model": str(Path(settings.model).expanduser().absolute())}
        for part, settings in (("audio", config.audio), ("text", config.text))
        if settings.model and Path(settings.model).expanduser().exists()
    }
    return validate(ExtractConfig, merge(config.model_dump(mode="json"), models), subject="model")


def _absolute(source: Any) -> Any:
    return source._replace(path=source.path.absolute(), mtime=None) if isinstance(source, AudioFile) else source
