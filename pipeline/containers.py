"""What a container promises: whether all the audio that its header tells of is in the file.

libsndfile reads a file that was cut off as if it were whole. WAV (RIFF, RIFX, RF64, W64), AIFF, CAF, AU and NIST say
how many bytes of audio there are, an OGG stream marks its last page. FLAC and MP3 promise frames: decoding finds those
missing. The rarer formats of libsndfile, and an MP3 without a length of its own, cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

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
