"""JSON-RPC 2.0 as values: bytes to JSON, JSON to one message, results and errors back to bytes.

Three steps, each usable alone: `decode` (bytes -> JSON value, or ParseError), `parse` (JSON value -> `Message`, where
`Malformed` carries the refusal and, if it could be read, the id to answer it with), and the writers `success`,
`failure`, `notification`, `request`. `parse_batch` exists for the one revision that has batches.

Called by: the transports and `messages`. Calls msgspec and `errors`. Deliberately not: a method table, a rule about
eras, or anything that remembers ids between messages (a duplicate of an id in flight is `messages.inflight`'s finding).

Laws: an id is echoed with its JSON type (1 and "1" differ) and is left out when it could not be read; whatever the
bytes, `decode` returns or raises ParseError; nothing that is not JSON is ever written. msgspec writes NaN and infinity
as `null`, so only an output that contains the text `null` has its value searched for them: ordinary answers pay for
one substring search (by `find`: `in` first tries bytes as a number, which costs more). Duplicate keys in an object: the
last one wins (the parser cannot see them).

Sources: JSON-RPC 2.0 sections 4-6; MCP basic (RPC-1..8), 2025-03-26 batching (BAT-1..4).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

import msgspec

from mcpd.errors import InvalidParams, InvalidRequest, ParseError, WireError, counted, facing
from mcpd.wire.call import MAX_ID_CHARS, RequestId, is_request_id


class Request(msgspec.Struct, frozen=True):
    """A call that wants an answer. `params` is `{}` when the message had none."""

    id: RequestId
    method: str
    params: dict[str, Any]


class Notification(msgspec.Struct, frozen=True):
    """A message that gets no answer."""

    method: str
    params: dict[str, Any]


class Response(msgspec.Struct, frozen=True):
    """An answer to a request of ours: exactly one of `result` and `error` is not None."""

    id: RequestId
    result: dict[str, Any] | None
    error: dict[str, Any] | None


class Malformed(msgspec.Struct, frozen=True):
    """JSON, but no message. `id` is None when it could not be read or must not be used in the answer."""

    error: WireError
    id: RequestId | None


Message = Request | Notification | Response | Malformed


def asked_by(message: Message | None) -> tuple[str, dict[str, Any]]:
    """Return method and parameters; nothing of a message that asks nothing, or of None."""
    return (message.method, message.params) if isinstance(message, Request | Notification) else ("", {})


MAX_CONTAINERS_ITEMS: Final = 100_000
"""Objects and arrays in one message: each costs far more than the two bytes it is written with."""
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or what is left of the text where it does not end: never tried twice at the same place."""
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def decode(body: bytes | bytearray | memoryview | str, *, max_depth: int = 64) -> Any:
    """Return the JSON value in `body`: one text in UTF-8; one byte order mark before it is ignored.

    There may be `MAX_CONTAINERS_ITEMS` objects and arrays, nested `max_depth` deep. Numbers beyond a double or 4300
    digits are refused.

    Raises: ParseError, for every other input.
    """
    brackets = _brackets(body) if len(body) > max_depth else 0
    if brackets > MAX_CONTAINERS_ITEMS and _containers(body) > MAX_CONTAINERS_ITEMS:
        raise ParseError(f"Parse error: more than {MAX_CONTAINERS_ITEMS} objects and arrays")
    try:
        body = _unmarked(body)
        value = _decode(body)
    except msgspec.DecodeError as error:
        raise ParseError(f"Parse error: {error}", request_id=_find_id(body)) from None
    except UnicodeError:
        raise ParseError("Parse error: the text is not valid UTF-8") from None
    except RecursionError:
        raise ParseError(f"Parse error: nested more than {max_depth} deep") from None
    if brackets > max_depth and _deeper(value, max_depth):
        raise ParseError(f"Parse error: nested more than {max_depth} deep")
    return value


def _unmarked(body: bytes | bytearray | memoryview | str) -> bytes | bytearray | memoryview | str:
    if isinstance(body, str):
        return body.removeprefix("\ufeff")
    return body[3:] if body[:3] == b"\xef\xbb\xbf" else body


def _find_id(body: bytes | bytearray | memoryview | str) -> RequestId | None:
    """Return the id of a request that a laxer parser can read: half a surrogate pair or 1e999 is deep inside it."""
    if len(body) > _MAX_LAX_BYTES:
        return None
    try:
        value = json.loads(body if isinstance(body, str) else bytes(body))
        found = value.get("id") if type(value) is dict and "method" in value else None
        _encode(found)
    except (ValueError, RecursionError):
        return None
    return found if is_request_id(found) else None


_MAX_LAX_BYTES: Final = 1024 * 1024
"""Of a message that is read a second time to find its id; the second parser is slow."""


def _brackets(body: bytes | bytearray | memoryview | str) -> int:
    """Count what may open a container; those inside of strings count too."""
    if isinstance(body, str):
        return body.count("{") + body.count("[")
    data = bytes(body) if isinstance(body, memoryview) else body
    return data.count(b"{") + data.count(b"[")


def _containers(body: bytes | bytearray | memoryview | str) -> int:
    """Count the containers of a JSON text: the brackets outside of its strings."""
    return _brackets(_STRING.sub(b"", body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body))


def _deeper(value: Any, max_depth: int) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(max_depth):
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return bool(level)


def parse(value: Any) -> Message:
    """Classify one decoded value that is not a batch (RPC-1, RPC-2, RPC-6). Never raises.

    `params` and `_meta` that are null count as absent: serialisers in use write out what is not set.
    """
    if type(value) is not dict:
        return _refuse("A message must be one JSON object" + (", not a batch" if type(value) is list else ""))
    method = value.get("method")
    if type(method) is not str or value.get("jsonrpc") != "2.0":
        return _parse_rest(value)
    params = value.get("params")
    if params is None:
        params = {}
    elif type(params) is not dict:
        return Malformed(InvalidParams("params must be an object"), _read_id(value))
    elif "_meta" in params and type(params["_meta"]) is not dict:
        if params["_meta"] is not None:
            return Malformed(InvalidParams("params._meta must be an object"), _read_id(value))
        params = {name: member for name, member in params.items() if name != "_meta"}
    request_id = value.get("id", _ABSENT)
    if is_request_id(request_id):
        return Request(request_id, method, params)
    if request_id is _ABSENT:
        return Notification(method, params)
    return _refuse(f"id must be a string of at most {MAX_ID_CHARS} characters or an integer of 64 bits")


_ABSENT: Final = object()


def _parse_rest(value: dict[str, Any]) -> Message:
    """Parse what is not a sound request or notification: a response, or a refusal."""
    if value.get("jsonrpc") != "2.0":
        return _refuse('jsonrpc must be "2.0"', _read_id(value))
    if "method" in value:
        return _refuse("method must be a string", _read_id(value))
    if "result" in value or "error" in value:
        return _parse_response(value)
    return _refuse("A message needs a method, a result or an error", _read_id(value))


def _parse_response(value: dict[str, Any]) -> Message:
    """Parse a response. A refusal carries no id: the id names a request of ours, not one of the peer's."""
    response_id = _read_id(value)
    if response_id is None:
        return _refuse("The id of a response must be a string or an integer")
    if ("result" in value) == ("error" in value):
        return _refuse("A response has either a result or an error")
    if "result" in value:
        result = value["result"]
        return Response(response_id, result, None) if type(result) is dict else _refuse("result must be an object")
    error = value["error"]
    if type(error) is dict and type(error.get("code")) is int and type(error.get("message")) is str:
        return Response(response_id, None, error)
    return _refuse("error must be an object with an integer code and a message")


def _read_id(value: dict[str, Any]) -> RequestId | None:
    found = value.get("id")
    return found if is_request_id(found) else None


def _refuse(text: str, request_id: RequestId | None = None) -> Malformed:
    return Malformed(InvalidRequest(text), request_id)


def parse_batch(value: list[Any], *, max_items: int) -> list[Message]:
    """Classify each value of a batch; a request whose id an earlier one has becomes `Malformed` (BAT-4).

    Raises: InvalidRequest for an empty batch, or one of more than `max_items` items.
    """
    if not value:
        raise InvalidRequest("A batch must not be empty")
    if len(value) > max_items:
        raise InvalidRequest(f"A batch may have at most {counted(max_items, 'message')}")
    seen: set[tuple[type, RequestId]] = set()
    return [_once(parse(item), seen) for item in value]


def _once(message: Message, seen: set[tuple[type, RequestId]]) -> Message:
    if not isinstance(message, Request):
        return message
    key = (type(message.id), message.id)
    if key in seen:
        return _refuse("An earlier request of this batch has the same id", message.id)
    seen.add(key)
    return message


def encode(value: Any) -> bytes:
    """Return `value` as compact JSON on one line.

    Raises: ValueError for NaN, infinity, a lone surrogate, a cycle or too deep a nesting, an integer of more than
    4300 digits, and types that JSON has no form for.
    """
    try:
        text = _encode(value)
    except UnicodeEncodeError:
        raise ValueError("a string with a lone surrogate has no JSON form") from None
    except RecursionError:
        raise ValueError("the value is nested too deep, or contains itself") from None
    except TypeError as error:
        raise ValueError(str(error)) from None
    if text.find(b"null") >= 0:
        _require_finite(value)
    return text


def _require_finite(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if not isfinite(item):
                raise ValueError(f"{item} has no JSON form")
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend(item)
        else:
            stack.extend(_fields(item))


def _fields(item: Any) -> list[Any]:
    names: Iterable[str] = getattr(item, "__struct_fields__", ()) or getattr(item, "__dataclass_fields__", ())
    return [getattr(item, name, None) for name in names]


def success(request_id: RequestId, result: dict[str, Any]) -> bytes:
    """Return the response that carries `result`. Raises: ValueError, as `encode`."""
    return encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def success_of(request_id: RequestId, result: bytes) -> bytes:
    """Return the response that carries `result`, which is JSON already."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(request_id), result)


def failure(request_id: RequestId | None, code: int, message: str, data: Any = None) -> bytes:
    """Return an error response; `id` is left out when None, and so is `data`. Raises: ValueError, as `encode`."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    if request_id is None:
        return encode({"jsonrpc": "2.0", "error": error})
    return encode({"jsonrpc": "2.0", "id": request_id, "error": error})


def failure_of(error: WireError, request_id: RequestId | None, *, stateless: bool) -> bytes:
    """Return the error response for `error` with the code that its era knows (`errors.facing`). Never raises.

    What has no JSON form is escaped (the message) or left out (`data`): a caller always gets its answer.
    """
    row = facing(error)
    code = row.code if stateless else row.stateful_code
    if request_id is None and isinstance(error, ParseError):
        request_id = error.request_id
    try:
        return failure(request_id, code, error.message, error.data)
    except ValueError:
        return failure(request_id, code, str(error.message).encode("utf-8", "backslashreplace").decode())


def error_of(error: WireError) -> bytes:
    """Return the error object alone, with the code of stateless requests. Never raises.

    What has no JSON form is escaped (the message) or left out (`data`), as is data that no notification could carry.
    """
    code = facing(error).code
    plain = {"code": code, "message": error.message}
    try:
        data = encode(plain if error.data is None else {**plain, "data": error.data})
    except ValueError:
        return encode({**plain, "message": str(error.message).encode("utf-8", "backslashreplace").decode()})
    return data if len(data) <= MAX_SAID_BYTES // 2 else encode(plain)


def notification(method: str, params: dict[str, Any]) -> bytes:
    """Return a notification. Raises: ValueError, as `encode`, and for more than `MAX_SAID_BYTES`."""
    return _bounded(encode({"jsonrpc": "2.0", "method": method, "params": params}), method)


def request(request_id: RequestId, method: str, params: dict[str, Any]) -> bytes:
    """Return a request of ours (stateful connections only). Raises: ValueError, as `notification`."""
    return _bounded(encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}), method)


MAX_SAID_BYTES: Final = 1024 * 1024
"""Of one notification or question: what a call says on the way waits in queues and streams beside many others."""


def _bounded(data: bytes, method: str) -> bytes:
    if len(data) > MAX_SAID_BYTES:
        raise ValueError(f"{method} would be {len(data)} bytes long; at most {MAX_SAID_BYTES} are allowed")
    return data
