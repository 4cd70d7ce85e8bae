"""The schema in the cluster: which version the indices have, and how they are made.

The aliases lead to the indices of one generation (`indices.Generation`); whoever reads or writes keeps the names that
it found, and asks again when they are gone. Indices are created with their aliases, `metadata` last, so that a
generation is there as a whole or not at all; several processes may do so at once.

Called by: `documents`, `storage.open`. Deliberately not yet: a second version. Going from one to the next while others
write needs both generations side by side; `generation` and `current` are what that will be built on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Elasticsearch, Missing, Refused
from mcpd.storage.documents import SchemaState, StorageError
from mcpd.storage.elasticsearch import analysis, indices
from mcpd.storage.elasticsearch.errors import NO_INDICES, translated
from mcpd.storage.elasticsearch.indices import NAMES, VERSION, Generation, alias

_EXISTS: Final = "resource_already_exists_exception"
_NO_SUCH_FILTER: Final = 400


async def current(client: Elasticsearch, prefix: str) -> Generation | None:
    """Return the generation that the aliases lead to, None when there is none.

    Raises: StorageError, ElasticsearchError.
    """
    names = [alias(prefix, name) for name in NAMES]
    try:
        found: dict[str, Any] = (await client.perform(api.get_index(*names))).json()
    except Missing:
        return None
    metadata, fulltext, vector = (_named(found, name) for name in names)
    return Generation(metadata, fulltext, vector, _version(found, names[0]))


def _named(found: Mapping[str, Any], name: str) -> str:
    led = [index for index, described in found.items() if name in described["aliases"]]
    if len(led) != 1:
        raise StorageError(f"In Elasticsearch, {name} has to be the alias of one index; it leads to {led or 'none'}")
    return led[0]


def _version(found: Mapping[str, Any], name: str) -> int:
    described = found[_named(found, name)]["mappings"].get("_meta", {})
    try:
        return int(described["mcpd"]["schema"])
    except (KeyError, TypeError, ValueError):
        raise StorageError(f"The index {name} is not one of mcpd: choose another elasticsearch.index_prefix") from None


def usable(found: Generation | None, prefix: str) -> Generation:
    """Return the generation, if this mcpd can work with it. Raises: StorageError."""
    if found is None:
        raise StorageError(NO_INDICES.format(error=f"{alias(prefix, '*')}"))
    if found.version != VERSION:
        raise StorageError(
            f"The indices {alias(prefix, '*')} have schema {found.version}, and this mcpd works with {VERSION}"
        )
    return found


async def create(client: Elasticsearch, prefix: str, options: Mapping[str, Any]) -> Generation:
    """Make the indices that are not there yet. Raises: ElasticsearchError."""
    chosen = await _filters(client)
    names = indices.generation(prefix)
    for name in ("vector", "fulltext", "metadata"):
        try:
            await client.perform(api.create_index(getattr(names, name), indices.body(prefix, name, chosen, options)))
        except Refused as error:
            if error.kind != _EXISTS:
                raise
    return names


async def _filters(client: Elasticsearch) -> dict[str, analysis.Filter]:
    """Return for each language the first filter that the cluster has."""
    chosen: dict[str, analysis.Filter] = {}
    for language, chain in analysis.CHAINS.items():
        for one in chain:
            try:
                await client.perform(api.analyze(analysis.trial(one)))
            except Refused as error:
                if error.status != _NO_SUCH_FILTER and error.status < 500:
                    raise
                continue
            chosen[language] = one
            break
    return chosen


class ElasticsearchSchema:
    """Implements `Schema` for the indices with `prefix`. `open_client` gives a client for each question."""

    def __init__(
        self,
        open_client: Callable[[], AbstractAsyncContextManager[Elasticsearch]],
        prefix: str,
        options: Mapping[str, Any],
    ) -> None:
        self._open_client = open_client
        self._prefix = prefix
        self._options = options

    async def status(self) -> SchemaState:
        """See `Schema`."""
        with translated():
            async with self._open_client() as client:
                return self._state(await current(client, self._prefix))

    async def up(self, target: int | None = None) -> SchemaState:
        """See `Schema`."""
        self._check(VERSION if target is None else target)
        with translated():
            async with self._open_client() as client:
                if await current(client, self._prefix) is None:
                    await create(client, self._prefix, self._options)
                return self._state(usable(await current(client, self._prefix), self._prefix))

    async def down(self, target: int) -> SchemaState:
        """See `Schema`."""
        self._check(target)
        return await self.status()

    def _check(self, target: int) -> None:
        if target != VERSION:
            raise StorageError(f"There is no schema {target}: this mcpd knows {VERSION}")

    def _state(self, found: Generation | None) -> SchemaState:
        place = alias(self._prefix, "*")
        return SchemaState("elasticsearch", place, found is not None, found.version if found else 0, VERSION)
