"""Filters as words of a command line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.config import Limits
from mcpd.errors import InvalidParams
from mcpd.search.filter_options import parse_filter_option, parse_filter_options
from mcpd.search.query import parse


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        (["tags=a"], {"tags": ["a"]}),
        (["tags=a", "tags=b", "mimeType=text/plain"], {"tags": ["a", "b"], "mimeType": ["text/plain"]}),
        (["tags=2026"], {"tags": ["2026"]}),
        (["metadata.year=1962"], {"metadata.year": [1962, "1962"]}),
        (["metadata.done=true"], {"metadata.done": [True, "true"]}),
        (['metadata.year="1962"'], {"metadata.year": ["1962"]}),
        (["metadata.name = Ada L."], {"metadata.name": ["Ada L."]}),
        (["metadata.x=null"], {"metadata.x": ["null"]}),
        (["metadata.eq=a=b"], {"metadata.eq": ["a=b"]}),
        (["metadata.x=*"], {"metadata.x": {"exists": True}}),
        (["uri=docs:///a/*"], {"uri": {"prefix": "docs:///a/"}}),
        (["created>=2026-01-01", "created<2027-01-01"], {"created": {"gte": "2026-01-01", "lt": "2027-01-01"}}),
        (["metadata.n>1", "metadata.n<=2.5"], {"metadata.n": {"gt": 1, "lte": 2.5}}),
    ],
)
def test_options_become_the_filters_of_the_grammar(options: list[str], filters: dict[str, Any]) -> None:
    assert parse_filter_options(options) == filters
    parse({"filters": filters}, limits=Limits())


@pytest.mark.parametrize(
    "options",
    [["tags"], ["=x"], [""], ["tags=a", "tags=*"], ["metadata.n>1", "metadata.n>2"], ["metadata.n>1", "metadata.n=2"]],
)
def test_what_is_no_filter_or_does_not_fit_the_others_is_refused(options: list[str]) -> None:
    with pytest.raises(InvalidParams, match="filter"):
        parse_filter_options(options)


@given(st.text())
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        field, condition = parse_filter_option(text)
    except InvalidParams:
        return
    assert field
    assert isinstance(condition, (list, dict))
