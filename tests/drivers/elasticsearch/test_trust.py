"""Whom the client trusts and as whom it comes: credentials, authorities, fingerprints, the product check."""

from __future__ import annotations

import gc
import hashlib
import json
import ssl
import subprocess
from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Garbled, Missing, Options, Refused, Unreachable, open_elasticsearch
from tests.drivers.elasticsearch.conftest import PRODUCT, error_body
from tests.drivers.elasticsearch.test_client import OK, READ, always
from tests.drivers.elasticsearch.test_cut_and_cancel import cancelled_at, pooled
from tests.drivers.scripted import Answer, Asked, serving
from tests.elasticsearch_server import PASSWORD
from tests.elasticsearch_server import serving as serving_elasticsearch
from tests.needs import need

WAIT_S = 60.0
START_S = 240.0
OPENSEARCH = json.dumps({"version": {"distribution": "opensearch", "number": "2.19.0"}}).encode()


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (Options(), None),
        (Options(api_key="aWQ6a2V5"), "ApiKey aWQ6a2V5"),
        (Options(token="AAEAAWVs"), "Bearer AAEAAWVs"),
        (Options(username="ünd", password="p:w"), f"Basic {b64encode('ünd:p:w'.encode()).decode()}"),
    ],
)
async def test_each_kind_of_credential_is_sent_as_it_has_to_be(options: Options, sent: str | None) -> None:
    async with serving(always(OK)) as server, open_elasticsearch([server.url], options) as client:
        await client.perform(READ)
    assert server.asked[0].headers.get("authorization") == sent


async def test_a_password_in_the_url_is_used_and_never_shown(free_port: int) -> None:
    with trio.fail_after(WAIT_S):
        async with serving(always(OK)) as server:
            url = server.url.replace("//", "//me:s%40cret@")
            async with open_elasticsearch([url]) as client:
                await client.perform(READ)
            assert server.asked[0].headers["authorization"] == f"Basic {b64encode(b'me:s@cret').decode()}"
        async with open_elasticsearch([f"http://me:s%40cret@127.0.0.1:{free_port}"], Options(patience_s=0.1)) as client:
            with pytest.raises(Unreachable) as told:
                await client.perform(READ)
            assert "cret" not in str(told.value) + client.failure
    assert "cret" not in repr(Options(password="s@cret", api_key="cret", token="cret"))


@pytest.mark.parametrize("url", ["localhost:9200", "ftp://h", "http://", "http://h/?q=1", "http://h:x/", "http://h h/"])
async def test_what_is_no_url_of_a_node_is_refused_at_once(url: str) -> None:
    with pytest.raises(Refused):
        async with open_elasticsearch([url]):
            pass


@pytest.mark.parametrize(
    "options",
    [
        Options(api_key="a", token="b"),
        Options(api_key="a\r\nx: y"),
        Options(fingerprint="abc"),
        Options(fingerprint="z" * 64),
        Options(ca_file="/nowhere.pem"),
    ],
)
async def test_options_that_cannot_work_are_refused_at_once(options: Options) -> None:
    with pytest.raises(Refused):
        async with open_elasticsearch(["https://localhost"], options):
            pass
    with pytest.raises(Refused):
        async with open_elasticsearch([]):
            pass


@dataclass
class Certificates:
    """An authority and what it has signed for localhost; `context` shows both, `alone` a certificate of its own."""

    folder: Path

    def fingerprint(self, name: str) -> str:
        der = ssl.PEM_cert_to_DER_cert((self.folder / f"{name}.pem").read_text())
        return hashlib.sha256(der).hexdigest()

    def context(self, chain: str, key: str = "leaf") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{chain}.pem", self.folder / f"{key}.key")
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run([need("openssl"), *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    named = ("-addext", "subjectAltName=DNS:localhost")
    openssl("req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key")
    openssl("req", "-x509", *key, "-subj", "/CN=n1", *named, *signed, "-keyout", "leaf.key", "-out", "leaf.pem")
    openssl("req", "-x509", *key, "-subj", "/CN=thief", *named, "-keyout", "thief.key", "-out", "thief.pem")
    other = ("-addext", "subjectAltName=DNS:elsewhere")
    openssl("req", "-x509", *key, "-subj", "/CN=n2", *other, *signed, "-keyout", "other.key", "-out", "other.pem")
    for name in ("leaf", "thief", "other"):
        text = (folder / f"{name}.pem").read_text() + (folder / "ca.pem").read_text()
        (folder / f"{name}-chain.pem").write_text(text)
    return Certificates(folder)


@pytest.mark.parametrize("trusted", ["ca_file", "leaf", "ca"])
async def test_a_node_is_trusted_by_its_authority_or_a_fingerprint(certificates: Certificates, trusted: str) -> None:
    options = Options(ca_file=str(certificates.folder / "ca.pem"))
    if trusted != "ca_file":
        digits = certificates.fingerprint(trusted).upper()
        options = Options(fingerprint=":".join(digits[n : n + 2] for n in range(0, 64, 2)))
    with trio.fail_after(WAIT_S):
        async with serving(always(OK), certificates.context("leaf-chain")) as server:
            async with open_elasticsearch([server.url], options) as client:
                await client.perform(READ)
                await client.perform(READ)
                assert client.statistics().retries == 0
            assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("shown", "trusted"),
    [
        ("leaf-chain", "thief"),
        ("thief", "leaf"),
        ("thief", "ca"),
        ("thief-chain", "ca"),
        ("other-chain", "ca"),
        ("thief-chain", "machine"),
        ("other-chain", "ca_file"),
    ],
)
async def test_nothing_is_sent_to_a_node_that_is_not_trusted(
    certificates: Certificates, shown: str, trusted: str
) -> None:
    """`thief-chain`: somebody's own certificate with the true authority's beside it, which anybody can show."""
    options = {
        "machine": Options(api_key="secret", patience_s=0.3),
        "ca_file": Options(api_key="secret", patience_s=0.3, ca_file=str(certificates.folder / "ca.pem")),
    }.get(trusted)
    if options is None:
        options = Options(api_key="secret", patience_s=0.3, fingerprint=certificates.fingerprint(trusted))
    key = shown.partition("-")[0]
    with trio.fail_after(WAIT_S):
        async with serving(always(OK), certificates.context(shown, key)) as server:
            async with open_elasticsearch([server.url], options) as client:
                with pytest.raises(Unreachable, match="TLS: "):
                    await client.perform(READ)
            assert server.asked == []


async def test_opensearch_is_found_out_once_and_pages_in_its_own_way() -> None:
    async def script(asked: Asked) -> Answer:
        if asked.target == "/":
            return Answer(200, OPENSEARCH)
        return Answer(200, b'{"pit_id":"p1"}' if "point_in_time" in asked.target else b"{}")

    async with serving(script) as server, open_elasticsearch([server.url]) as client:
        await client.perform(READ)
        assert client.product == "opensearch"
        is_opensearch = client.product == "opensearch"
        pit = api.pit_id(await client.perform(api.open_pit(["i"], opensearch=is_opensearch)))
        await client.perform(api.close_pit(pit, opensearch=is_opensearch))
    assert [asked.target for asked in server.asked].count("/") == 1
    assert server.asked[-1].body == b'{"pit_id":["p1"]}'


@pytest.mark.parametrize(
    "root", [Answer(200, b"<html>Welcome to nginx!"), Answer(200, b'{"version":{"number":"7.10"}}'), Answer(405)]
)
@pytest.mark.parametrize("status", [200, 404])
async def test_what_is_no_elasticsearch_is_said_to_be_none(root: Answer, status: int) -> None:
    """A 404 of something else is no missing document."""

    async def script(asked: Asked) -> Answer:
        return root if asked.target == "/" else Answer(status, b"{}")

    async with serving(script) as server, open_elasticsearch([server.url]) as client:
        with pytest.raises(Garbled, match="neither Elasticsearch"):
            await client.perform(READ)
        assert client.product == ""


async def test_a_proxy_that_answers_for_elasticsearch_is_noticed() -> None:
    answers = always(OK, Answer(404, b"no such upstream"), Answer(200, b"nginx"))
    async with serving(answers) as server, open_elasticsearch([server.url]) as client:
        await client.perform(READ)
        with pytest.raises(Garbled):
            await client.perform(READ)


async def test_a_missing_document_of_elasticsearch_is_missing() -> None:
    missing = Answer(404, error_body("index_not_found_exception"), PRODUCT)
    async with serving(always(missing)) as server, open_elasticsearch([server.url]) as client:
        with pytest.raises(Missing):
            await client.perform(READ)
        assert client.product == "elasticsearch"


@pytest.mark.slow
async def test_a_cluster_with_security_takes_a_password_and_refuses_others() -> None:
    with trio.fail_after(START_S), serving_elasticsearch(security=True) as server:
        url, health = server.url, api.cluster_health()
        async with open_elasticsearch([url], Options(username="elastic", password=PASSWORD)) as client:
            assert (await client.perform(health)).status == 200
        wrong = [
            Options(),
            Options(username="elastic", password="no"),
            Options(api_key="bm86bm8="),
            Options(token="no"),
        ]
        for options in wrong:
            async with open_elasticsearch([url], options) as client:
                with pytest.raises(Refused) as told:
                    await client.perform(health)
                assert (told.value.status, told.value.kind) == (401, "security_exception")


async def test_a_handshake_that_is_given_up_at_any_step_leaves_no_connection(certificates: Certificates) -> None:
    options = Options(ca_file=str(certificates.folder / "ca.pem"), patience_s=0)
    with trio.fail_after(WAIT_S):
        async with serving(always(OK), certificates.context("leaf-chain")) as server:
            steps, through = 1, False
            while not through:
                async with open_elasticsearch([server.url], options) as client:
                    through = await cancelled_at(partial(client.perform, READ), steps)
                    assert client.statistics().in_flight == 0
                    await client.perform(READ)
                    assert pooled(client) == ["IDLE"]
                    gc.collect()
                steps += 1
    assert steps > 5, "something was cancelled"
