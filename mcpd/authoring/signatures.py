"""From a Python function to the schemas that clients see, and from a client's arguments to the function's keywords.

`inspect_function` reads parameters, type hints, defaults and docstring once; the `Signature` that results decodes
arguments with msgspec on every call, and finishes return values. What is advertised is what is accepted: where msgspec
and JSON Schema disagree, the schema wins. A whole float such as 3.0 is an integer; sets, patterns and whatever an
author adds through `extra_json_schema` are checked by `wire.schema` first.

Called by: `tools.registry`, the resource and prompt managers, a worker process (with `validate=False`: its parent has
checked already, so jsonschema_rs is not loaded). Deliberately not: calling the function.

Laws: nothing is compiled during a call. Unknown arguments are refused, those that n8n adds to every call dropped. The
schema's root is `type: object` and holds no `$ref` (TOOL-1). A function's own defaults are left to Python. `format` is
advertised and msgspec enforces it for dates, UUIDs, bytes and the like, which is stricter than the annotation.

Sources: MCP 2026-07-28 server/tools (TOOL-1..3), SEP-1303; JSON Schema 2020-12; msgspec's documentation of constraints.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mcpd.authoring.content import Block, encode_text, tool_result
from mcpd.authoring.context import Context
from mcpd.authoring.docstrings import parse
from mcpd.authoring.hints import UNDESCRIBABLE, cause_of, gaps, input_schema_of, output_schema_of
from mcpd.errors import RegistrationError, ToolError

Function = Callable[..., Any]
_MAX_TEXT_CHARS = 400
_ADDED = frozenset({"toolCallId", "sessionId", "action", "chatInput"})
"""What n8n's MCP client adds to the arguments of every call."""


class ArgumentError(ToolError):
    """The arguments break the advertised schema; the text begins with the failing path: `arguments.n: expected ...`."""


class PromptArgument(Struct, frozen=True):
    """One argument as prompts list it."""

    name: str
    description: str | None
    required: bool

    def entry(self) -> dict[str, Any]:
        """Return its member of a prompt's `arguments`."""
        text = {} if self.description is None else {"description": self.description}
        return {"name": self.name, **text, "required": self.required}


class Signature(Struct, frozen=True, kw_only=True):
    """A function as it is served."""

    name: str
    description: str | None
    context: str | None
    """Name of the parameter that wants the Context."""
    is_async: bool
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    text_result: bool
    """The return annotation is str, None or content: results carry no structured content."""
    arguments: tuple[PromptArgument, ...]
    decoder: type[Struct] | None
    """What msgspec decodes into; None when a raw schema rules."""
    accepts: frozenset[str] | None
    """Keywords the function takes; None: all (`**kwargs`)."""
    optional: bool
    strict: bool
    validator: Any = None
    """`wire.schema.Validator`, where msgspec alone would not do."""
    dropped: frozenset[str] = frozenset()
    """Arguments that clients add by themselves and this schema would refuse."""

    def decode(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check `arguments` and turn them into keyword arguments. Raises: ArgumentError with the failing path."""
        if self.validator is not None:
            arguments = self._known(arguments)
            problem = self.validator.check(arguments)
            if problem is not None:
                raise ArgumentError(problem)
        return self.bind(arguments)

    def bind(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Convert arguments that the schema has already been applied to. Raises: ArgumentError."""
        if self.decoder is None:
            return self._pick(self._known(arguments))
        try:
            value = msgspec.convert(arguments, self.decoder, strict=self.strict)
        except msgspec.ValidationError as error:
            value = self._retry(arguments, error)
        keywords = msgspec.structs.asdict(value)
        if self.optional:
            return {name: item for name, item in keywords.items() if item is not UNSET}
        return keywords

    def _known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.dropped.isdisjoint(arguments):
            return arguments
        return {name: value for name, value in arguments.items() if name not in self.dropped}

    def finish(self, value: Any) -> dict[str, Any]:
        """Turn a return value into a tool's result. Raises: ValueError for NaN, TypeError for non-JSON values."""
        return tool_result(value, text_only=self.text_result, structured=self.output_schema is not None)

    def _retry(self, arguments: dict[str, Any], error: msgspec.ValidationError) -> Struct:
        whole = _whole_floats(self._known(arguments))
        if self.decoder is None or whole is arguments:
            raise ArgumentError(_explain(error)) from None
        try:
            return msgspec.convert(whole, self.decoder, strict=self.strict)
        except msgspec.ValidationError as second:
            raise ArgumentError(_explain(second)) from None

    def _pick(self, arguments: dict[str, Any]) -> dict[str, Any]:
        for argument in self.arguments:
            if argument.required and argument.name not in arguments:
                raise ArgumentError(f'arguments: "{argument.name}" is missing')
        if self.accepts is None:
            return {name: value for name, value in arguments.items() if name != self.context}
        return {name: value for name, value in arguments.items() if name in self.accepts}


def _whole_floats(value: Any) -> Any:
    """Replace every 3.0 by 3; the very same object comes back when there is none."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        fresh = {key: _whole_floats(item) for key, item in value.items()}
        return fresh if any(fresh[key] is not value[key] for key in fresh) else value
    if isinstance(value, list):
        items = [_whole_floats(item) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def _explain(error: msgspec.ValidationError) -> str:
    text, _, path = str(error).rpartition(" - at `")
    if not text:
        return f"arguments: {path[:_MAX_TEXT_CHARS]}"
    where = path.removesuffix("`").replace("key` in `", "key in ").replace("$", "arguments", 1)
    return f"{where[:_MAX_TEXT_CHARS]}: {text[0].lower()}{text[1:_MAX_TEXT_CHARS]}"


def _dropped(schema: dict[str, Any]) -> frozenset[str]:
    """Return what is dropped from arguments: nothing where the schema may admit any name."""
    properties: dict[str, Any] = schema.get("properties", {})
    if schema.get("additionalProperties", True) is not False or "patternProperties" in schema:
        return frozenset()
    return _ADDED - properties.keys()


class _Parameter(Struct, frozen=True):
    name: str
    hint: Any
    default: Any


def inspect_function(
    fn: Function,
    *,
    input_schema: dict[str, Any] | None = None,
    output_schema: dict[str, Any] | None = None,
    strict: bool = True,
    validate: bool = True,
) -> Signature:
    """Read `fn` once. Raises: RegistrationError, naming the function and the offending part.

    A raw `input_schema` or `output_schema` takes the place of the one from the hints and is served as it is: arguments
    then reach the function unconverted, and a `**kwargs` parameter takes those it does not name. `strict=False` also
    accepts numbers and booleans written as text (prompt arguments, URI template variables). `validate=False` leaves
    `validator` out.
    """
    where = f"function {getattr(fn, '__name__', repr(fn))!r}"
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise RegistrationError(f"{where}: a generator cannot be served; return a list instead")
    hints = _hints(fn, where)
    context, parameters, open_ended = _parameters(fn, hints, where, raw=input_schema is not None)
    description, texts = parse(fn.__doc__)
    decoder, schema = None, input_schema
    if schema is None:
        decoder = _decoder(parameters, where)
        schema = _advertise(decoder, parameters, texts)
    output, text_result = _result(hints, output_schema, where)
    return Signature(
        name=getattr(fn, "__name__", "function"),
        description=description,
        context=context,
        is_async=_is_async(fn),
        input_schema=schema,
        output_schema=output,
        text_result=text_result,
        arguments=_prompt_arguments(parameters, schema, texts),
        decoder=decoder,
        accepts=None if open_ended else frozenset(p.name for p in parameters),
        optional=any(p.default is not inspect.Parameter.empty for p in parameters),
        strict=strict,
        validator=_validator(schema, decoder, where) if validate else None,
        dropped=_dropped(schema),
    )


def _is_async(fn: Function) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _hints(fn: Function, where: str) -> dict[str, Any]:
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target if inspect.isroutine(target) else type(target).__call__)
    known = {**_nonlocals(target)}
    if "Context" not in getattr(target, "__globals__", {}):
        known.setdefault("Context", Context)
    try:
        return get_type_hints(target, localns=known, include_extras=True)
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise RegistrationError(f"{where}: its type hints cannot be read: {error}") from None


def _nonlocals(fn: Any) -> dict[str, Any]:
    names = getattr(getattr(fn, "__code__", None), "co_freevars", ())
    found: dict[str, Any] = {}
    for name, cell in zip(names, getattr(fn, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _parameters(
    fn: Function, hints: dict[str, Any], where: str, *, raw: bool
) -> tuple[str | None, list[_Parameter], bool]:
    context, parameters, open_ended = None, [], False
    for name, parameter in inspect.signature(fn).parameters.items():
        hint = hints.get(name, Any)
        if _wants_context(hint):
            if context is not None:
                raise RegistrationError(f"{where}: two parameters want the Context, {context!r} and {name!r}")
            context = name
        elif raw and parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise RegistrationError(f"{where}: {name!r} cannot be given by name; use plain parameters")
        else:
            parameters.append(_Parameter(name, hint, parameter.default))
    return context, parameters, open_ended


def _wants_context(hint: Any) -> bool:
    return hint is Context or (Context in get_args(hint) and get_origin(hint) not in (list, dict, tuple))


def _decoder(parameters: list[_Parameter], where: str) -> type[Struct]:
    fields = [
        (p.name, p.hint) if p.default is inspect.Parameter.empty else (p.name, Union[p.hint, UnsetType], UNSET)  # noqa: UP007
        for p in parameters
    ]
    try:
        decoder = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        msgspec.json.schema(decoder)
    except UNDESCRIBABLE as error:
        raise RegistrationError(
            f"{where}: its parameters cannot be described ({cause_of(error)}); annotate with types that JSON has, a"
            " dataclass, a TypedDict, or Any"
        ) from None
    return decoder


def _advertise(decoder: type[Struct], parameters: list[_Parameter], texts: dict[str, str]) -> dict[str, Any]:
    schema = input_schema_of(decoder)
    for parameter in parameters:
        field = schema["properties"][parameter.name]
        if parameter.name in texts:
            field.setdefault("description", texts[parameter.name])
        if parameter.default is not inspect.Parameter.empty:
            _set_default(field, parameter)
    return schema


def _set_default(field: dict[str, Any], parameter: _Parameter) -> None:
    """Show a default where JSON can hold it and the parameter's own type admits it."""
    try:
        encode_text(parameter.default)
        plain = msgspec.to_builtins(parameter.default, str_keys=True)
        msgspec.convert(plain, parameter.hint)
    except (ValueError, TypeError):
        return
    field.setdefault("default", plain)


def _prompt_arguments(
    parameters: list[_Parameter], schema: dict[str, Any], texts: dict[str, str]
) -> tuple[PromptArgument, ...]:
    described = {
        name: field["description"]
        for name, field in schema.get("properties", {}).items()
        if isinstance(field, dict) and "description" in field
    }
    return tuple(
        PromptArgument(p.name, described.get(p.name, texts.get(p.name)), p.default is inspect.Parameter.empty)
        for p in parameters
    )


def _result(hints: dict[str, Any], raw: Any, where: str) -> tuple[Any, bool]:
    hint = hints.get("return", Any)
    if raw is not None:
        return raw, False
    if hint is Any or hint is object:
        return None, False
    if hint is str or hint is type(None) or _is_content(hint):
        return None, True
    return output_schema_of(hint, where), False


def _is_content(hint: Any) -> bool:
    if isinstance(hint, type):
        return issubclass(hint, Block) or hint in (str, type(None), type(...))
    parts = get_args(hint)
    return _mentions_block(hint) and all(_is_content(part) for part in parts if part is not ...)


def _mentions_block(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, Block):
        return True
    return any(_mentions_block(part) for part in get_args(hint))


def _validator(schema: dict[str, Any], decoder: type[Struct] | None, where: str) -> Any:
    if decoder is not None and not gaps(decoder, where):
        return None
    from mcpd.wire.schema import compile_schema

    if schema.get("type") != "object":
        raise RegistrationError(f"{where}: an input schema's root must have type 'object'")
    return compile_schema(schema, where=f"{where}, input schema")
