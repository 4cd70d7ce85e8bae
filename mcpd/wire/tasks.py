"""The tasks extension as values: who speaks it, what its requests carry, and what a task looks like to a client.

Called by: `tasks`, `service`, `messages.listens`. Pure: the times are arguments. Deliberately not: what a task is
(`storage.task_states`); here are only the members of its JSON.

Laws: the extension exists for a request that declares it, and for no other (TSK-2, TSK-9, TSK-14); a task's members
stand at the top of the result, never inside one of its own (TSK-3, TSK-5).

Sources: MCP tasks extension `io.modelcontextprotocol/tasks` 2026-07-28 (SEP-2663); TSK-1..14.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mcpd.errors import InvalidParams, MissingCapability, NotFound
from mcpd.wire.call import Call
from mcpd.wire.methods import TASKS

EXTENSION: Final = TASKS
POLL_MS: Final = 1000
"""How often a client is advised to ask; who asks more often is answered all the same (TSK-10)."""
MAX_TASK_ID_CHARS: Final = 128
MAX_TASK_IDS_ITEMS: Final = 100
"""That one listen stream may watch."""


def declared(call: Call) -> bool:
    """True when this very request says that its client knows tasks."""
    extensions = call.capabilities.get("extensions")
    return call.stateless and isinstance(extensions, dict) and isinstance(extensions.get(EXTENSION), dict)


def undeclared() -> MissingCapability:
    """Return the refusal of a request that needs the extension and does not declare it."""
    return MissingCapability({"extensions": {EXTENSION: {}}})


def read_task_id(call: Call) -> str:
    """Return `params.taskId` of a `tasks/*` request. Raises: InvalidParams, MissingCapability."""
    task_id = call.params.get("taskId")
    if not isinstance(task_id, str):
        raise InvalidParams("params.taskId must be a string")
    if not declared(call):
        raise undeclared()
    return task_id


def read_answers(call: Call) -> dict[str, Any]:
    """Return `params.inputResponses` of `tasks/update`. Raises: InvalidParams."""
    answers = call.params.get("inputResponses")
    if isinstance(answers, dict):
        return answers
    raise InvalidParams("params.inputResponses must be an object: key -> response")


def read_watched(params: dict[str, Any]) -> tuple[str, ...] | None:
    """Return `taskIds` of a listen request, each once; None when there is none. Raises: InvalidParams."""
    wanted = params.get("notifications")
    ids = wanted.get("taskIds") if isinstance(wanted, dict) else None
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise InvalidParams("params.notifications.taskIds must be an array of task ids")
    if len(ids) > MAX_TASK_IDS_ITEMS or any(len(one) > MAX_TASK_ID_CHARS for one in ids):
        raise InvalidParams(f"One listen stream may watch {MAX_TASK_IDS_ITEMS} tasks; open another for the rest")
    return tuple(dict.fromkeys(ids))


def unknown_task() -> NotFound:
    """Return the refusal for a task that is none of this caller: never made, forgotten, or another's (SEC-5)."""
    return NotFound("Unknown task: it does not exist, or has expired")


def task_members(
    task_id: str, status: str, *, message: str, created_s: float, updated_s: float, ttl_s: float
) -> dict[str, Any]:
    """Return the members that a task has in every state."""
    members = {
        "taskId": task_id,
        "status": status,
        "createdAt": _iso(created_s),
        "lastUpdatedAt": _iso(updated_s),
        "ttlMs": round(ttl_s * 1000),
        "pollIntervalMs": POLL_MS,
    }
    return {**members, "statusMessage": message} if message else members


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def raw(data: bytes) -> Any:
    """Return JSON as a value that is written as it is."""
    return msgspec.Raw(data)


def status_text(params: dict[str, Any]) -> str:
    """Return the parameters of `notifications/progress` as a status message: tasks have no progress of their own."""
    done, total, message = params["progress"], params.get("total"), params.get("message")
    count = f"{done:g}" if total is None else f"{done:g} of {total:g}"
    return f"{message} ({count})" if message else count
