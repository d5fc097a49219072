"""The digests of a folder's files: `digests.json`, by which a changed byte in any of them is found before it is used.

    {"digests": {"config.yaml": "5c1e...", "manifest.csv": "09af...", ...}, "of_these": "77b0..."}

A digest is BLAKE2b-128 of a file, of a store's header alone (rows have checksums of their own), or of the digests. Who
changes a listed file deletes the list first and writes it again afterwards, both synced: a list that is there is true
at every instant, and a process killed in between leaves none. A folder without one is read unchecked, with a note.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cache.disk import one_line_failure, remove_synced, translate_os_errors, write_atomic
from cache.errors import StoreCorrupt
from cache.fingerprint import canonical
from cache.header import read_layout

log = logging.getLogger(__name__)

DIGESTS = "digests.json"
_CHUNK_BYTES = 1 << 20
_DIGEST_BYTES = 16
_MAX_BYTES = 1 << 24  # of a list
_OF_STORES = "Restore it, or run extract-features again."


@dataclass(frozen=True)
class FileDigests:
    """The digests of files in `folder`; `action` is what an error advises, `writer` the command that wrote them."""

    folder: Path
    writer: str
    action: str

    def read(self) -> dict[str, str] | None:
        """Digest by name, None where there is no list. Raises StoreCorrupt for a list that is not as it was written."""
        path = self.folder / DIGESTS
        try:
            if not path.exists():
                return None
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("not a file")
            with open(path, "rb") as file:
                contents = file.read(_MAX_BYTES)
            digests = dict(json.loads(contents)["digests"])
            if contents != _encode(digests):
                raise ValueError("changed")
        except FileNotFoundError:  # deleted in between by one who writes
            return None
        except PermissionError as error:
            raise one_line_failure(path, error, "read") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found = "corrupt: the list of digests is not as it was written"
            raise StoreCorrupt(path, found, f"what {self.writer} wrote", self.action) from None
        return digests

    def lists(self, names: Iterable[str]) -> bool:
        """Whether there is a list, of exactly `names`, and all are as listed."""
        digests = self.read()
        return digests is not None and digests.keys() == set(names) and not self._changed(digests, tuple(digests))

    def lists_contents(self, name: str, contents: bytes) -> bool:
        """Whether `contents` are what is listed of the file `name`."""
        return (self.read() or {}).get(name) == _digest(contents)

    def write(self, names: Iterable[str]) -> None:
        """List those of the files `names` that exist."""
        with translate_os_errors(self.folder):
            existing = [name for name in names if (self.folder / name).is_file()]
            digests = {name: digest_file(self.folder / name) for name in existing}
        write_atomic(self.folder / DIGESTS, [_encode(digests)])

    def remove(self) -> None:
        """Delete the list, before a listed file changes."""
        remove_synced(self.folder / DIGESTS)

    @contextmanager
    def rewritten(self, names: Iterable[str]) -> Iterator[None]:
        """A block that changes files: without a list until it has ended well, then with one of `names`."""
        self.remove()
        yield
        self.write(names)

    def check(self, *names: str) -> None:
        """Raises StoreCorrupt where one of `names` (all that are listed, if none is given) is not what is listed.

        What a writer replaces in the meantime is compared with its new list.
        """
        digests = self.read()
        while digests is not None and (changed := self._changed(digests, names or tuple(digests))):
            before, digests = digests, self.read()
            if digests == before:
                action = _OF_STORES if changed.endswith(".h5") else self.action
                raise StoreCorrupt(self.folder / changed, *self._reason(changed), action)

    def changed(self, names: Iterable[str]) -> dict[str, str]:
        """What is wrong with each of `names` that is not as it is listed; the list itself is one of them.

        Raises StoreCorrupt for a store whose header is corrupt.
        """
        try:
            digests = self.read() or {}
        except StoreCorrupt as error:
            return {DIGESTS: error.found}
        listed = [name for name in names if name in digests]
        return {name: self._reason(name)[0] for name in listed if self._changed(digests, (name,))}

    def note_unlisted(self) -> None:
        """Say once that a folder has no list, if so."""
        if not (self.folder / DIGESTS).exists():
            _note(self)

    def _changed(self, digests: dict[str, str], names: tuple[str, ...]) -> str:
        """The first of `names` that is not what is listed."""
        for name in names:
            try:
                if digest_file(self.folder / name) != digests.get(name):
                    return name
            except PermissionError as error:  # of another account, and not corrupt
                raise one_line_failure(self.folder / name, error, "read") from None
            except OSError:
                return name
        return ""

    def _reason(self, name: str) -> tuple[str, str]:
        """What was found and expected. An edit leaves a later time than the list's; a failing disk does not."""
        path, expected = self.folder / name, f"the file that {self.writer} wrote"
        if path.suffix == ".h5":
            return f"not the store that {DIGESTS} lists", "the store that it was written with"
        try:
            if path.stat().st_mtime_ns > (self.folder / DIGESTS).stat().st_mtime_ns:
                return f"modified after {self.writer} wrote it (its modification time is later)", expected
        except OSError as error:
            return f"cannot be read ({error.strerror})", expected
        return "corrupt: its bytes changed, but its modification time did not", expected


def digest_file(path: Path) -> str:
    """BLAKE2b-128 of a file, or of a store's header, in hexadecimal. Raises OSError; StoreCorrupt for such a header."""
    if path.suffix == ".h5":
        return _digest(read_layout(path).header)
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def _digest(contents: bytes) -> str:
    return hashlib.blake2b(contents, digest_size=_DIGEST_BYTES).hexdigest()


def _encode(digests: dict[str, str]) -> bytes:
    """The bytes of the list, which hold its own digest."""
    own = _digest(canonical(digests).encode())
    return (json.dumps({"digests": digests, "of_these": own}, indent=1, sort_keys=True) + "\n").encode()


@cache
def _note(digests: FileDigests) -> None:
    log.info(f"{digests.folder}: written without {DIGESTS}, so its tables are not checked; {digests.writer} adds it")
