"""HTML to text: what is shown stays, what is not goes, and no page takes more than linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.ingest.hypertext import read_html

PAGE = """<!doctype html>
<html><head><title>Tools &amp; more</title><meta charset="utf-8">
<style>p { color: red }</style><script>if (a < b) document.write("<p>no</p>")</script></head>
<body><!-- <p>no</p> --><h1>The   <em>title</em></h1>
<p>First 1 &lt; 2 paragraph,
with a <a href="x>y" title='>'>link</a>.<p>Second<br>line
<h2 class=a>Part</h2><ul><li>one</li><li>two</ul>
<table><thead><tr><th>a<th>b</tr></thead><tr><td>1</td><td>2</td></tr></table>
<pre>def f():
    return 1

print(f())</pre>
<template><p>no</p></template><svg><text>no</text></svg>
</body></html>
"""

TEXT = """# The title

First 1 < 2 paragraph, with a link.

Second
line

## Part

- one
- two

a | b
1 | 2

def f():
    return 1

print(f())"""


def test_a_page_becomes_title_and_text() -> None:
    assert read_html(PAGE) == ("Tools & more", TEXT)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"),
        ("a <b>bold</b> word", "a bold word"),
        ("in<b>side</b>", "inside"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a<!-- x > y -->b", "ab"),
        ("a<!-- never closed <p>b", "a"),
        ("a<script>never closed", "a"),
        ("a<SCRIPT>x</script >b", "ab"),
        ("a<script>'</scripts>'</script>b", "ab"),
        ("a<style/>b", "ab"),
        ("<p title='a\">b</p>c'>d</p>", "d"),
        ('<p title="never closed>a</p>b', "a\n\nb"),
        ("a <", "a <"),
        ("a <b", "a"),
        ("a </b", "a"),
        ("<?php echo 1 ?>a", "a"),
        ("<![CDATA[x]]>a", "a"),
        ("&copy; &eacute; &#65; &#x42; &nbsp;x", "© é A B x"),
        ("&nosuch; &#; &#99999999999; &#1114112; &amp", "&nosuch; &#; &#99999999999; \ufffd &"),
        ("AT&T &amp;lt;", "AT&T &lt;"),
        ("<h1></h1><h2> </h2>text", "text"),
        ("<h7>x</h7>", "x"),
        ("<ul><li></li><li>a</ul>", "- a"),
        ("<pre>a\n\n  b</pre>", "a\n\n  b"),
        ("<svg/>a<svg><text>b</text></svg>c", "ac"),
        ("", ""),
        ("<p>", ""),
    ],
)
def test_markup_of_every_kind_is_read(source: str, text: str) -> None:
    assert read_html(source).text == text


def test_the_first_title_counts_and_is_bounded() -> None:
    assert read_html("<title> A\n b </title><title>C</title>").title == "A b"
    assert len(read_html(f"<title>{'x' * 1000}</title>").title) == 300
    assert read_html("<TITLE>never closed").title == "never closed"


def test_nesting_has_no_depth() -> None:
    assert read_html("<div>" * 100_000 + "deep" + "</div>" * 100_000).text == "deep"


HOSTILE = [
    "<!--", "<a", "<a '", '<a "', "<b>", "<title>", "<script>", "&", "&#", "<!", "<", "</", "<div>", "<pre>\n", "<li>a",
    "<td> ", "<p>" + " " * 50, "<a b='", "<script></style>", "<title></title>", "<![CDATA[", "&amp", "<svg>", "\t\n ",
]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_no_page_takes_more_than_linear_time(part: str) -> None:
    """Half a megabyte of each, which takes minutes where work grows with the square."""
    began = time.perf_counter()
    read_html(part * (500_000 // len(part)))
    assert time.perf_counter() - began < 10


@given(st.text("<>/!-'\"= abpreh1&#;\n") | st.text())
def test_whatever_the_source_is_text_comes_out(source: str) -> None:
    page = read_html(source)
    assert page.text == page.text.strip("\n")
    assert "\n\n\n\n" not in page.text or "<pre" in source.lower()
