"""Which format a file is in: media type and family, from its name and its first bytes.

    text, markdown, html, json, jsonl, table, code   read as text, each in its way
    no_text                                          a document without a reader here (PDF, office): kept, not searched
    blob                                             images, archives, programs: kept as they are

The name decides, unless the first bytes contradict it. A name that says nothing gives `UNKNOWN`: text if it can be
decoded. Own tables rather than the `mimetypes` module, which reads files of the machine and so gives another answer on
each; types follow IANA where there is one, else `text/x-<language>`, which `search.outline` takes for source code.

Called by: `extraction`, `readers`. Pure.

Sources: IANA media types; RFC 9512 (YAML), RFC 9239 (JavaScript), RFC 7763 (Markdown), RFC 4180 (CSV).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

SNIFFED_BYTES: Final = 4096
"""Of a file, enough to know its format."""

_MARKUP_BYTES: Final = 512
"""Where markup has to begin."""

Family = Literal["text", "markdown", "html", "json", "jsonl", "table", "code", "no_text", "blob", "unknown"]

OCTETS: Final = "application/octet-stream"


class Format(NamedTuple):
    """A media type, and how it is read."""

    mime_type: str
    family: Family


UNKNOWN: Final = Format("text/plain", "unknown")

_TABLE: Final = """
text      text/plain                       txt text log lst
text      text/x-rst                       rst rest
text      text/x-tex                       tex latex sty
text      text/x-org                       org
text      text/asciidoc                    adoc asciidoc
text      application/xml                  xml xsd xsl xslt rss atom wsdl plist
text      image/svg+xml                    svg
text      application/yaml                 yaml yml
text      application/toml                 toml
text      text/x-ini                       ini cfg conf properties env editorconfig
text      text/x-diff                      diff patch
text      text/css                         css scss sass less
text      application/x-subrip             srt
text      text/vtt                         vtt
text      message/rfc822                   eml
markdown  text/markdown                    md markdown mdown mkd mdx
html      text/html                        html htm
html      application/xhtml+xml            xhtml xht
json      application/json                 json geojson jsonld webmanifest ipynb har
jsonl     application/jsonl                jsonl ndjson jsonlines
table     text/csv                         csv
table     text/tab-separated-values        tsv tab
code      text/x-python                    py pyi pyw pyx
code      text/javascript                  js mjs cjs jsx
code      application/typescript           ts mts cts tsx
code      text/x-c                         c h
code      text/x-c++                       cc cpp cxx hh hpp hxx ipp
code      text/x-csharp                    cs
code      text/x-java                      java
code      text/x-kotlin                    kt kts
code      text/x-scala                     scala sc
code      text/x-groovy                    groovy gradle
code      text/x-go                        go
code      text/x-rust                      rs
code      text/x-swift                     swift
code      text/x-objective-c               m mm
code      text/x-dart                      dart
code      text/x-php                       php phtml
code      text/x-ruby                      rb rake gemspec
code      text/x-perl                      pl pm
code      text/x-lua                       lua
code      text/x-r                         r
code      text/x-julia                     jl
code      text/x-elixir                    ex exs
code      text/x-erlang                    erl hrl
code      text/x-haskell                   hs lhs
code      text/x-ocaml                     ml mli
code      text/x-fsharp                    fs fsi fsx
code      text/x-clojure                   clj cljs cljc edn
code      text/x-lisp                      lisp lsp el scm rkt
code      text/x-zig                       zig
code      text/x-nim                       nim
code      text/x-pascal                    pas pp dpr
code      text/x-fortran                   f f90 f95 for
code      text/x-asm                       asm s
code      text/x-vb                        vb vbs bas
code      text/x-sql                       sql ddl
code      application/x-sh                 sh bash zsh ksh fish
code      text/x-powershell                ps1 psm1 psd1
code      text/x-batch                     bat cmd
code      text/x-makefile                  mk mak
code      text/x-cmake                     cmake
code      text/x-protobuf                  proto
code      text/x-graphql                   graphql gql
code      text/x-terraform                 tf tfvars hcl
code      text/x-vue                       vue svelte astro
no_text   application/pdf                  pdf
no_text   application/postscript           ps eps
no_text   application/rtf                  rtf
no_text   application/epub+zip             epub
no_text   application/msword               doc dot
no_text   application/vnd.ms-excel         xls xlt
no_text   application/vnd.ms-powerpoint    ppt pps
no_text   application/vnd.openxmlformats-officedocument.wordprocessingml.document     docx docm
no_text   application/vnd.openxmlformats-officedocument.spreadsheetml.sheet           xlsx xlsm
no_text   application/vnd.openxmlformats-officedocument.presentationml.presentation   pptx pptm
no_text   application/vnd.oasis.opendocument.text          odt
no_text   application/vnd.oasis.opendocument.spreadsheet   ods
no_text   application/vnd.oasis.opendocument.presentation  odp
blob      image/png                        png
blob      image/jpeg                       jpg jpeg
blob      image/gif                        gif
blob      image/webp                       webp
blob      image/avif                       avif
blob      image/bmp                        bmp
blob      image/tiff                       tif tiff
blob      image/vnd.microsoft.icon         ico
blob      audio/mpeg                       mp3
blob      audio/wav                        wav
blob      audio/ogg                        ogg oga opus
blob      audio/flac                       flac
blob      video/mp4                        mp4 m4v
blob      video/webm                       webm
blob      video/x-matroska                 mkv
blob      font/woff2                       woff2
blob      font/woff                        woff
blob      font/ttf                         ttf
blob      application/zip                  zip whl
blob      application/java-archive         jar
blob      application/gzip                 gz tgz
blob      application/x-tar                tar
blob      application/x-xz                 xz
blob      application/x-bzip2              bz2
blob      application/zstd                 zst
blob      application/x-7z-compressed      7z
blob      application/vnd.sqlite3          sqlite sqlite3 db
blob      application/wasm                 wasm
blob      application/octet-stream         bin exe dll so dylib o a pyc pyd class pickle pkl npy parquet
"""

_BY_ENDING: Final = {
    ending: Format(columns[1], columns[0])  # type: ignore[arg-type]
    for columns in map(str.split, _TABLE.strip().splitlines())
    for ending in columns[2:]
}

_BY_NAME: Final = {
    "makefile": Format("text/x-makefile", "code"),
    "gnumakefile": Format("text/x-makefile", "code"),
    "justfile": Format("text/x-makefile", "code"),
    "dockerfile": Format("text/x-dockerfile", "code"),
    "containerfile": Format("text/x-dockerfile", "code"),
    "jenkinsfile": Format("text/x-groovy", "code"),
    "gemfile": Format("text/x-ruby", "code"),
    "rakefile": Format("text/x-ruby", "code"),
    "cmakelists.txt": Format("text/x-cmake", "code"),
}

_BY_FIRST_BYTES: Final = (
    (b"%PDF-", Format("application/pdf", "no_text")),
    (b"{\\rtf", Format("application/rtf", "no_text")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format("application/x-ole-storage", "no_text")),
    (b"PK\x03\x04", Format("application/zip", "blob")),
    (b"\x89PNG\r\n\x1a\n", Format("image/png", "blob")),
    (b"\xff\xd8\xff", Format("image/jpeg", "blob")),
    (b"\x1f\x8b", Format("application/gzip", "blob")),
    (b"\xfd7zXZ\x00", Format("application/x-xz", "blob")),
    (b"\x7fELF", Format(OCTETS, "blob")),
    (b"SQLite format 3\x00", Format("application/vnd.sqlite3", "blob")),
)


def format_of(name: str, first: bytes) -> Format:
    """Return the format of a file called `name` (its last part counts) whose first bytes are `first`."""
    named = _by_name(name.rpartition("/")[2].lower())
    if named.family in ("no_text", "blob"):
        return named
    for beginning, found in _BY_FIRST_BYTES:
        if first.startswith(beginning):
            return found
    return _sniffed(first) if named is UNKNOWN else named


def _by_name(name: str) -> Format:
    exact = _BY_NAME.get(name) or (_BY_NAME["dockerfile"] if name.startswith("dockerfile.") else None)
    stem, dot, ending = name.rpartition(".")
    return exact or (_BY_ENDING.get(ending, UNKNOWN) if dot and (stem or ending) else UNKNOWN)


def _sniffed(first: bytes) -> Format:
    """A file whose name says nothing: only what is certain at the very beginning counts."""
    start = first[:_MARKUP_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return Format("text/html", "html")
    if start.startswith(b"<?xml"):
        return Format("application/xml", "text")
    if start.startswith(b"#!"):
        line = start.partition(b"\n")[0]
        return Format("text/x-python", "code") if b"python" in line else Format("application/x-sh", "code")
    return UNKNOWN
