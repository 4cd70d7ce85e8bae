"""Values that pass between an author's function and the client: what it returns, what it asks, what is answered.

`Text`, `Image`, `Audio`, `ResourceLink` and `Embedded` are content blocks; `tool_result` turns any return value into a
tool's result. `Elicit`, `Sample` and `Roots` are questions: `request()` goes out, `answer(raw)` judges what comes back,
whichever way it came (a live response, or `inputResponses` of a repeated call).

Called by: authors, `context`, `signatures`, the managers. Deliberately not: anything that waits or sends.

Laws: bytes become padded base64 (TOOL-4). Structured content is also given as text (TOOL-3). NaN and infinity are a
ValueError, never `null`. An answer that does not fit its question is None, which means: ask again (MRT-8); it is judged
by the form that the server sent, never by one that the client returns. A question is asked only of a client that
declared its kind (MRT-3).

Sources: MCP 2026-07-28 server/tools, client/elicitation, client/sampling, client/roots; SEP-2106 (structured content).
"""

from __future__ import annotations

import json
from base64 import b64encode
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Struct

from mcpd.authoring.forms import check_form, check_url, form_of

MAX_FORMS_ITEMS = 256
"""Compiled forms that are kept; a tool asks with the same few."""


class Block(Struct, frozen=True, kw_only=True):
    """What all content blocks have: optional `annotations` (audience, priority, lastModified) and `_meta`."""

    annotations: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None

    def block(self) -> dict[str, Any]:
        """Return the block as it goes over the wire."""
        return _present(**self._body(), annotations=self.annotations, _meta=self.meta)

    def _body(self) -> dict[str, Any]:
        return {}


class Text(Block, frozen=True):
    """Plain text."""

    text: str

    def _body(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


class Image(Block, frozen=True):
    """An image, as the bytes of its file."""

    data: bytes
    mime_type: str = "image/png"

    def _body(self) -> dict[str, Any]:
        return {"type": "image", "data": b64encode(self.data).decode(), "mimeType": self.mime_type}


class Audio(Block, frozen=True):
    """A sound, as the bytes of its file."""

    data: bytes
    mime_type: str = "audio/wav"

    def _body(self) -> dict[str, Any]:
        return {"type": "audio", "data": b64encode(self.data).decode(), "mimeType": self.mime_type}


class ResourceLink(Block, frozen=True):
    """A pointer to a resource that the client may read."""

    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    """Bytes, if known."""
    icons: list[dict[str, Any]] | None = None

    def _body(self) -> dict[str, Any]:
        head = {"type": "resource_link", "uri": self.uri, "name": self.name, "title": self.title}
        tail = {"description": self.description, "mimeType": self.mime_type, "size": self.size, "icons": self.icons}
        return head | tail


class Embedded(Block, frozen=True):
    """A resource's content inside a result: exactly one of `text` and `blob`."""

    uri: str
    text: str | None = None
    blob: bytes | None = None
    mime_type: str | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.blob is None):
            raise ValueError("Embedded takes exactly one of text and blob")

    def _body(self) -> dict[str, Any]:
        blob = None if self.blob is None else b64encode(self.blob).decode()
        resource = _present(uri=self.uri, mimeType=self.mime_type, text=self.text, blob=blob)
        return {"type": "resource", "resource": resource}


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def tool_result(value: Any, *, text_only: bool = False, structured: bool = False) -> dict[str, Any]:
    """Turn a tool's return value into the members `content` and `structuredContent` of its result.

    A str is text, None is empty content, content values are their blocks; anything else is structured content and the
    same JSON as text. A pair of a dict and a list of content values is both: the values follow the JSON text.
    `text_only` leaves out `structuredContent`; `structured` (an output schema was advertised) gives it even for str
    and None.

    Raises: ValueError for NaN or infinity anywhere in `value`; TypeError for what JSON cannot hold.
    """
    if isinstance(value, tuple) and _is_pair(value):
        result = tool_result(value[0], text_only=text_only, structured=structured)
        return {**result, "content": [*result["content"], *(_block(item) for item in value[1])]}
    if structured:
        return _structured(value)
    if isinstance(value, str):
        return {"content": [{"type": "text", "text": value}]}
    blocks = _blocks(value)
    if blocks is None and text_only and not (isinstance(value, list | tuple) and not value):
        blocks = [{"type": "text", "text": encode_text(value)}]
    if blocks is not None or text_only:
        return {"content": blocks or []}
    return _structured(value)


def _is_pair(value: tuple[Any, ...]) -> bool:
    if not (len(value) == 2 and isinstance(value[0], dict)):
        return False
    return isinstance(value[1], list) and bool(value[1]) and all(isinstance(item, Block) for item in value[1])


def _structured(value: Any) -> dict[str, Any]:
    text = encode_text(value)
    return {"content": [{"type": "text", "text": text}], "structuredContent": msgspec.to_builtins(value, str_keys=True)}


def _blocks(value: Any) -> list[dict[str, Any]] | None:
    if value is None:
        return []
    if isinstance(value, Block):
        return [value.block()]
    if isinstance(value, list | tuple) and any(isinstance(item, Block) for item in value):
        return [_block(item) for item in value]
    return None


def _block(item: Any) -> dict[str, Any]:
    if isinstance(item, Block):
        return item.block()
    if isinstance(item, str):
        return {"type": "text", "text": item}
    raise TypeError(f"a list of content values cannot hold a {type(item).__name__}")


def encode_text(value: Any) -> str:
    """Write `value` as compact JSON text. Raises: ValueError for NaN or infinity, TypeError for non-JSON values.

    The writer turns NaN into `null` without a word, so only texts with a `null` in them are looked at twice.
    """
    encoded = msgspec.json.encode(value)
    if b"null" in encoded:
        json.dumps(msgspec.to_builtins(value, str_keys=True), allow_nan=False)
    return encoded.decode()


class ElicitAnswer(Struct, frozen=True):
    """What the user did with a form or link. `content` holds the asked fields of an accepted form, else nothing."""

    action: Literal["accept", "decline", "cancel"]
    content: dict[str, Any] = {}

    @property
    def accepted(self) -> bool:
        """True when the user agreed."""
        return self.action == "accept"

    def to_json(self) -> dict[str, Any]:
        """Return the plain JSON that `Elicit.answer` reads back."""
        return {"action": self.action, "content": self.content} if self.content else {"action": self.action}


class Elicit(Struct, frozen=True):
    """A question to the user: a form (`schema` as raw JSON Schema, or `fields` as `{name: type}`) or a page (`url`).

    A raw schema is sent as it is. `elicitation_id` is for url mode on 2025-11-25. Secrets never go through a form.
    Raises: ValueError or TypeError for a form that MCP does not allow.
    """

    message: str
    schema: dict[str, Any] | None = None
    fields: dict[str, Any] | None = None
    url: str | None = None
    elicitation_id: str | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.schema, self.fields, self.url)) != 1:
            raise TypeError("Elicit takes exactly one of schema, fields and url")
        if self.url is not None:
            check_url(self.url)
        else:
            check_form(self.form())

    def form(self) -> dict[str, Any]:
        """Return the requested schema. Raises: TypeError in url mode."""
        if self.schema is not None:
            return self.schema
        if self.fields is None:
            raise TypeError("a question in url mode has no form")
        return form_of(self.fields)

    def request(self) -> dict[str, Any]:
        """Return `{"method", "params"}`: the value of an input request, or the two members of a live one."""
        if self.url is None:
            params = {"message": self.message, "requestedSchema": self.form()}
        else:
            params = _present(mode="url", message=self.message, url=self.url, elicitationId=self.elicitation_id)
        return {"method": "elicitation/create", "params": params}

    def capability(self) -> dict[str, Any]:
        """Return the ClientCapabilities object that the client must have declared."""
        return {"elicitation": {} if self.url is None else {"url": {}}}

    def supported(self, capabilities: dict[str, Any]) -> bool:
        """Tell whether a client with these capabilities can be asked: `{"url": {}}` alone leaves forms out (MRT-3)."""
        declared = capabilities.get("elicitation")
        if not isinstance(declared, dict):
            return False
        return "url" in declared if self.url is not None else "form" in declared or "url" not in declared

    def answer(self, raw: Any) -> ElicitAnswer | None:
        """Judge an ElicitResult against the form; None: it does not fit. Fields that were not asked are left out."""
        action = raw.get("action") if isinstance(raw, dict) else None
        if action not in ("accept", "decline", "cancel"):
            return None
        if action != "accept" or self.url is not None:
            return ElicitAnswer(action)
        form, content = self.form(), raw.get("content", {})
        if not isinstance(content, dict) or not _form_validator(msgspec.json.encode(form)).fits(content):
            return None
        return ElicitAnswer(action, {name: content[name] for name in form["properties"] if name in content})


@lru_cache(maxsize=MAX_FORMS_ITEMS)
def _form_validator(form: bytes) -> Any:
    from mcpd.wire.schema import compile_schema

    return compile_schema(msgspec.json.decode(form), where="elicitation form", root="content", formats=True)


class SampleAnswer(Struct, frozen=True):
    """What the client's model said. `content` is one block or a list of blocks, as wire objects."""

    role: Literal["user", "assistant"]
    content: dict[str, Any] | list[dict[str, Any]]
    model: str
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """All text blocks joined; empty when there is none."""
        blocks = self.content if isinstance(self.content, list) else [self.content]
        return "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")

    def to_json(self) -> dict[str, Any]:
        """Return the plain JSON that `Sample.answer` reads back."""
        return _present(role=self.role, content=self.content, model=self.model, stopReason=self.stop_reason)


class Sample(Struct, frozen=True):
    """A question to the client's model.

    `messages` is a prompt, or a list of prompts, content values, `(role, prompt or content)` pairs and raw messages.
    `max_tokens` bounds the reply. `tools`, `tool_choice` and an `include_context` other than "none" need a client that
    declared them.
    """

    messages: str | list[Any]
    max_tokens: int = 1024
    system_prompt: str | None = None
    temperature: float | None = None
    stop_sequences: list[str] | None = None
    model_preferences: dict[str, Any] | None = None
    include_context: Literal["none", "thisServer", "allServers"] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    def request(self) -> dict[str, Any]:
        """Return `{"method", "params"}`: the value of an input request, or the two members of a live one."""
        messages = [self.messages] if isinstance(self.messages, str) else self.messages
        params = _present(
            messages=[_message(item) for item in messages],
            maxTokens=self.max_tokens,
            systemPrompt=self.system_prompt,
            temperature=self.temperature,
            stopSequences=self.stop_sequences,
            modelPreferences=self.model_preferences,
            includeContext=self.include_context,
            tools=self.tools,
            toolChoice=self.tool_choice,
            metadata=self.metadata,
        )
        return {"method": "sampling/createMessage", "params": params}

    def capability(self) -> dict[str, Any]:
        """Return the ClientCapabilities object that the client must have declared."""
        return {"sampling": {need: {} for need in self._needs()}}

    def supported(self, capabilities: dict[str, Any]) -> bool:
        """Tell whether a client with these capabilities can be asked (MRT-3)."""
        declared = capabilities.get("sampling")
        return isinstance(declared, dict) and all(need in declared for need in self._needs())

    def answer(self, raw: Any) -> SampleAnswer | None:
        """Judge a CreateMessageResult; None: it is not one."""
        if not isinstance(raw, dict) or raw.get("role") not in ("user", "assistant"):
            return None
        content, model, reason = raw.get("content"), raw.get("model"), raw.get("stopReason")
        blocks = content if isinstance(content, list) else [content]
        if not all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in blocks):
            return None
        if not isinstance(model, str) or not isinstance(reason, str | None):
            return None
        return SampleAnswer(raw["role"], raw["content"], model, reason)

    def _needs(self) -> list[str]:
        needs = ["tools"] if self.tools is not None or self.tool_choice is not None else []
        return needs if self.include_context in (None, "none") else [*needs, "context"]


def _message(item: Any) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    role, content = item if isinstance(item, tuple) else ("user", item)
    return {"role": role, "content": _block(content)}


class Root(Struct, frozen=True):
    """A folder or file that the client lets the server work on; `uri` begins with `file://`."""

    uri: str
    name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return one member of the `roots` list that `Roots.answer` reads back."""
        return _present(uri=self.uri, name=self.name)


class Roots(Struct, frozen=True):
    """A question to the client: which roots it has."""

    def request(self) -> dict[str, Any]:
        """Return `{"method", "params"}`: the value of an input request, or the two members of a live one."""
        return {"method": "roots/list", "params": {}}

    def capability(self) -> dict[str, Any]:
        """Return the ClientCapabilities object that the client must have declared."""
        return {"roots": {}}

    def supported(self, capabilities: dict[str, Any]) -> bool:
        """Tell whether a client with these capabilities can be asked (MRT-3)."""
        return isinstance(capabilities.get("roots"), dict)

    def answer(self, raw: Any) -> list[Root] | None:
        """Judge a ListRootsResult; None: it is not one."""
        roots = raw.get("roots") if isinstance(raw, dict) else None
        if not isinstance(roots, list) or not all(_is_root(root) for root in roots):
            return None
        return [Root(root["uri"], root.get("name")) for root in roots]


def _is_root(root: Any) -> bool:
    if not isinstance(root, dict) or not isinstance(root.get("name"), str | None):
        return False
    uri = root.get("uri")
    return isinstance(uri, str) and uri.startswith("file://")
