"""The built-in tools' own schemas, in the keywords that clients in use understand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcpd.config import Files, Limits
from mcpd.search.query_schema import input_schema
from mcpd.tools.builtin.files import file_tools
from mcpd.tools.registry import Tool


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def test_built_in_tools_are_listed_without_what_some_client_cannot_take(tmp_path: Path) -> None:
    tools = [Tool(one) for one in file_tools(tmp_path, Files(write=True), Limits())]
    schemas = [tool.entry[key] for tool in tools for key in ("inputSchema", "outputSchema") if key in tool.entry]
    schemas.append(input_schema(Limits()))
    assert len(schemas) >= 6
    for schema in schemas:
        assert "$ref" not in json.dumps(schema)
        for node in nodes(schema):
            if node.get("type") == "array":
                assert isinstance(node["items"], dict)
            if isinstance(node.get("enum"), list):
                assert isinstance(node["type"], str)
