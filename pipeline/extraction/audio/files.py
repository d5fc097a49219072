"""An audio file as bytes: regular, stamped, hashed, and whole as its container promises."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

_PIECE_BYTES = 1 << 20
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@contextmanager
def open_audio(path: str | Path) -> Iterator[int]:
    """A handle of the regular file `path`. Raises OSError, ValueError for a path that no file can have.

    What is no file is never read: a pipe is waited for, a device may have no end, and neither can be read twice.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(0, "a folder, not a file")
        if not stat.S_ISREG(mode):
            raise OSError(0, f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
        yield handle
    finally:
        os.close(handle)


def stamp_of(found: os.stat_result) -> tuple[int, int]:
    """(bytes, nanoseconds of the last change): what tells a file from what it was before. Both fit in 64 bits."""
    return found.st_size, max(-(1 << 63), min(found.st_mtime_ns, (1 << 63) - 1))


def digest_of(data: bytes) -> bytes:
    """BLAKE2b-128, the identity of a source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def bytes_of(handle: int, size: int) -> bytes:
    """The first `size` bytes, or those that are there: a file that grows has no end."""
    parts = []
    while size > 0 and (part := os.read(handle, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def digest_of_file(handle: int, size: int) -> bytes:
    """`digest_of` the first `size` bytes, a piece of them in memory."""
    digest = hashlib.blake2b(digest_size=16)
    while size > 0 and (part := os.read(handle, min(size, _PIECE_BYTES))):
        digest.update(part)
        size -= len(part)
    return digest.digest()


At = Callable[[int, int], bytes]  # (place, count) -> the bytes there, fewer at the end
Order = Literal["little", "big"]
# sizes that stand for "not known yet" where a WAV was written to a pipe: most programs, ffmpeg, SoX, arecord
_STREAMED = (0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000)
_PAGE_BYTES = 27 + 255 + 255 * 255  # of an OGG page, at most
_MOST_CHUNKS = 10_000
_NIST_BYTES = 1024


def missing(at: At, size: int) -> str | None:
    """What a file of `size` bytes lacks of the audio that it promises; None where it is whole or does not tell."""
    if at(0, 4) == b"OggS":
        return _without_last_page(at, size)
    promised = _promised(at, size)
    if promised is None:
        return None
    place, count = promised
    there = max(0, size - place)
    return f"{there} of {count} bytes of audio" if there < count else None


def _promised(at: At, size: int) -> tuple[int, int] | None:
    """Where the audio begins and how many bytes of it there should be."""
    head = at(0, 28)
    name, form = head[:4], head[8:12]
    if form == b"WAVE" and name in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return _wav(at, size, "big" if name == b"RIFX" else "little")
    if name == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _found(b"SSND", _chunks(at, size, "big"))
    if name == b"riff" and head[24:28] == b"wave":
        return _found(b"data", _w64_chunks(at, size))
    if name == b"caff":
        return _found(b"data", _caf_chunks(at, size))
    if name in (b".snd", b"dns."):
        return _au(head, "big" if name == b".snd" else "little")
    return _nist(at(0, _NIST_BYTES)) if head.startswith(b"NIST_1A") else None


def _found(wanted: bytes, chunks: Iterator[tuple[bytes, int, int]]) -> tuple[int, int] | None:
    for name, place, count in chunks:
        if name == wanted:
            return place, count
    return None


def _chunks(at: At, size: int, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, bytes) of each chunk of a RIFF or a FORM, padded to even sizes."""
    place = 12
    for _ in range(_MOST_CHUNKS):
        head = at(place, 8)
        if len(head) < 8 or place >= size:
            return
        count = int.from_bytes(head[4:], order)
        yield head[:4], place + 8, count
        place += 8 + count + count % 2


def _wav(at: At, size: int, order: Order) -> tuple[int, int] | None:
    large: int | None = None  # a RF64's size of the audio
    for name, place, count in _chunks(at, size, order):
        if name == b"ds64":
            large = int.from_bytes(at(place + 8, 8), "little")
        elif name == b"data":
            if count == 0xFFFFFFFF and large is not None:
                return place, large
            return None if count in _STREAMED else (place, count)
    return None


def _w64_chunks(at: At, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Sony Wave64: a GUID, whose first four bytes are the name, and a size that counts these 24 bytes."""
    place = 40
    for _ in range(_MOST_CHUNKS):
        head = at(place, 24)
        count = int.from_bytes(head[16:], "little")
        if len(head) < 24 or count < 24 or place >= size:
            return
        yield head[:4], place + 24, count - 24
        place += count + -count % 8


def _caf_chunks(at: At, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Apple's Core Audio Format; a size of -1 is "to the end", and lacks nothing."""
    place = 8
    for _ in range(_MOST_CHUNKS):
        head = at(place, 12)
        count = int.from_bytes(head[4:], "big", signed=True)
        if len(head) < 12 or place >= size:
            return
        yield head[:4], place + 12, count
        if count < 0:
            return
        place += 12 + count


def _au(head: bytes, order: Order) -> tuple[int, int] | None:
    place, count = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    return None if count == 0xFFFFFFFF else (place, count)


def _nist(head: bytes) -> tuple[int, int] | None:
    fields = {name: int(value) for name, value in re.findall(rb"(?m)^(\w+) -i (\d{1,18})$", head)}
    wanted = [fields.get(name) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    if None in wanted or b"shorten" in head:
        return None
    count, channels, width = (number or 0 for number in wanted)
    return _NIST_BYTES, count * channels * width


def _without_last_page(at: At, size: int) -> str | None:
    """An OGG stream ends with a page that is marked as the last and whole."""
    start = max(0, size - 2 * _PAGE_BYTES)
    tail = at(start, 2 * _PAGE_BYTES)
    place = tail.rfind(b"OggS")
    while place > 0 and not (tail[place + 4 : place + 5] == b"\0" and tail[place + 5 : place + 6] < b"\x08"):
        place = tail.rfind(b"OggS", 0, place)  # these letters inside a page
    if place < 0:
        return None  # other bytes than a page's, after the stream: it is not for them to tell
    page = tail[place:]
    lacing = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(lacing) == page[26] and len(page) >= 27 + len(lacing) + sum(lacing)
    if not whole:
        return "the last page of the OGG stream is cut off"
    return None if page[5] & 4 else "the OGG stream has no last page"
