"""Encodings: what is text, in which encoding, and that nothing at all makes decoding fail."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.ingest.encoding import REPLACEMENT, SAMPLE_BYTES, Decoded, decode

RUSSIAN = "Сервер отвечает на запросы, пока клиент ждёт; отмена прекращает работу немедленно. Это правило проверено."
FRENCH = "Le café est prêt à être servi, voilà; l'élève a reçu «une réponse» – bientôt."
GERMAN = "Größe, Länge und Höhe der Straße sind für später."


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed_and_is_no_text(mark: str) -> None:
    found = decode(RUSSIAN.encode(mark))
    assert found is not None
    assert (found.text, found.errors) == (RUSSIAN, 0)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["plain words, and more of them\n", RUSSIAN, FRENCH])
def test_utf_16_is_seen_without_a_mark(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == Decoded(text, encoding, 0)


@pytest.mark.parametrize("text", ["", "plain", RUSSIAN, FRENCH, "日本語のテキスト", "🎈"])
def test_utf_8_is_utf_8(text: str) -> None:
    assert decode(text.encode()) == Decoded(text, "utf-8", 0)


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "cp866"])
@pytest.mark.parametrize("text", [RUSSIAN, RUSSIAN.upper(), "Ошибка: файл не найден\n"])
def test_russian_is_seen_in_its_old_encodings(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == Decoded(text, encoding, 0)


@pytest.mark.parametrize("text", [FRENCH, GERMAN, "naïve", "“quoted” – 50 €"])
def test_western_text_is_windows_1252(text: str) -> None:
    assert decode(text.encode("cp1252")) == Decoded(text, "cp1252", 0)


def test_bytes_that_windows_1252_does_not_have_are_latin_1() -> None:
    assert decode(b"caf\xe9 \x81") == Decoded("caf\xe9 \x81", "latin-1", 0)


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        (b'<meta charset="koi8-r">' + "да".encode("koi8-r"), "koi8-r", "да"),
        (b'<?xml version="1.0" encoding="windows-1251"?>' + "да".encode("cp1251"), "windows-1251", "да"),
        (b"# -*- coding: shift_jis -*-\n" + "日本".encode("shift_jis"), "shift_jis", "日本"),
        (b"charset=iso-8859-2 " + "łódź".encode("iso-8859-2"), "iso-8859-2", "łódź"),
    ],
)
def test_an_encoding_that_the_text_names_is_believed_when_it_fits(data: bytes, encoding: str, text: str) -> None:
    found = decode(data)
    assert found is not None
    assert (found.encoding, found.errors) == (encoding, 0)
    assert found.text.endswith(text)


@pytest.mark.parametrize("name", ["rot13", "zip", "hex", "idna", "utf-7", "undefined", "punycode", "shift_jis"])
def test_an_encoding_that_is_none_or_does_not_fit_is_not_believed(name: str) -> None:
    found = decode(f"charset={name} ".encode() + b"caf\xe9\xa0 \xff\xfd")
    assert found is not None
    assert found.encoding == "cp1252"


def test_broken_utf_8_is_replaced_and_counted() -> None:
    data = RUSSIAN.encode()
    broken = data[:21] + b"\xff" + data[22:60] + b"\xc3(" + data[60:]
    found = decode(broken)
    assert found is not None
    assert found.encoding == "utf-8"
    assert found.errors == found.text.count(REPLACEMENT) >= 2


def test_a_replacement_character_that_was_meant_is_no_error() -> None:
    assert decode(f"{RUSSIAN} {REPLACEMENT}".encode()) == Decoded(f"{RUSSIAN} {REPLACEMENT}", "utf-8", 0)


def test_text_cut_off_within_a_letter_is_still_utf_8() -> None:
    found = decode(RUSSIAN.encode()[:-2])
    assert found is not None
    assert (found.encoding, found.errors) == ("utf-8", 1)


def test_a_broken_place_far_behind_the_sample_is_replaced() -> None:
    found = decode(RUSSIAN.encode() * (SAMPLE_BYTES // 100) + b"\xff")
    assert found is not None
    assert (found.encoding, found.errors) == ("utf-8", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"text with a \x00 byte",
        b"\x00" * 100,
        bytes(range(256)),
        b"a\x00b\x00\x00c",
        b"\x7fELF\x02\x01\x01\x00",
        random.Random(1).randbytes(5000),
        b"\x01\x02\x03 controls \x04\x05",
        b"",
    ],
)
def test_nul_bytes_and_many_control_characters_are_binary(data: bytes) -> None:
    assert decode(data) == (Decoded("", "utf-8", 0) if data == b"" else None)


def test_terminal_colours_and_page_breaks_are_still_text() -> None:
    assert decode(b"\x1b[31mred\x1b[0m page one\x0cpage two\x08") is not None


def test_line_ends_become_plain() -> None:
    assert decode(b"a\r\nb\rc\n\r\n") == Decoded("a\nb\nc\n\n", "utf-8", 0)


@given(st.binary(max_size=400))
def test_whatever_the_bytes_are_text_comes_out_or_nothing(data: bytes) -> None:
    found = decode(data)
    if found is not None:
        found.text.encode()
        assert found.errors <= len(data)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_what_was_written_as_utf_8_comes_back(text: str) -> None:
    found = decode(text.encode())
    assert found is not None
    assert found.text == text.removeprefix("\ufeff")


def test_a_large_file_costs_little_more_than_its_decoding() -> None:
    began = time.perf_counter()
    decode(FRENCH.encode("cp1252") * 50_000)
    assert time.perf_counter() - began < 5
