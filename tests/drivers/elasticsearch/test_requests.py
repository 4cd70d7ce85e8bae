"""Requests and answers with a real Elasticsearch: documents, searches, indices, aliases, points in time."""

from __future__ import annotations

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Blocked, Conflict, Elasticsearch, Missing, Refused

WAIT_S = 60.0
MAPPING = {"settings": {"number_of_replicas": 0}, "mappings": {"properties": {"n": {"type": "integer"}}}}


async def test_a_document_is_written_read_and_deleted_at_a_known_version(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        made = api.written(await client.perform(api.put_document(prefix, "a/ä b", {"n": 1}, condition=api.CREATE)))
        found = api.document(await client.perform(api.get_document(prefix, "a/ä b")))
        assert (found.found, found.id, bytes(found.source)) == (True, "a/ä b", b'{"n":1}')
        assert (found.seq_no, found.primary_term) == (made.seq_no, made.primary_term)
        with pytest.raises(Conflict) as twice:
            await client.perform(api.put_document(prefix, "a/ä b", {"n": 2}, condition=api.CREATE))
        assert (twice.value.status, twice.value.kind) == (409, "version_conflict_engine_exception")
        known = api.Condition(found.seq_no, found.primary_term)
        await client.perform(api.put_document(prefix, "a/ä b", {"n": 2}, condition=known, routing=""))
        with pytest.raises(Conflict):
            await client.perform(api.delete_document(prefix, "a/ä b", condition=known))
        assert api.written(await client.perform(api.delete_document(prefix, "a/ä b"))).result == "deleted"
        with pytest.raises(Missing):
            await client.perform(api.get_document(prefix, "a/ä b"))


async def test_an_older_external_version_is_refused(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        await client.perform(api.put_document(prefix, "1", {"n": 1}, condition=api.Condition(external=5)))
        for version in (5, 4):
            with pytest.raises(Conflict):
                await client.perform(api.put_document(prefix, "1", {"n": 2}, condition=api.Condition(external=version)))
        await client.perform(api.put_document(prefix, "1", {"n": 3}, condition=api.Condition(external=6)))


async def test_several_documents_are_read_and_searched_in_one_go(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        await client.perform(api.create_index(prefix, MAPPING))
        for n in range(3):
            await client.perform(api.put_document(prefix, str(n), {"n": n}, refresh="true", routing="r"))
        asked = [{"_id": "2", "routing": "r"}, {"_id": "7", "routing": "r"}]
        documents = api.documents(await client.perform(api.get_documents(prefix, asked)))
        with pytest.raises(Missing, match="index_not_found"):
            api.documents(await client.perform(api.get_documents(f"{prefix}-none", [{"_id": "1"}])))
        assert [one.found for one in documents] == [True, False]
        body = {"query": {"range": {"n": {"gte": 1}}}, "sort": ["n"], "seq_no_primary_term": True}
        found = api.found(await client.perform(api.search([prefix], body)))
        assert [hit.id for hit in found.hits.hits] == ["1", "2"]
        assert found.hits.hits[0].sort == [1]
        assert found.hits.hits[0].seq_no >= 0
        searches: list[tuple[dict[str, str], api.Body]] = [({"index": prefix}, body), ({"index": "missing"}, b"{}")]
        first, second = api.found_many(await client.perform(api.search_many(searches)))
        assert isinstance(first, api.Found)
        assert first.hits.total.value == 2
        assert isinstance(second, Missing)
        assert second.kind == "index_not_found_exception"
        assert (await client.perform(api.count([prefix], {"query": {"match_all": {}}}))).json()["count"] == 3


async def test_a_point_in_time_pages_over_what_was_there_when_it_was_opened(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        for n in range(5):
            await client.perform(api.put_document(prefix, str(n), {"n": n}, refresh="true"))
        pit = api.pit_id(await client.perform(api.open_pit([prefix])))
        await client.perform(api.put_document(prefix, "9", {"n": 9}, refresh="true"))
        seen: list[str] = []
        after: dict[str, object] = {}
        while True:
            body = {"size": 2, "sort": ["n"], "pit": {"id": pit, "keep_alive": "1m"}, **after}
            found = api.found(await client.perform(api.search([], body)))
            if not found.hits.hits:
                break
            seen += [hit.id for hit in found.hits.hits]
            pit, after = found.pit_id, {"search_after": found.hits.hits[-1].sort}
        assert seen == ["0", "1", "2", "3", "4"]
        await client.perform(api.close_pit(pit))
        with pytest.raises(Missing) as closed:
            await client.perform(api.search([], {"pit": {"id": pit}}))
        assert closed.value.kind == "search_context_missing_exception"


async def test_aliases_move_at_once_and_a_blocked_index_says_so(client: Elasticsearch, prefix: str) -> None:
    old, new, alias = f"{prefix}-1", f"{prefix}-2", f"{prefix}-now"
    with trio.fail_after(WAIT_S):
        await client.perform(api.put_template(f"{prefix}-t", {"index_patterns": [f"{prefix}-*"], "template": MAPPING}))
        await client.perform(api.create_index(old, {"aliases": {alias: {"is_write_index": True}}}))
        await client.perform(api.create_index(new, {}))
        await client.perform(api.put_mapping(new, {"_meta": {"v": 2}}))
        await client.perform(api.put_block(old))
        with pytest.raises(Blocked):
            await client.perform(api.put_document(old, "1", {"n": 1}))
        remove = {"remove": {"index": old, "alias": alias, "must_exist": True}}
        add = {"add": {"index": new, "alias": alias, "is_write_index": True}}
        await client.perform(api.update_aliases([remove, add]))
        with pytest.raises(Missing):
            await client.perform(api.update_aliases([remove]))
        assert list((await client.perform(api.get_aliases(alias))).json()) == [new]
        index = (await client.perform(api.get_index(new))).json()[new]
        assert index["mappings"]["properties"] == {"n": {"type": "integer"}}
        await client.perform(api.refresh(new))
        await client.perform(api.delete_index(old))
        await client.perform(api.delete_template(f"{prefix}-t"))


async def test_the_cluster_says_how_it_is_and_what_it_can_analyse(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        assert (await client.perform(api.cluster_health())).json()["number_of_nodes"] == 1
        assert (await client.perform(api.tasks("*search*"))).json() == {"nodes": {}}
        (node,) = (await client.perform(api.nodes_info())).json()["nodes"].values()
        assert node["version"].startswith("8.")
        tokens = (await client.perform(api.analyze({"analyzer": "standard", "text": "two words"}))).json()["tokens"]
        assert len(tokens) == 2
        with pytest.raises(Refused):
            await client.perform(api.analyze({"analyzer": "klingon", "text": "two words"}))


async def test_a_refusal_says_why_and_quotes_no_value_of_a_document(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        await client.perform(api.create_index(prefix, MAPPING))
        with pytest.raises(Refused) as wrong:
            await client.perform(api.put_document(prefix, "1", {"n": "a secret"}))
        assert (wrong.value.status, wrong.value.kind) == (400, "document_parsing_exception")
        assert "secret" not in str(wrong.value)
        assert "[n]" in wrong.value.reason
