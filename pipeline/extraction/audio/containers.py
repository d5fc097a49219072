"""Whether an audio file is as long as its container says: of a truncated one libsndfile decodes the rest silently.

RIFF (WAV, RF64), AIFF, Sony Wave64, CAF, AU and NIST say how many bytes of audio follow; an OGG stream marks its last
page. By hand, because no library tells this apart from a whole file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

ByteOrder = Literal["little", "big"]
MAX_CHUNKS = 10_000
OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # at most
NIST_BYTES = 1024
# sizes that stand for "not known yet" where a WAV was written to a pipe: most programs, ffmpeg, SoX, arecord
STREAMED_SIZES = (0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000)


@dataclass(frozen=True)
class ChunkFormat:
    """How a container lays out its chunks: a name of four bytes, a size that ends the header, the content."""

    audio: bytes  # name of the chunk that holds the audio
    start: int = 12  # where the first chunk begins
    header_bytes: int = 8
    size_at: int = 4  # where in the header the size begins
    order: ByteOrder = "big"
    signed: bool = False
    size_has_header: bool = False  # whether the size counts the header
    alignment: int = 2  # chunks begin at multiples of so many bytes
    unknown_sizes: tuple[int, ...] = ()  # sizes that say nothing


RIFF = ChunkFormat(b"data", order="little", unknown_sizes=STREAMED_SIZES)
RIFX = ChunkFormat(b"data", unknown_sizes=STREAMED_SIZES)
AIFF = ChunkFormat(b"SSND")
# names of Wave64 are GUIDs, whose first four bytes are the name
WAVE64 = ChunkFormat(b"data", 40, 24, 16, "little", size_has_header=True, alignment=8)
CAF = ChunkFormat(b"data", 8, 12, signed=True, alignment=1)  # a size of -1 is "to the end"


def read_at(handle: int, count: int, place: int) -> bytes:
    """Up to `count` bytes of an open file from `place` on; where there is no pread (Windows) its own place moves."""
    if hasattr(os, "pread"):
        return os.pread(handle, count, place)
    os.lseek(handle, place, os.SEEK_SET)
    return os.read(handle, count)


def missing_audio(handle: int, size: int) -> str | None:
    """What an open file of `size` bytes lacks of the audio that its header promises.

    None where it is whole, or where the container does not tell.
    """
    head = read_at(handle, NIST_BYTES, 0)
    name, form, chunks = head[:4], head[8:12], None
    promised = None  # (place, bytes) of the audio
    if name == b"OggS":
        return _missing_last_page(handle, size)
    if form == b"WAVE" and name in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        chunks = RIFX if name == b"RIFX" else RIFF
    elif name == b"FORM" and form in (b"AIFF", b"AIFC"):
        chunks = AIFF
    elif name == b"riff" and head[24:28] == b"wave":
        chunks = WAVE64
    elif name == b"caff":
        chunks = CAF
    elif name in (b".snd", b"dns."):
        order: ByteOrder = "big" if name == b".snd" else "little"
        place, count = (int.from_bytes(head[start : start + 4], order) for start in (4, 8))
        promised = None if count == 0xFFFFFFFF else (place, count)
    elif head.startswith(b"NIST_1A"):
        promised = _nist_audio(head)
    if chunks is not None:
        promised = _audio_chunk(handle, size, chunks)
    if promised is None:
        return None
    place, count = promised
    present = max(0, size - place)
    return f"{present} of {count} bytes of audio" if present < count else None


def _audio_chunk(handle: int, size: int, form: ChunkFormat) -> tuple[int, int] | None:
    """Where the audio begins and how many bytes the header of its chunk promises; None without such a chunk."""
    place, size64 = form.start, None  # size64: an RF64's size of the audio
    for _ in range(MAX_CHUNKS):
        header = read_at(handle, form.header_bytes, place)
        if len(header) < form.header_bytes or place >= size:
            return None
        count = int.from_bytes(header[form.size_at :], form.order, signed=form.signed)
        if form.size_has_header:
            count -= form.header_bytes
        if count < 0:
            return None
        content = place + form.header_bytes
        if header[:4] == form.audio:
            if count == 0xFFFFFFFF and size64 is not None:
                return content, size64
            return None if count in form.unknown_sizes else (content, count)
        if header[:4] == b"ds64":
            size64 = int.from_bytes(read_at(handle, 8, content + 8), "little")
        place = content + count + -count % form.alignment
    return None


def _nist_audio(head: bytes) -> tuple[int, int] | None:
    fields = {name: int(value) for name, value in re.findall(rb"(?m)^(\w+) -i (\d{1,18})$", head)}
    sizes = [fields.get(name) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    if None in sizes or b"shorten" in head:
        return None
    count, channels, sample_bytes = (number or 0 for number in sizes)
    return NIST_BYTES, count * channels * sample_bytes


def _missing_last_page(handle: int, size: int) -> str | None:
    """An OGG stream ends with a whole page that is marked as the last."""
    tail = read_at(handle, 2 * OGG_PAGE_BYTES, max(0, size - 2 * OGG_PAGE_BYTES))
    place = tail.rfind(b"OggS")
    while place > 0 and not (tail[place + 4 : place + 5] == b"\0" and tail[place + 5 : place + 6] < b"\x08"):
        place = tail.rfind(b"OggS", 0, place)  # these letters stood inside a page
    if place < 0:
        return None  # the stream is followed by other bytes
    page = tail[place:]
    lacing = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(lacing) == page[26] and len(page) >= 27 + len(lacing) + sum(lacing)
    if not whole:
        return "the last page of the OGG stream is cut off"
    return None if page[5] & 4 else "the OGG stream has no last page"
