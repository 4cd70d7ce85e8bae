"""Calls with an idempotency key, without transports: one run, one outcome, whoever leaves, cancels or comes late."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mcpd.errors import (
    CallCancelled,
    DeadlineExceeded,
    Draining,
    InvalidParams,
    MissingCapability,
    NotFound,
    Overloaded,
    RpcError,
    StoreUnavailable,
    facing,
)
from mcpd.idempotency import MAX_OUTCOME_BYTES
from mcpd.messages.flight import Done, Stopped
from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.wire.call import Principal
from mcpd.wire.versions import STATEFUL
from tests.idempotency.memory import Asking, Stubborn, Witness, keyed, replayed, text
from tests.messages.memory import Wire, failure, open_session, result, serve, session_call, until
from tests.tasks.memory import KNOWS, clock

ALICE, BOB = (Principal(name, frozenset({"read", "call"})) for name in ("alice", "bob"))


async def test_a_second_call_with_the_key_is_told_what_the_first_was(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        first = await result(parts, witness.call("structured"))
        second = await result(parts, witness.call("structured"))
        assert (replayed(first), replayed(second)) == (False, True)
        assert second["structuredContent"] == first["structuredContent"] == {"list": [1, None, {"ü": 2.5}]}
        assert second["content"] == first["content"]
        assert second["resultType"] == "complete"
        assert witness.words == ["ran"]
        await result(parts, witness.call("structured", "another"))
        await result(parts, witness.call("structured", None))
        assert len(witness.words) == 3


async def test_forty_calls_at_once_run_once_and_are_all_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        calls = [Asking(parts, witness.call("run", seconds=5), nursery) for _ in range(40)]
        told = [await one.result() for one in calls]
        assert {text(one) for one in told} == {"ran"}
        assert sum(not replayed(one) for one in told) == 1
        assert witness.words == ["ran"]


async def test_processes_that_share_a_store_run_it_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness, shelf = Witness(tmp_path), KeyShelf(clock=clock)
    async with (
        keyed(tmp_path, store=MemoryIdempotency(shelf)) as one,
        keyed(tmp_path, store=MemoryIdempotency(shelf)) as two,
        trio.open_nursery() as nursery,
    ):
        calls = [Asking(parts, witness.call("run", seconds=5), nursery) for parts in (one, two) * 10]
        assert {text(await asking.result()) for asking in calls} == {"ran"}
        assert witness.words == ["ran"]


@pytest.mark.parametrize("reason", ["client_gone", "deadline"])
async def test_a_client_that_leaves_leaves_the_work_alone(
    tmp_path: Path, autojump_clock: MockClock, reason: Any
) -> None:
    """Law 2's exception: the next call joins what the lost one began, or finds its outcome."""
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        lost = Asking(parts, witness.call("run", seconds=5), nursery)
        await until(lambda: witness.words)
        lost.flight.cancel(reason)
        assert await lost.outcome() == Stopped(reason)
        joined = Asking(parts, witness.call("run", seconds=5), nursery)
        await trio.sleep(1)
        joined.flight.cancel("client_gone")
        await joined.outcome()
        await trio.sleep(10)
        assert list(parts.manager.in_flight()) == []
        late = await result(parts, witness.call("run", seconds=5))
        assert (text(late), replayed(late)) == ("ran", True)
        assert witness.words == ["ran"]


async def test_a_connection_that_is_torn_down_leaves_the_work_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        async with trio.open_nursery() as nursery:
            Asking(parts, witness.call("run", seconds=5), nursery)
            await until(lambda: witness.words)
            nursery.cancel_scope.cancel()
        assert text(await result(parts, witness.call("run", seconds=5))) == "ran"
        assert witness.words == ["ran"]


async def test_a_client_that_leaves_at_any_moment_loses_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """200 clients are cut off at random; each key runs at most once, and is whole for whoever asks again."""
    chance = random.Random(7)
    async with keyed(tmp_path) as parts:
        for number in range(200):
            (tmp_path / str(number)).mkdir()
            witness = Witness(tmp_path / str(number))
            of = witness.call("run", f"k{number}", seconds=0.01)
            async with trio.open_nursery() as nursery:
                asking = [Asking(parts, of, nursery) for _ in range(chance.randint(1, 3))]
                for one in asking:
                    for _ in range(chance.randint(0, 12)):
                        await trio.lowlevel.checkpoint()
                    if chance.random() < 0.3:
                        await trio.sleep(chance.random() * 0.02)
                    one.flight.cancel("client_gone")
            assert text(await result(parts, of)) == "ran"
            assert witness.words == ["ran"]
        await until(lambda: not list(parts.manager.in_flight()))


async def test_who_cancels_by_name_ends_its_own_work_and_that_is_the_outcome(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("run", seconds=500), nursery)
        await until(lambda: witness.words)
        joined = Asking(parts, witness.call("run", seconds=500), nursery)
        await trio.sleep(1)
        own.flight.cancel("explicit")
        assert await own.outcome() == Stopped("explicit")
        error = await joined.error()
        assert (type(error), error.data) == (CallCancelled, {"reason": "explicit"})
        again = await failure(parts, witness.call("run", seconds=500))
        assert (type(again), again.data) == (CallCancelled, {"reason": "explicit"})
        assert witness.words == ["ran", "stopped"]


async def test_a_joiner_that_cancels_only_detaches(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("run", seconds=5), nursery)
        await until(lambda: witness.words)
        joined = Asking(parts, witness.call("run", seconds=5), nursery)
        await trio.sleep(1)
        joined.flight.cancel("explicit")
        assert await joined.outcome() == Stopped("explicit")
        assert text(await own.result()) == "ran"
        assert witness.words == ["ran"]


async def test_a_deadline_is_an_outcome(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        first = await failure(parts, witness.call("fail_so", how="late", call_timeout_ms=2000))
        then = trio.current_time()
        second = await failure(parts, witness.call("fail_so", how="late"))
        assert trio.current_time() == then
        for error in (first, second):
            assert isinstance(error, DeadlineExceeded)
            assert error.data == {"reason": "deadline", "budget": "request", "limitMs": 2000}
        assert witness.words == ["ran"]


async def test_a_joiners_own_deadline_only_detaches(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("run", seconds=5), nursery)
        await until(lambda: witness.words)
        assert isinstance(await failure(parts, witness.call("run", seconds=5, call_timeout_ms=1000)), DeadlineExceeded)
        assert text(await own.result()) == "ran"
        assert witness.words == ["ran"]


@pytest.mark.parametrize("how", ["tool", "crash"])
async def test_a_tools_failure_is_an_outcome(tmp_path: Path, autojump_clock: MockClock, how: str) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        told = [await serve(parts, witness.call("fail_so", how=how)) for _ in range(2)]
        first, second = (one.result for one in told if isinstance(one, Done))
        assert first["isError"] and second["isError"]  # noqa: PT018 - both
        assert first["content"] == second["content"]
        assert [one.crashed for one in told if isinstance(one, Done)] == [how == "crash"] * 2
        assert witness.words == ["ran"]


async def test_an_error_of_the_authors_is_kept_with_its_code(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        for error in [await failure(parts, witness.call("fail_so", how="rpc")) for _ in range(2)]:
            assert isinstance(error, RpcError)
            assert (facing(error).code, error.message, error.data) == (-7, "as a server does", {"why": "test"})
        assert witness.words == ["ran"]


async def test_a_key_stands_for_one_tool_with_its_arguments(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While it runs, and afterwards; the order of members does not count."""
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("run", seconds=5, word="ran"), nursery)
        await until(lambda: witness.words)
        others = [witness.call("run", seconds=6), witness.call("structured")]
        for _ in range(2):
            for other in others:
                error = await failure(parts, other)
                assert isinstance(error, InvalidParams)
                assert "another tool or other arguments" in error.message
            await own.outcome()
        assert text(await result(parts, witness.call("run", word="ran", seconds=5))) == "ran"


async def test_a_key_belongs_to_its_principal(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-5."""
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        for principal in (ALICE, BOB, ALICE):
            await result(parts, witness.call("run", call_principal=principal))
        assert witness.words == ["ran", "ran"]
        await result(parts, witness.call("run", word="else", call_principal=Principal("ali", ALICE.scopes)))
        await result(
            parts, witness.call("run", "ce" + "k", word="other", call_principal=Principal("ali", ALICE.scopes))
        )


async def test_a_tool_that_is_not_there_takes_no_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with keyed(tmp_path, limits={"max_idempotency_keys": 1}) as parts:
        for number in range(3):
            assert isinstance(await failure(parts, Witness(tmp_path).call("none", str(number))), NotFound)
        assert not replayed(await result(parts, Witness(tmp_path).call("run")))


async def test_what_may_work_later_is_not_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        first = Asking(parts, witness.call("narrow", None, seconds=5), nursery)
        await until(lambda: witness.words)
        assert isinstance(await failure(parts, witness.call("narrow", which=1)), Overloaded)
        await first.outcome()
        second = await result(parts, witness.call("narrow", which=1))
        assert (text(second), replayed(second)) == ("1", False)


async def test_input_required_is_not_kept_and_the_next_round_is_a_call_of_its_own(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """MRT-1 to MRT-5: each round runs, the last one's outcome is kept."""
    witness = Witness(tmp_path)
    can: dict[str, Any] = {"call_capabilities": {"elicitation": {}}}
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        rounds = [Asking(parts, witness.call("ask_name", seconds=1, **can), nursery) for _ in range(3)]
        asked = [await one.result() for one in rounds]
        assert {one["resultType"] for one in asked} == {"input_required"}
        assert witness.words == ["ran"]
        answered = witness.call("ask_name", seconds=1, **can)
        answered.params["requestState"] = asked[0]["requestState"]
        answered.params["inputResponses"] = {"name": {"action": "accept", "content": {"name": "Ada"}}}
        assert text(await result(parts, answered)) == "Ada"
        late = await result(parts, witness.call("ask_name", seconds=1, **can))
        assert (text(late), replayed(late)) == ("Ada", True)
        assert witness.words == ["ran", "ran"]


async def test_a_stateful_client_is_asked_live_and_a_stateless_one_joins(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    class Answering(Wire):
        async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
            await trio.sleep(5)
            return {key: {"action": "accept", "content": {"name": "Ada"}} for key in requests}

    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        session = open_session(parts, elicitation={})
        of = witness.call("ask_name")
        live = session_call(session, "tools/call", of.params)
        live = type(live)(**{name: getattr(live, name) for name in live.__struct_fields__} | {"idempotency_key": "k"})
        own = Asking(parts, live, nursery, Answering())
        await until(lambda: witness.words)
        joined = Asking(parts, of, nursery)
        told = [await own.result(), await joined.result()]
        assert [text(one) for one in told] == ["Ada", "Ada"]
        assert [replayed(one) for one in told] == [False, True]
        assert witness.words == ["ran"]


async def test_a_stateful_call_that_joined_a_stateless_one_which_asks_runs_itself(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    class Answering(Wire):
        async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            return {key: {"action": "accept", "content": {"name": "Ada"}} for key in requests}

    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        asking = Asking(parts, witness.call("ask_name", seconds=1, call_capabilities={"elicitation": {}}), nursery)
        await until(lambda: witness.words)
        version: dict[str, Any] = {"call_version": STATEFUL[0], "call_capabilities": {"elicitation": {}}}
        live = Asking(parts, witness.call("ask_name", seconds=1, **version), nursery, Answering())
        assert (await asking.result())["resultType"] == "input_required"
        assert text(await live.result()) == "Ada"
        assert witness.words == ["ran", "ran"]


async def test_an_outcome_is_told_in_the_form_of_each_revision(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RES-1, SIE-1: it is kept in none."""
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        stateless = await result(parts, witness.call("structured"))
        for version in STATEFUL:
            told = await result(parts, witness.call("structured", call_version=version))
            assert replayed(told)
            assert "resultType" not in told
            assert told["_meta"].keys() == {"dev.mcpd/replayed"}
            assert told["content"] == stateless["content"]
        assert witness.words == ["ran"]


async def test_the_one_whose_call_runs_hears_it_as_long_as_it_is_there(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("speak", seconds=5, call_progress_token="t"), nursery)
        await until(lambda: own.wire.said)
        joined = Asking(parts, witness.call("speak", seconds=5, call_progress_token="u"), nursery)
        await trio.sleep(1)
        own.flight.cancel("client_gone")
        assert text(await joined.result()) == "spoken"
        assert [params["message"] for _, params in own.wire.said] == ["half way"]
        assert joined.wire.said == []


async def test_a_reader_that_has_stopped_does_not_hold_the_work_when_it_leaves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The work waits for a slow reader as any does, and goes on when it is gone."""
    witness, gate = Witness(tmp_path), trio.Event()
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("speak", call_progress_token="t"), nursery, Wire(gate))
        await until(lambda: own.wire.said)
        own.flight.cancel("client_gone")
        await own.outcome()
        late = await result(parts, witness.call("speak"))
        assert text(late) == "spoken"
        assert witness.words == ["ran"]


async def test_an_outcome_that_is_too_long_is_told_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        whole = await result(parts, witness.call("long_text", chars=MAX_OUTCOME_BYTES))
        assert len(text(whole)) == MAX_OUTCOME_BYTES
        error = await failure(parts, witness.call("long_text", chars=MAX_OUTCOME_BYTES))
        assert "has run" in error.message
        assert error.data["reason"] == "result_too_large"
        assert not facing(error).retryable
        assert witness.words == ["ran"]


async def test_keys_are_bounded_by_caller_and_in_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4, law 8: full is a refusal, and nothing runs."""
    witness = Witness(tmp_path)
    limits = {"max_idempotency_keys": 3, "max_idempotency_keys_per_principal": 2}
    async with keyed(tmp_path, limits=limits, idempotency_keep_s=100) as parts:
        for number in range(2):
            await result(parts, witness.call("run", str(number), call_principal=ALICE))
        refused = await failure(parts, witness.call("run", "more", call_principal=ALICE))
        assert isinstance(refused, Overloaded)
        await result(parts, witness.call("run", "1", call_principal=BOB))
        assert isinstance(await failure(parts, witness.call("run", "2", call_principal=BOB)), Overloaded)
        assert len(witness.words) == 3
        assert replayed(await result(parts, witness.call("run", "0", call_principal=ALICE)))
        await trio.sleep(101)
        assert not replayed(await result(parts, witness.call("run", "0", call_principal=ALICE)))


async def test_without_the_store_calls_with_a_key_are_refused_and_others_go_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    witness, store = Witness(tmp_path), Stubborn(KeyShelf(clock=clock))
    async with keyed(tmp_path, store=store) as parts:
        store.away = {"begin"}
        error = await failure(parts, witness.call("run"))
        assert isinstance(error, StoreUnavailable)
        assert facing(error).mcp_status == 503
        assert (error.data or {})["retryable"] is True
        assert witness.words == []
        assert text(await result(parts, witness.call("run", None))) == "ran"
        store.away = set()
        assert not replayed(await result(parts, witness.call("run")))


async def test_an_outcome_that_cannot_be_kept_is_told_when_it_can(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nobody is told of an outcome that a later call could not be told, and nothing runs twice."""
    witness, store = Witness(tmp_path), Stubborn(KeyShelf(clock=clock))
    async with keyed(tmp_path, store=store) as parts:
        store.away = {"finish"}
        for _ in range(3):
            assert isinstance(await failure(parts, witness.call("run")), StoreUnavailable)
        store.away = set()
        await trio.sleep(1)
        late = await result(parts, witness.call("run"))
        assert (text(late), replayed(late)) == ("ran", True)
        assert witness.words == ["ran"]


async def test_an_owner_that_was_taken_for_dead_tells_what_the_store_has(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Fencing: a request has one answer, whoever ran it."""
    witness, shelf = Witness(tmp_path), KeyShelf(clock=clock)
    slow, quick = MemoryIdempotency(shelf), MemoryIdempotency(shelf)
    async with (
        keyed(tmp_path, store=slow) as one,
        keyed(tmp_path, store=quick) as two,
        trio.open_nursery() as nursery,
    ):
        paused = Asking(one, witness.call("run", seconds=5), nursery)
        await until(lambda: witness.words)
        slow.close()
        await trio.sleep(2)
        taken = await result(two, witness.call("run", seconds=5))
        assert not replayed(taken)
        assert replayed(await paused.result())
        assert witness.words == ["ran", "ran"]


async def test_a_key_whose_process_died_is_run_by_who_waits_for_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness, shelf = Witness(tmp_path), KeyShelf(clock=clock)
    dying = MemoryIdempotency(shelf)
    async with keyed(tmp_path, store=MemoryIdempotency(shelf)) as parts, trio.open_nursery() as nursery:
        async with keyed(tmp_path, store=dying) as one, trio.open_nursery() as dead:
            Asking(one, witness.call("run", seconds=5), dead)
            await until(lambda: witness.words)
            waiting = Asking(parts, witness.call("run", seconds=5), nursery)
            await trio.sleep(1)
            dead.cancel_scope.cancel()
        dying.close()
        told = await waiting.result()
        assert (text(told), replayed(told)) == ("ran", False)
        assert witness.words == ["ran", "stopped", "ran"]


async def test_a_drain_lets_it_finish_and_keeps_it_or_frees_the_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness, shelf = Witness(tmp_path), KeyShelf(clock=clock)
    async with keyed(tmp_path, store=MemoryIdempotency(shelf), grace_s=10) as parts, trio.open_nursery() as nursery:
        assert parts.keyed is not None
        lost = Asking(parts, witness.call("run", "quick", seconds=5), nursery)
        slow = Asking(parts, witness.call("run", "slow", seconds=50), nursery)
        await until(lambda: len(witness.words) == 2)
        lost.flight.cancel("client_gone")
        await parts.manager.drain()
        await parts.keyed.wait_settled()
        assert await slow.outcome() == Stopped("drain")
    async with keyed(tmp_path, store=MemoryIdempotency(shelf)) as parts:
        assert replayed(await result(parts, witness.call("run", "quick", seconds=5)))
        assert not replayed(await result(parts, witness.call("run", "slow", seconds=50)))


async def test_a_keyed_call_that_becomes_a_task_is_the_same_task_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """TSK-3: and a client that does not know tasks is not told of one."""
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts:
        first = await result(parts, witness.call("long_job", call_capabilities=KNOWS))
        await trio.sleep(5)
        second = await result(parts, witness.call("long_job", call_capabilities=KNOWS))
        assert first["resultType"] == second["resultType"] == "task"
        assert first["taskId"] == second["taskId"]
        assert (replayed(first), replayed(second)) == (False, True)
        assert isinstance(await failure(parts, witness.call("long_job")), MissingCapability)
        assert witness.words == ["ran"]


async def test_works_with_a_key_share_the_places_of_all_calls(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 8: who waits for a key takes no place, and its work takes one."""
    witness = Witness(tmp_path)
    async with keyed(tmp_path, limits={"max_calls": 1, "max_queued_calls": 0}) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("run", seconds=5), nursery)
        await until(lambda: witness.words)
        joined = Asking(parts, witness.call("run", seconds=5), nursery)
        await trio.sleep(1)
        assert isinstance(await failure(parts, witness.call("run", "other")), Overloaded)
        assert text(await own.result()) == text(await joined.result()) == "ran"
        assert not replayed(await result(parts, witness.call("run", "other")))


async def test_what_came_of_keys_is_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        calls = [Asking(parts, witness.call("run", seconds=5), nursery) for _ in range(3)]
        for one in calls:
            await one.outcome()
        await result(parts, witness.call("run", seconds=5))
        await failure(parts, witness.call("run", seconds=6))
        text = parts.metrics.exposition(None)[0].decode()
        counted = {"ran": 1, "joined": 2, "replayed": 1, "mismatch": 1, "refused": 0, "unavailable": 0}
        for outcome, count in counted.items():
            assert f'mcpd_idempotent_calls_total{{outcome="{outcome}"}} {count}.0' in text


async def test_no_word_of_a_stopped_server_is_an_outcome(tmp_path: Path, autojump_clock: MockClock) -> None:
    witness = Witness(tmp_path)
    async with keyed(tmp_path) as parts, trio.open_nursery() as nursery:
        own = Asking(parts, witness.call("run", seconds=500), nursery)
        await until(lambda: witness.words)
        for flight in parts.manager.in_flight():
            if flight is not own.flight:
                flight.cancel("drain")
        assert isinstance(await own.error(), Draining)
        assert not replayed(await result(parts, witness.call("run", seconds=500, call_timeout_ms=600_000)))
