"""The recorder: one right record for each call, whatever the store does, and never a call that waits for it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from mcpd.errors import InvalidRequest
from mcpd.messages.arguments import MAX_KEPT_BYTES, MAX_SHAPED_ITEMS, note_digest, note_full, note_redacted
from mcpd.messages.flight import Flight
from mcpd.messages.recorder import (
    BATCH_ITEMS,
    LINGER_S,
    LONGEST_PAUSE_S,
    MAX_QUEUED_ITEMS,
    MAX_TEXT_CHARS,
    PRUNE_S,
    Asked,
)
from mcpd.monitoring.logs import RequestLine
from mcpd.storage.records import Record
from mcpd.wire.call import Principal
from mcpd.wire.envelope import CLIENT_KEY
from tests.messages.memory import Wire, call, serve
from tests.records.memory import CLEANUP_S, DONE, recorded, recording

READER = Principal("id-of-key", frozenset({"read", "call"}), name="laptop")
LINE = RequestLine("r-9", "http", "tools/call", "protocol_error", 0.0, client="192.0.2.7")
CASES: dict[str, tuple[str, str, str, str]] = {
    "ok": ("tools/call", "echo", "ok", ""),
    "the tool's failure": ("tools/call", "fail", "tool_error", ""),
    "the tool's own error": ("tools/call", "refuse", "tool_error", "RpcError"),
    "a crash": ("tools/call", "crash", "internal_error", ""),
    "a deadline": ("tools/call", "slow", "deadline", "tool"),
    "no such tool": ("tools/call", "none", "protocol_error", "NotFound"),
    "no scope": ("tools/call", "vault", "rejected", "Forbidden"),
    "no such method": ("tools/brew", "pot", "protocol_error", "MethodNotFound"),
    "no such resource": ("resources/read", "", "protocol_error", "ResourceNotFound"),
}


@pytest.mark.parametrize("name", CASES)
async def test_every_end_of_a_call_is_one_record_that_says_what_the_metrics_say(
    autojump_clock: MockClock, tmp_path: Path, name: str
) -> None:
    method, target, outcome, reason = CASES[name]
    params = {"uri": "test:///none"} if method == "resources/read" else {"name": target, "arguments": {}}
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with recorded(tmp_path) as (parts, store):
        asked = call(method, params, principal=READER, traceparent=trace, client="agent")
        await parts.manager.serve(Flight(asked, Wire(), "192.0.2.1"))
        assert parts.metrics.requests.of("http", method if method != "tools/brew" else "other", outcome).value == 1
    (record,) = store.records
    assert (record.method, record.outcome, record.reason) == (method, outcome, reason)
    assert record.target == (target or "test:///none")
    assert (record.principal, record.key) == ("id-of-key", "laptop")
    assert (record.address, record.client) == ("192.0.2.1", "agent")
    assert (record.request_id, record.trace_id, record.transport) == ("r-1", trace[3:35], "http")
    assert (record.result_bytes > 0) == (name in ("ok", "the tool's failure", "a crash"))
    assert not record.refused


async def test_a_cancelled_call_says_who_ended_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with recorded(tmp_path) as (parts, store), trio.open_nursery() as nursery:
        flights = [Flight(call(params={"name": "hold"}), Wire()) for _ in range(3)]
        for flight in flights[:2]:
            nursery.start_soon(parts.manager.serve, flight)
        torn = trio.CancelScope()
        nursery.start_soon(_served_within, torn, parts.manager, flights[2])
        await trio.sleep(1)
        flights[0].cancel("explicit")
        flights[1].cancel("admin")
        torn.cancel()
    assert sorted((one.outcome, one.reason) for one in store.records) == [
        ("cancelled", "admin"), ("cancelled", "client_gone"), ("cancelled", "explicit"),
    ]  # fmt: skip
    assert {one.seconds for one in store.records} == {1.0}


async def _served_within(scope: trio.CancelScope, manager: Any, flight: Flight) -> None:
    with scope:
        await manager.serve(flight)


async def test_the_arguments_are_those_that_came_although_the_tool_changes_them(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    sent = {"data": {"b": [1, 2.5], "a": "é"}}
    text = json.dumps(sent, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    async with recorded(tmp_path, arguments="full") as (parts, store):
        await serve(parts, call(params={"name": "scribble", "arguments": sent}))
    (record,) = store.records
    assert record.outcome == "ok"
    assert record.arguments == text
    assert record.digest == hashlib.sha256(text.encode()).digest()
    assert record.arguments_bytes == len(text.encode())


async def test_nothing_of_the_arguments_is_kept_by_default(autojump_clock: MockClock, tmp_path: Path) -> None:
    """SEC-6: arguments may be secret."""
    async with recorded(tmp_path) as (parts, store):
        await serve(parts, call(params={"name": "echo", "arguments": {"text": "the password"}}))
        await serve(parts, call(params={"name": "echo", "arguments": {"text": 7}}))
    assert all(len(record.digest) == 32 for record in store.records)
    assert "password" not in repr(store.records)


@pytest.mark.parametrize(
    ("params", "target"),
    [
        ({"name": "echo"}, "echo"),
        ({"uri": "docs:///a"}, "docs:///a"),
        ({"taskId": "t1"}, "t1"),
        ({"ref": {"type": "ref/prompt", "name": "welcome"}, "argument": {"name": "x"}}, "welcome"),
        ({"ref": {"type": "ref/resource", "uri": "a:{b}"}}, "a:{b}"),
        ({"name": ["echo"]}, ""),
        ({"ref": 7}, ""),
        ({"ref": {"ref": {"name": "deep"}}}, ""),
        ({}, ""),
    ],
)
async def test_what_a_call_is_about_is_its_target(
    autojump_clock: MockClock, params: dict[str, Any], target: str
) -> None:
    async with recording() as made:
        made.end(params=params)
        made.recorder.refused(InvalidRequest("no"), LINE, Asked(READER, params))
    assert [record.target for record in made.store.records] == [target, target]


async def test_a_refusal_says_who_was_refused_and_why(autojump_clock: MockClock) -> None:
    async with recording() as made:
        params = {"name": "echo", "arguments": {}, "_meta": {CLIENT_KEY: {"name": "agent"}}}
        made.recorder.refused(InvalidRequest("no"), LINE, Asked(READER, params))
        made.recorder.refused(InvalidRequest("no"), LINE, Asked(reason="unauthenticated"))
    known, unknown = made.store.records
    assert (known.key, known.address, known.client, known.reason) == ("laptop", "192.0.2.7", "agent", "InvalidRequest")
    assert (unknown.principal, unknown.reason, unknown.target) == ("", "unauthenticated", "")
    assert known.refused
    assert unknown.refused
    assert known.digest == hashlib.sha256(b"{}").digest()


async def test_records_are_written_in_bulk_and_not_call_by_call(autojump_clock: MockClock) -> None:
    async with recording() as made:
        made.end(BATCH_ITEMS + 200)
        assert made.recorder.pending == BATCH_ITEMS + 200
        await trio.sleep(LINGER_S + 1)
        assert made.store.added == [BATCH_ITEMS, 200]
        assert made.recorder.pending == 0
        made.end()
        await trio.sleep(LINGER_S + 1)
    assert made.store.added == [BATCH_ITEMS, 200, 1]
    assert len({record.id for record in made.store.records}) == BATCH_ITEMS + 201


async def test_what_comes_while_the_queue_is_full_is_dropped_and_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with recording() as made:
        made.end(MAX_QUEUED_ITEMS + 300)
        assert made.recorder.pending == MAX_QUEUED_ITEMS
        assert made.lost("full") == 300
        await trio.sleep(60)
        made.end()
    assert len(made.store.records) == MAX_QUEUED_ITEMS + 1
    warnings = [line.getMessage() for line in caplog.records if "records of calls" in line.getMessage()]
    assert len(warnings) == 2, "one for the loss, one for its end"
    assert warnings[1].endswith("lost until now: 300")


async def test_refusals_leave_half_of_the_queue_to_calls(autojump_clock: MockClock) -> None:
    """SEC-3: whoever has no key cannot keep the calls of others from being recorded."""
    async with recording() as made:
        for _ in range(MAX_QUEUED_ITEMS):
            made.recorder.refused(InvalidRequest("no"), LINE, Asked())
        assert made.recorder.pending == made.lost("full") == MAX_QUEUED_ITEMS // 2
        made.end(MAX_QUEUED_ITEMS // 2)
        assert made.lost("full") == MAX_QUEUED_ITEMS // 2
    assert sum(not record.refused for record in made.store.records) == MAX_QUEUED_ITEMS // 2


async def test_a_store_that_is_away_costs_no_call_and_two_lines_of_the_log(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with recorded(tmp_path) as (parts, store):
        recorder = parts.manager.recorder
        assert recorder is not None
        store.away = True
        for _ in range(20):
            assert (await serve(parts, call(params={"name": "echo"}))).result["content"]  # type: ignore[union-attr]
            await trio.sleep(20)
        assert recorder.pending == 20
        assert parts.metrics.records_failed.of().value > 5
        assert (await recorder.check()).state == "degraded"
        store.away = False
        await trio.sleep(2 * LONGEST_PAUSE_S)
        assert recorder.pending == 0
        assert (await recorder.check()).state == "ok"
    assert len(store.records) == 20
    said = [line.getMessage() for line in caplog.records if line.name == "mcpd.messages.recorder"]
    assert said == [
        "records of calls cannot be written, calls go on without: the disk is full",
        "records of calls are written again; lost until now: 0",
    ]


async def test_a_record_keeps_its_id_when_it_has_to_be_written_again(autojump_clock: MockClock) -> None:
    async with recording() as made:
        made.store.away = True
        made.end(3)
        await trio.sleep(10)
        batch = [record.id for record in made.recorder._batch]
        made.store.away = False
    assert [record.id for record in made.store.records] == batch


async def test_a_server_that_ends_writes_what_waits(autojump_clock: MockClock) -> None:
    async with recording() as made:
        made.end(BATCH_ITEMS * 3)
    assert len(made.store.records) == BATCH_ITEMS * 3
    assert made.lost("stopped") == 0


@pytest.mark.parametrize("trouble", ["stuck", "away"])
async def test_a_store_that_does_not_answer_holds_the_end_only_so_long_and_is_counted(
    autojump_clock: MockClock, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with recording() as made:
        setattr(made.store, trouble, True)
        made.end(7)
        begin = trio.current_time()
    assert trio.current_time() - begin <= CLEANUP_S
    assert made.lost("stopped") == 7
    assert any("records of calls" in line.getMessage() for line in caplog.records)


async def test_a_call_that_ends_after_all_is_counted_as_lost(autojump_clock: MockClock) -> None:
    async with recording() as made:
        pass
    made.end()
    assert (made.lost("stopped"), made.recorder.pending) == (1, 0)


async def test_a_record_that_no_store_can_take_does_not_stop_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with recording() as made:
        made.store.choosy = True
        made.end(2)
        await trio.sleep(1)
        made.store.choosy = False
        made.end()
    assert made.lost("unfit") == 2
    assert len(made.store.records) == 1


async def test_what_is_old_is_forgotten_on_a_server_that_nobody_calls(autojump_clock: MockClock) -> None:
    async with recording(keep_s=3600.0) as made:
        made.end()
        await trio.sleep(3600 - PRUNE_S)
        assert len(made.store.records) == 1
        await trio.sleep(3 * PRUNE_S)
        assert made.store.records == []


async def test_the_number_of_records_is_bounded_also_between_two_looks(autojump_clock: MockClock) -> None:
    async with recording(max_items=100) as made:
        for _ in range(10):
            made.end(50)
            await trio.sleep(LINGER_S + 1)
            assert len(made.store.records) <= 150
        assert trio.current_time() < PRUNE_S


async def test_a_store_that_cannot_forget_is_said_once_and_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with recording(keep_s=1.0) as made:
        made.end()
        await trio.sleep(1)
        made.store.away = True
        await trio.sleep(5 * PRUNE_S)
        made.store.away = False
        await trio.sleep(2 * PRUNE_S)
        assert made.store.records == []
    assert made.failed >= 4
    assert len([line for line in caplog.records if line.levelno == logging.WARNING]) <= 2


HOSTILE = [
    "\ud800", "\x00\x1b[31m\u009b2J", "x" * 4_000_000, "mcpd_0123456789abcdef0123", "\u202e", "'; DROP TABLE records",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_no_text_of_others_is_kept_long_secret_or_unfit(autojump_clock: MockClock, text: str) -> None:
    async with recording(arguments="full") as made:
        principal = Principal("id", frozenset(), name=text)
        asked = call(text, {"name": text}, principal=principal, client=text, request_id=text, task=text)
        made.recorder.ended(Flight(asked, Wire(), text), DONE, "ok", 0.0)
        params = {
            "name": text,
            "arguments": {text: text},
            "_meta": {CLIENT_KEY: {"name": text}},
        }
        line = LINE._replace(method=text, client=text, request_id=text)
        made.recorder.refused(InvalidRequest("no"), line, Asked(principal, params))
    assert len(made.store.records) == 2
    for record in made.store.records:
        _check_bounded(record)


def _check_bounded(record: Record) -> None:
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str):
            value.encode()
            assert len(value.encode()) <= (MAX_KEPT_BYTES if name == "arguments" else 4 * MAX_TEXT_CHARS), name
            assert "mcpd_0123" not in value, name


async def test_what_waits_holds_nothing_of_what_a_client_has_sent(autojump_clock: MockClock) -> None:
    """Law 8: 8,192 records may wait, each of a call of 4 MiB."""
    async with recording() as made:
        made.store.away = True
        params = {"name": "n" * 4_000_000, "arguments": {"text": "t" * 4_000_000}}
        made.end(params=params, method="m" * 4_000_000, client="c" * 4_000_000)
        made.recorder.refused(InvalidRequest("no"), LINE, Asked(READER, params))
        for waiting in made.recorder._queue:
            assert all(len(value) <= MAX_TEXT_CHARS for value in _texts(waiting))


def _texts(waiting: Any) -> list[str]:
    values = [getattr(waiting, name) for name in waiting.__struct_fields__]
    return [value for value in [*values, waiting.noted.kept] if isinstance(value, str)]


TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES)
SECRETS = st.recursive(
    st.just("hunter2"), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("de"), inner), max_leaves=12
)


@given(OBJECTS)
def test_the_digest_is_what_anybody_can_work_out_again(arguments: dict[str, Any]) -> None:
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    noted = note_digest(arguments)
    assert noted.size == len(text)
    assert noted.digest == hashlib.sha256(text).digest()
    for other in (note_redacted(arguments), note_full(arguments)):
        assert (other.digest, other.size) == (noted.digest, noted.size)


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert note_digest({"a": 1, "b": {"c": 1, "d": 2}}) == note_digest({"b": {"d": 2, "c": 1}, "a": 1})


def test_redacted_arguments_have_their_keys_and_nothing_of_their_values() -> None:
    arguments = {
        "password": "hunter2", "count": 41, "price": 1.5, "yes": True, "none": None, "tags": ["secret", "more"],
        "rows": [{"cell": "hidden"}], "inner": {"token": "mcpd_x"},
    }  # fmt: skip
    assert json.loads(note_redacted(arguments).kept) == {
        "password": "string(7)", "count": "integer", "price": "number", "yes": "boolean", "none": "null",
        "tags": "array(2)", "rows": [{"cell": "string(6)"}], "inner": {"token": "string(6)"},
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from("abc"), SECRETS))
def test_no_value_passes_redaction(arguments: dict[str, Any]) -> None:
    assert "hunter2" not in note_redacted(arguments).kept


@pytest.mark.parametrize(
    "arguments",
    [
        {"k" * 5_000_000: 1},
        {f"key{number}": number for number in range(100_000)},
        {"rows": [{"a": 1}] * 100_000},
        {"text": "\u20ac" * 100_000},
    ],
    ids=range(4),
)
def test_what_is_kept_of_arguments_is_bounded_and_is_text(arguments: dict[str, Any]) -> None:
    for note in (note_redacted, note_full):
        kept = note(arguments).kept
        assert 0 < len(kept.encode()) <= MAX_KEPT_BYTES
    assert note_redacted(arguments).kept.count("integer") <= MAX_SHAPED_ITEMS


@pytest.mark.parametrize("offset", range(MAX_KEPT_BYTES - 40, MAX_KEPT_BYTES + 4))
def test_a_key_among_full_arguments_is_masked_wherever_the_cut_is(offset: int) -> None:
    """SEC-6: no key is kept, nor the beginning of one."""
    kept = note_full({"text": "-" * offset + "mcpd_0123456789abcdef0123456789"}).kept
    assert "mcpd_0" not in kept


WHATEVER = ["text", 7, [1], {"a": {1: 2}}, {"a": object()}, {"a": "\ud800"}, {"a": 10**400}, True]


@pytest.mark.parametrize("arguments", WHATEVER, ids=range(len(WHATEVER)))
def test_whatever_stands_for_arguments_has_a_digest(arguments: Any) -> None:
    for note in (note_digest, note_redacted, note_full):
        assert len(note(arguments).digest) == 32


def test_what_contains_itself_has_a_digest() -> None:
    arguments: dict[str, Any] = {}
    arguments["self"] = arguments
    assert len(note_digest(arguments).digest) == 32
