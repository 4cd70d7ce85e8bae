r"""Bytes -> text, or the finding that they are none.

In this order: a byte order mark; NUL bytes, which are UTF-16 in its pattern or else binary; control characters, too
many of which are binary as well; UTF-8; an encoding that the text itself declares; UTF-8 with a few broken places;
Russian in one of its three old encodings; Windows-1252. What cannot be decoded is replaced by U+FFFD and counted:
broken text never fails.

Called by: `extraction`. Pure. Deliberately not: a guess at languages; only Russian, by the frequency of its letters,
because its text in the wrong encoding is unreadable altogether.

Laws: time is linear, and memory a small multiple, of the bytes; `decode` raises nothing. Line ends become `\n`.

Sources: Unicode 15 section 2.6, 23.8; WHATWG Encoding (windows-1252 for what calls itself latin-1 or ASCII).
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import Final

import msgspec

_DECLARED_BYTES: Final = 1024
"""Where a file names its own encoding, as the WHATWG has browsers look."""

REPLACEMENT: Final = "\ufffd"
SAMPLE_BYTES: Final = 64 * 1024
"""How much is looked at to guess an encoding; what follows must only decode."""

MAX_CONTROLS_SHARE: Final = 0.05
"""More control characters than this among the bytes is no text."""

MIN_SCRIPT_SHARE: Final = 0.6
"""Letters of UTF-16 text that share their upper byte, at least."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS: Final = bytes({*range(0x01, 0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F} - {0x08})
_HIGH: Final = bytes(range(0x80, 0x100))
_LETTERS: Final = bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)) + _HIGH
_DECLARED: Final = re.compile(rb"""(?:charset|encoding|coding)[ \t]{0,8}[=:][ \t]{0,8}["']?([A-Za-z0-9_.:-]{2,40})""")
_KNOWN: Final = re.compile(
    r"(?:utf-?8|(?:x-)?(?:windows|cp)-?125\d|(?:cp|ibm)?866|iso-?8859-?\d{1,2}|latin-?\d|koi8-?[ru]|mac-?cyrillic"
    r"|shift[_-]?jis|sjis|euc-?jp|euc-?kr|gb2312|gbk|gb18030|big5|iso-2022-jp|us-ascii|ascii)\Z",
    re.IGNORECASE,
)
_RUSSIAN: Final = ("cp1251", "koi8-r", "cp866")
_ALPHABET: Final = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"
_PERCENT: Final = "11 8.5 8 7.4 6.7 6.3 5.5 4.7 4.5 4.4 3.5 3.2 3 2.8 2.6 2 1.9 1.7 1.7 1.6 1.6 1.4 1.2 1 .9 .7 .6 .5"
_FREQUENCIES: Final = dict(zip(_ALPHABET, map(float, f"{_PERCENT} .4 .3 .3 0 .1".split()), strict=True))
"""Of the letters of Russian, in percent."""


class Decoded(msgspec.Struct, frozen=True):
    """Text, where it came from, and how many places of it could not be read."""

    text: str
    encoding: str
    errors: int


def decode(data: bytes) -> Decoded | None:
    r"""Return the text in `data`, with `\n` for each line end and without byte order mark; None when it is binary."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    if b"\0" in data:
        wide = _wide(data)
        return _decoded(data, wide) if wide else None
    if len(data) - len(data.translate(None, _CONTROLS)) > MAX_CONTROLS_SHARE * len(data):
        return None
    return _decoded(data, _narrow(data))


def _decoded(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, "replace")
    errors = 0
    if REPLACEMENT in text:
        meant = data.count(REPLACEMENT.encode(encoding)) if encoding.startswith("utf") else 0
        errors = text.count(REPLACEMENT) - meant
    return Decoded(_with_plain_line_ends(text), encoding, max(errors, 0))


def _with_plain_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: NULs on one side only, where one byte (that of the script) is by far the most frequent."""
    sample = data[: SAMPLE_BYTES & ~1]
    even, odd = sample[::2], sample[1::2]
    if len(data) % 2 or (0 in even) == (0 in odd):
        return None
    encoding, upper = ("utf-16-be", even) if 0 in even else ("utf-16-le", odd)
    if max(map(upper.count, range(256))) < MIN_SCRIPT_SHARE * len(upper):
        return None
    text = sample.decode(encoding, "replace")
    strange = sum(1 for letter in text if not (letter.isprintable() or letter.isspace()) or letter == REPLACEMENT)
    return encoding if strange <= len(text) // 100 else None


def _narrow(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _declared(data) or _guessed(data)
    return "utf-8"


def _declared(data: bytes) -> str | None:
    """Return the encoding that the first kilobyte names, when it is one of ours and fits."""
    found = _DECLARED.search(data[:_DECLARED_BYTES])
    name = found[1].decode("ascii").lower() if found else ""
    if not _KNOWN.match(name):
        return None
    name = name.removeprefix("x-")
    if name in ("ascii", "us-ascii", "latin1", "latin-1", "iso-8859-1", "iso8859-1", "utf-8", "utf8"):
        return None
    try:
        codecs.lookup(name)
        data[:SAMPLE_BYTES].decode(name, "strict" if len(data) <= SAMPLE_BYTES else "ignore")
    except (LookupError, UnicodeDecodeError):
        return None
    return name


def _guessed(data: bytes) -> str:
    sample = data[:SAMPLE_BYTES]
    text = sample.decode("utf-8", "replace")
    broken = text.count(REPLACEMENT)
    whole = sum(1 for letter in text if letter > "\x7f") - broken
    if whole > broken:
        return "utf-8"
    letters = len(sample) - len(sample.translate(None, _LETTERS))
    high = len(sample) - len(sample.translate(None, _HIGH))
    if high * 5 > letters * 2 and high > 3:
        best, likeness = max(((name, _russian(sample, name)) for name in _RUSSIAN), key=lambda pair: pair[1])
        if likeness > 4:
            return best
    return "latin-1" if data.translate(None, b"\x81\x8d\x8f\x90\x9d") != data else "cp1252"


def _russian(sample: bytes, encoding: str) -> float:
    """Return how frequent in Russian its letters are on average, in percent: 5 to 6 for Russian, 3 for any letters."""
    text = Counter(letter for letter in sample.decode(encoding, "replace").lower() if letter > "\x7f")
    return sum(_FREQUENCIES.get(letter, -10) * count for letter, count in text.items()) / max(1, text.total())
