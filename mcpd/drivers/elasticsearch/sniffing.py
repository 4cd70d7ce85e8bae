"""Which nodes a cluster says it has.

Called by: `client`, with `Options.sniff`. Pure. Deliberately not: when to ask.

Law: nodes are spoken to as the first one was: scheme, trust and credentials are the client's own.
Source: `GET /_nodes/http`; `publish_address` is `IP:PORT` or `NAME/IP:PORT`.
"""

from __future__ import annotations

import msgspec

from mcpd.drivers.elasticsearch_api import Answer, shaped


class _Http(msgspec.Struct):
    publish_address: str = ""


class _Node(msgspec.Struct):
    roles: list[str] = []
    http: _Http = msgspec.field(default_factory=_Http)


class _Nodes(msgspec.Struct):
    nodes: dict[str, _Node] = {}


def urls(answer: Answer, scheme: str) -> list[str]:
    """Return the nodes' URLs; those that are only there to be elected are left out. Raises: Garbled."""
    found = shaped(answer.body, _Nodes).nodes.values()
    return [f"{scheme}://{_host(one.http.publish_address)}" for one in found if _is_asked(one)]


def _is_asked(node: _Node) -> bool:
    return bool(node.http.publish_address) and node.roles != ["master"]


def _host(published: str) -> str:
    name, slash, address = published.partition("/")
    return f"{name}:{address.rpartition(':')[2]}" if slash else published
