"""A valid file, spoilt: bytes, lines and cells flipped, cut, swapped, doubled and replaced by what nobody expects."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

DIGITS = b"9" * 10_000
CELLS = (
    *(b"", b" ", b"nan", b"NaN", b"-inf", b"1e999", b"1e-999", b"true", b"no", b"null", b"~", b"0x" + b"F" * 5_000),
    *(DIGITS, b"-1", b"0", b"7.0000001", b"3,5", b"1_000", b"2024-13-45", b"[1, 2]", b"{}", b'"', b"'", b"\\", b"[[["),
    *(b"../../x.wav", b"/etc/passwd", b"..", b".", b"/", b"~", b"~nobody-of-this-name/x", b"a.wav/../a.wav"),
    *(
        b"\x00",
        b"\n",
        b"\r",
        b"\t",
        b"\xff",
        b"\xe9",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"x" * 200_000,
    ),
    *(
        b'"\\ud800"',
        b"\\u0000",
        b"!!python/object/apply:os.system [true]",
        b"!!binary Zg==",
        b"!!bool maybe",
        b"!!set {a}",
    ),
    *(b"*a", b"&a [*a]", b"<<: *a", b"<<: 3", b"? [a]", b"- 1", b": ", b"#", b"%", b"@", b"`"),
)
ENDLESS = b"x" * 140_000  # beyond the limit of Python's csv reader
WHOLES = (
    b"",
    b"\n",
    b"\x00",
    b"\xef\xbb\xbf",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    DIGITS,
    b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 9)) for c in range(97, 110)),
    b"a: &a {x: 1}\n"
    + b"".join(b"%c: &%c {<<: [%s]}\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 9)) for c in range(97, 110)),
    b"a: &a [*a]\n",
    b"".join(b"k%d: 1\n" % row for row in range(200)),
)


def spoilt(good: bytes, words: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """`good` after one to three mutations; `words` are more that may stand in a cell."""
    one = st.sampled_from(
        [_flip, _cut, _insert, _line_gone, _line_twice, _lines_swapped, _cell, _cell, _cell, _cells_swapped]
    )
    several = st.tuples(st.lists(one, min_size=1, max_size=3), st.randoms(use_true_random=False)).map(
        lambda drawn: _all(good, drawn[0], drawn[1], (*CELLS, *words))
    )
    encoded = st.sampled_from(("utf-16", "utf-16-le", "utf-8-sig")).map(lambda name: good.decode().encode(name))
    ends = st.sampled_from((b"\r\n", b"\r", b"\n\n", b"\x0b")).map(lambda end: good.replace(b"\n", end))
    return st.one_of(several, several, several, several, several, encoded, ends, st.sampled_from(WHOLES))


def _all(content: bytes, mutations: Sequence, random, words: Sequence[bytes]) -> bytes:
    for mutation in mutations:
        content = mutation(content or b"\n", random, words)
    return content


def _flip(content: bytes, random, words: Sequence[bytes]) -> bytes:
    at = random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def _cut(content: bytes, random, words: Sequence[bytes]) -> bytes:
    return content[: random.randrange(len(content))]


def _insert(content: bytes, random, words: Sequence[bytes]) -> bytes:
    at = random.randrange(len(content))
    return content[:at] + random.choice(words) + content[at:]


def _line_gone(content: bytes, random, words: Sequence[bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    return b"".join(lines)


def _line_twice(content: bytes, random, words: Sequence[bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(random.randrange(len(lines)), random.choice(lines))
    return b"".join(lines)


def _lines_swapped(content: bytes, random, words: Sequence[bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    random.shuffle(lines)
    return b"".join(lines)


def _cell(content: bytes, random, words: Sequence[bytes]) -> bytes:
    lines, line, cells, cell = _some_cell(content, random)
    cells[cell] = random.choice(words)
    return _joined(lines, line, cells)


def _cells_swapped(content: bytes, random, words: Sequence[bytes]) -> bytes:
    lines, line, cells, cell = _some_cell(content, random)
    other = random.randrange(len(cells))
    cells[cell], cells[other] = cells[other], cells[cell]
    return _joined(lines, line, cells)


def _some_cell(content: bytes, random) -> tuple[list[bytes], int, list[bytes], int]:
    """Cells are what lies between commas, colons, tabs, semicolons and brackets, whatever the format."""
    lines = content.splitlines(keepends=True)
    line = random.randrange(len(lines))
    text = lines[line]
    cells, start = [], 0
    for place in range(len(text)):
        if text[place : place + 1] in (b",", b":", b"\t", b";", b"[", b"]", b"\n"):
            cells += [text[start:place], text[place : place + 1]]
            start = place + 1
    cells.append(text[start:])
    return lines, line, cells, random.randrange(0, len(cells), 2)


def _joined(lines: list[bytes], line: int, cells: list[bytes]) -> bytes:
    return b"".join([*lines[:line], *cells, *lines[line + 1 :]])
