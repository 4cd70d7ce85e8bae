r"""The bytes of one file -> what a document is made of: title, text or blob, media type, metadata.

    markdown   as it is; title from front matter or the first heading; simple front matter goes into the metadata
    html       text with Markdown headings, and so `text/markdown`: a reader must not take text for markup
    json       one value on a line, as written otherwise; too deep, too large or broken: as it is
    jsonl      as it is; letters that are escaped without need are written out, in JSON too, so that they are found
    table      one row on a line: line ends within cells become blanks
    others     as they are

Metadata: `encoding` unless UTF-8, `encodingErrors` (how many places were replaced), `sourceMimeType`, `frontMatter`,
`columns`, `rows`. Line ends are `\n`. PDF and office files are `no_text`: kept and found by name, not by content.

Called by: `readers`, and whoever has a document's bytes. Pure. Deliberately not: chunks, tags, or a URI.

Laws: no input raises or recurses without bound; the text is at most a small multiple of the bytes.
"""

from __future__ import annotations

import csv
import re
import tomllib
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final, Literal

import msgspec

from mcpd.ingest.encoding import Decoded, decode
from mcpd.ingest.formats import OCTETS, SNIFFED_BYTES, Format, format_of
from mcpd.ingest.hypertext import read_html
from mcpd.search.outline import front_matter_end, outline

MAX_TITLE_CHARS: Final = 300
MAX_HEADER_CHARS: Final = 10_000
"""Of the first line of a table, which names its columns."""
MAX_COLUMN_CHARS: Final = 100
MAX_PRETTY_CHARS: Final = 1024 * 1024
"""Larger JSON is left as it is: indented, it could be many times its size."""

MAX_PRETTY_DEPTH: Final = 24
MAX_COLUMNS_ITEMS: Final = 100
MAX_FRONT_MATTER_ITEMS: Final = 50

_SURROGATES: Final = range(0xD800, 0xE000)
_ESCAPE: Final = re.compile(
    r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\u([0-9a-f]{4})|\\.", re.IGNORECASE | re.DOTALL
)
_BRACKET_OR_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SIMPLE: Final = re.compile(r"^([A-Za-z_][\w-]{0,63}):[ \t]{1,8}([^\n]{1,500}?)[ \t]*$", re.MULTILINE)

Kind = Literal["text", "blob", "no_text"]


class Extracted(msgspec.Struct, frozen=True):
    """What a file holds. `text` is set for the kind "text", `blob` for the two others."""

    kind: Kind
    title: str
    mime_type: str
    text: str | None = None
    blob: bytes | None = None
    metadata: dict[str, Any] = {}


class _Titled(msgspec.Struct):
    title: str | None = None
    name: str | None = None


def extract(name: str, data: bytes) -> Extracted:
    """Return what the file called `name` (its last part counts) holds. Raises nothing."""
    name = name.rpartition("/")[2]
    found = format_of(name, data[:SNIFFED_BYTES])
    if found.family == "no_text":
        return Extracted("no_text", name, found.mime_type, blob=data)
    decoded = None if found.family == "blob" else decode(data)
    if decoded is None:
        return Extracted("blob", name, found.mime_type if found.family == "blob" else OCTETS, blob=data)
    title, text, mime_type, metadata = _read(found, decoded.text)
    shown = " ".join(title.split())[:MAX_TITLE_CHARS] or name
    return Extracted("text", shown, mime_type, text=text, metadata=_about(decoded) | metadata)


def _about(decoded: Decoded) -> dict[str, Any]:
    about: dict[str, Any] = {} if decoded.encoding == "utf-8" else {"encoding": decoded.encoding}
    return about | ({"encodingErrors": decoded.errors} if decoded.errors else {})


Read = tuple[str, str, str, dict[str, Any]]
"""Title or nothing, text, media type, metadata."""


def _read(found: Format, text: str) -> Read:
    match found.family:
        case "markdown":
            return _markdown(text, found.mime_type)
        case "html":
            page = read_html(text)
            title = page.title or _first_heading(page.text)
            return title, page.text, "text/markdown", {"sourceMimeType": found.mime_type}
        case "json":
            return _json_title(text), _pretty(text), found.mime_type, {}
        case "jsonl":
            return "", _written_out(text), found.mime_type, {"rows": _lines(text)}
        case "table":
            return _table(text, found.mime_type)
        case _:
            return "", text, found.mime_type, {}


def _lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and text != "")


def _first_heading(text: str) -> str:
    found = next(outline(text, "text/markdown").breaks, None)
    return found.path[-1] if found else ""


def _markdown(text: str, mime_type: str) -> Read:
    end = front_matter_end(text)
    head = _front_matter(text[:end])
    title = head.get("title")
    metadata: dict[str, Any] = {"frontMatter": head} if head else {}
    return title if isinstance(title, str) and title else _first_heading(text), text, mime_type, metadata


def _front_matter(block: str) -> dict[str, Any]:
    """Return what is simple in it: of TOML all plain values, of YAML `key: value` lines and `[a, b]` lists."""
    if block.startswith("+++"):
        try:
            found = tomllib.loads(block.strip("+\n"))
        except (tomllib.TOMLDecodeError, RecursionError):
            return {}
        pairs = [(key, value) for key, value in found.items() if _is_plain(value)]
    else:
        pairs = [(found[1], _scalar(found[2])) for found in _SIMPLE.finditer(block)]
    return dict(pairs[:MAX_FRONT_MATTER_ITEMS])


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _scalar(raw: str) -> str | list[str]:
    if raw.startswith("[") and raw.endswith("]"):
        return [item.strip().strip("\"'") for item in raw[1:-1].split(",") if item.strip()]
    return raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'" else raw


def _json_title(text: str) -> str:
    try:
        found = msgspec.json.decode(text, type=_Titled)
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return found.title or found.name or ""


def _pretty(text: str) -> str:
    if len(text) <= MAX_PRETTY_CHARS and not _deeper(text, MAX_PRETTY_DEPTH):
        with suppress(msgspec.MsgspecError, RecursionError):
            text = msgspec.json.format(text, indent=2)
    return _written_out(text)


def _deeper(text: str, most: int) -> bool:
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > most:
            return True
    return False


def _written_out(text: str) -> str:
    """Write escaped letters as themselves; what JSON must escape, and half a surrogate pair, stays escaped."""
    return _ESCAPE.sub(_letter, text) if "\\u" in text else text


def _letter(found: re.Match[str]) -> str:
    if found[1]:
        return chr(0x10000 + ((int(found[1], 16) - 0xD800) << 10) + int(found[2], 16) - 0xDC00)
    if not found[3]:
        return found[0]
    letter = int(found[3], 16)
    stays = letter < 0x20 or 0x7F <= letter < 0xA0 or letter in _SURROGATES or chr(letter) in '"\\\u2028\u2029'
    return found[0] if stays else chr(letter)


def _table(text: str, mime_type: str) -> Read:
    delimiter = "\t" if mime_type == "text/tab-separated-values" else _delimiter(text)
    text = _rows_on_lines(text, delimiter) if '"' in text else text
    header = next(csv.reader([text.partition("\n")[0][:MAX_HEADER_CHARS]], delimiter=delimiter), [])
    columns = [column.strip()[:MAX_COLUMN_CHARS] for column in header[:MAX_COLUMNS_ITEMS]]
    return "", text, mime_type, {"columns": columns, "rows": max(0, _lines(text) - 1)}


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0][:MAX_HEADER_CHARS]
    return max(",;\t|", key=lambda mark: (header.count(mark), mark == ","))


def _rows_on_lines(text: str, delimiter: str) -> str:
    """Write a table anew when cells hold line ends; one that the reader cannot follow stays as it is."""
    pieces: list[str] = []
    rows = csv.writer(SimpleNamespace(write=pieces.append), delimiter=delimiter, lineterminator="\n")
    lines = (f"{line}\n" for line in text.removesuffix("\n").split("\n"))
    try:
        for row in csv.reader(lines, delimiter=delimiter):
            rows.writerow([" ".join(cell.split("\n")) for cell in row])
    except csv.Error:
        return text
    return "".join(pieces)
