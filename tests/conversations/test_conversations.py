"""Every transcript in this folder, on every transport and in every revision that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.wire.versions import STATEFUL, STATELESS
from tests.conversations.transcript import Names, Step, Transcript, read
from tests.conversations.transports import OPEN, WAIT_S, Transport
from tests.in_process import http_server, server_config, stdio_server
from tests.served import CLIENT, TOOLS

HERE = Path(__file__).parent
ALL = [read(path) for path in sorted(HERE.glob("*.txt"))]
RUNS = [
    (transcript, transport, version)
    for transcript in ALL
    for transport in transcript.transports
    for version in transcript.versions
]
LIMITS = {"max_message_bytes": 100_000, "max_body_bytes": 100_000, "max_calls_per_connection": 4, "page_size": 10}


@pytest.mark.parametrize(
    ("transcript", "transport", "version"),
    RUNS,
    ids=[f"{t.path.stem}-{transport}-{version}" for t, transport, version in RUNS],
)
async def test_a_conversation_goes_as_it_was_written(
    transcript: Transcript, transport: str, version: str, tmp_path: Path
) -> None:
    """The transcript's first line names its requirements."""
    start = stdio_server if transport == "stdio" else http_server
    config = server_config(tmp_path, TOOLS, limits=LIMITS, cleanup_s=0.5)
    with trio.fail_after(WAIT_S):
        async with start(config) as running, OPEN[transport](running, version, transcript.capabilities) as client:
            await converse(client, transcript, version)


async def converse(client: Transport, transcript: Transcript, version: str) -> None:
    if version != STATELESS and transcript.head.get("handshake") != "no":
        await shake_hands(client, transcript.capabilities, version)
    names = Names(version)
    waiting: list[Step] = []
    for step in transcript.steps:
        if step.arrow != "<~":
            await expect_all(client, names, waiting)
        if step.arrow == "<~":
            waiting.append(step)
        elif step.arrow == ">>":
            await client.send(names.fill(json.loads(step.text)))
        elif step.arrow == ">>!":
            await client.send_text(step.text)
        else:
            await expect_all(client, names, [step])
    await expect_all(client, names, waiting)
    if transcript.head.get("handshake") != "no":
        await expect_silence(client, version)


async def shake_hands(client: Transport, capabilities: dict[str, Any], version: str) -> None:
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": CLIENT}
    await client.send({"id": "hello", "method": "initialize", "params": params})
    assert (await client.receive())["result"]["protocolVersion"] == version
    await client.send({"method": "notifications/initialized"})


async def expect_all(client: Transport, names: Names, steps: list[Step]) -> None:
    """Receive one message for each step, in any order."""
    while steps:
        found = await client.receive()
        plain = without_jsonrpc(found)
        fitting = [step for step in steps if names.fits(json.loads(step.text), plain)]
        assert fitting, f"line {steps[0].line} expects {steps[0].text}\ncame: {json.dumps(found)}"
        steps.remove(fitting[0])


def without_jsonrpc(message: Any) -> Any:
    if isinstance(message, list):
        return [without_jsonrpc(one) for one in message]
    assert message.pop("jsonrpc") == "2.0"
    return message


async def expect_silence(client: Transport, version: str) -> None:
    """Nothing has come, or is on its way, that was not expected."""
    await client.send({"id": "the end", "method": "server/discover" if version == STATELESS else "ping"})
    last = await client.receive()
    assert last["id"] == "the end", f"unexpected: {json.dumps(last)}"


def test_there_are_conversations_on_every_transport_and_in_every_revision() -> None:
    """ERA-1, WS-1."""
    assert {(transport, version) for _, transport, version in RUNS} == {
        (transport, version) for transport in OPEN for version in (STATELESS, *STATEFUL)
    }
