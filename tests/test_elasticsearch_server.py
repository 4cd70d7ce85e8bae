"""The server for tests of Elasticsearch works as those tests expect."""

from __future__ import annotations

import pytest

from tests.elasticsearch_server import ElasticsearchServer, fresh_prefix, serving


def test_what_a_test_leaves_is_forgotten_and_prefixes_differ(elasticsearch: ElasticsearchServer) -> None:
    prefix = fresh_prefix()
    assert prefix != fresh_prefix()
    assert elasticsearch.ask("PUT", f"/{prefix}-a/_doc/1?refresh=true", {"k": 1})[0] == 201
    elasticsearch.forget(prefix)
    assert elasticsearch.ask("GET", f"/{prefix}-a/_doc/1")[0] == 404


@pytest.mark.slow
def test_it_comes_back_with_its_data_after_a_failure(elasticsearch: ElasticsearchServer) -> None:
    prefix = fresh_prefix()
    elasticsearch.ask("PUT", f"/{prefix}", {"settings": {"number_of_replicas": 0}})
    elasticsearch.ask("PUT", f"/{prefix}/_doc/1", {"k": 1})
    elasticsearch.kill()
    with pytest.raises(OSError, match="refused"):
        elasticsearch.ask("GET", "/_nodes/_local")
    elasticsearch.start_again()
    elasticsearch.wait_up()
    assert elasticsearch.ask("GET", f"/{prefix}/_doc/1")[1]["_source"] == {"k": 1}
    elasticsearch.forget(prefix)


@pytest.mark.slow
def test_with_security_only_a_user_is_answered() -> None:
    with serving(security=True) as server:
        assert server.ask("GET", "/_cluster/health")[0] == 200
        server.password = ""
        assert server.ask("GET", "/_cluster/health")[0] == 401
