"""The decorators `@tool`, `@resource`, `@prompt` and `@completion`, and how their work is found again.

A decorator leaves the function as it is and hangs a frozen declaration on it; nothing is registered anywhere, so a
module can be imported without a server. `collect` reads a module's declarations in the order they were written, `load`
imports the file or module that a user named.

Called by: authors; `assembly` and a worker process (`load`), the managers (the declarations). Deliberately not:
schemas, which are made by `signatures` when a manager takes the declaration.

Laws: a raw schema is copied here and served as it was given. A mistake in a declaration is a RegistrationError that
names the function; a failure in the author's own module is one too, with its place.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from msgspec import Struct, structs

from mcpd.errors import RegistrationError

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)
_MARK = "__mcpd__"
TASK_SUPPORT = ("optional", "required", "forbidden")


class ToolDeclaration(Struct, frozen=True, kw_only=True):
    """One tool as its author declared it. None: not given."""

    name: str
    fn: Function
    title: str | None = None
    description: str | None = None
    timeout_s: float | None = None
    concurrency: int | None = None
    rate: str | None = None
    isolation: Literal["process"] | None = None
    task: Literal["optional", "required", "forbidden"] | None = None
    asks_first: bool = False
    scopes: tuple[str, ...] = ()
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    source: str = ""
    """File or module that `load` found it in, for a worker process to load again; empty when it came another way."""


class ResourceDeclaration(Struct, frozen=True, kw_only=True):
    """One resource, or a template of many when `uri` holds `{variables}`."""

    uri: str
    name: str
    fn: Function
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    scopes: tuple[str, ...] = ()
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = None
    ttl_ms: int | None = None
    cache_scope: Literal["public", "private"] | None = None
    size: int | None = None


class PromptDeclaration(Struct, frozen=True, kw_only=True):
    """One prompt."""

    name: str
    fn: Function
    title: str | None = None
    description: str | None = None
    scopes: tuple[str, ...] = ()
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = None


class CompletionDeclaration(Struct, frozen=True, kw_only=True):
    """Completes `argument` (None: every argument) of the prompt or resource template that `for_` names."""

    for_: str
    fn: Function
    argument: str | None = None


Declaration = ToolDeclaration | ResourceDeclaration | PromptDeclaration | CompletionDeclaration


class ToolOptions(TypedDict, total=False):
    """Keywords of `@tool`. `timeout_s` bounds one call, `concurrency` how many run at once, `rate` one caller's calls.

    A rate is written `5/m` or `5/10s`. `task`: whether clients that know tasks get one; `asks_first`: only from
    `Context.start_task` on.
    """

    name: str
    title: str
    description: str
    timeout_s: float
    concurrency: int
    rate: str
    isolation: Literal["process"]
    task: Literal["optional", "required", "forbidden"]
    asks_first: bool
    scopes: Sequence[str]
    annotations: dict[str, Any]
    icons: list[dict[str, Any]]
    meta: dict[str, Any]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class ResourceOptions(TypedDict, total=False):
    """Keywords of `@resource`. `ttl_ms` and `cache_scope` are cache hints, `size` is in bytes."""

    name: str
    title: str
    description: str
    mime_type: str
    scopes: Sequence[str]
    annotations: dict[str, Any]
    icons: list[dict[str, Any]]
    meta: dict[str, Any]
    ttl_ms: int
    cache_scope: Literal["public", "private"]
    size: int


class PromptOptions(TypedDict, total=False):
    """Keywords of `@prompt`."""

    name: str
    title: str
    description: str
    scopes: Sequence[str]
    icons: list[dict[str, Any]]
    meta: dict[str, Any]


@overload
def tool(fn: F, /) -> F: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
def tool(fn: Any = None, /, **options: Any) -> Any:
    """Declare a tool, bare or with `ToolOptions`. Raises: RegistrationError for options that cannot be."""
    return _decorate(_tool, fn, options)


def _tool(fn: Function, options: dict[str, Any]) -> ToolDeclaration:
    for key in ("input_schema", "output_schema"):
        options[key] = copy.deepcopy(options.get(key))
    if options.get("isolation") not in (None, "process"):
        raise ValueError("isolation is 'process', or is left out")
    if options.get("task") not in (None, *TASK_SUPPORT):
        raise ValueError("task is 'optional', 'required' or 'forbidden', or is left out")
    if options.get("asks_first") and (options.get("task") == "forbidden" or options.get("isolation")):
        raise ValueError(
            "asks_first is for tools that may become tasks, and not for worker processes, which cannot ask"
        )
    if options.get("timeout_s", 1) <= 0 or options.get("concurrency", 1) < 1:
        raise ValueError("timeout_s and concurrency are positive")
    return ToolDeclaration(fn=fn, **_named(fn, options))


def resource(uri: str, /, **options: Unpack[ResourceOptions]) -> Callable[[F], F]:
    """Declare the resource `uri`, or a template such as `notes://{id}`: its variables are the function's parameters."""
    if not isinstance(uri, str):
        raise RegistrationError("@resource needs a URI: @resource('notes://today')")
    return _decorator(lambda fn, given: ResourceDeclaration(uri=uri, fn=fn, **_named(fn, given)), {**options})


@overload
def prompt(fn: F, /) -> F: ...
@overload
def prompt(**options: Unpack[PromptOptions]) -> Callable[[F], F]: ...
def prompt(fn: Any = None, /, **options: Any) -> Any:
    """Declare a prompt, bare or with `PromptOptions`."""
    return _decorate(lambda fn, given: PromptDeclaration(fn=fn, **_named(fn, given)), fn, options)


def completion(*, for_: str, argument: str | None = None) -> Callable[[F], F]:
    """Declare `(value, arguments) -> list[str]`, which completes an argument of a prompt or resource template.

    `for_` is the prompt's name or the template's URI.
    """
    return _decorator(lambda fn, given: CompletionDeclaration(fn=fn, **given), {"for_": for_, "argument": argument})


def _named(fn: Function, options: dict[str, Any]) -> dict[str, Any]:
    scopes = options.get("scopes", ())
    scopes = (scopes,) if isinstance(scopes, str) else tuple(scopes)
    return {**options, "name": options.get("name") or fn.__name__, "scopes": scopes}


def _decorate(make: Callable[[Function, dict[str, Any]], Declaration], fn: Any, options: dict[str, Any]) -> Any:
    decorator = _decorator(make, options)
    return decorator if fn is None else decorator(fn)


def _decorator(make: Callable[[Function, dict[str, Any]], Declaration], options: dict[str, Any]) -> Callable[[F], F]:
    def decorate(fn: F) -> F:
        if not callable(fn):
            raise RegistrationError(f"a decorator of mcpd goes on a function, not on {fn!r}")
        try:
            declaration = make(fn, dict(options))
        except (TypeError, ValueError, AttributeError) as error:
            raise RegistrationError(f"{getattr(fn, '__qualname__', fn)!r}: {error}") from None
        setattr(fn, _MARK, [*declarations_of(fn), declaration])
        return fn

    return decorate


def declarations_of(fn: Function) -> list[Declaration]:
    """Return what the decorators left on `fn`, innermost first."""
    marks = getattr(fn, "__dict__", {}).get(_MARK, [])
    return list(marks)


def collect(module: ModuleType) -> list[Declaration]:
    """Return a module's declarations in definition order, imported ones included, each once."""
    found: dict[int, Declaration] = {}
    for value in vars(module).values():
        if callable(value):
            found.update({id(declaration): declaration for declaration in declarations_of(value)})
    return list(found.values())


def load(spec: str) -> list[Declaration]:
    """Import a file (`tools/mine.py`) or module (`mine.tools`) and collect its declarations.

    Raises: RegistrationError when there is no such thing, when it fails, or when it declares nothing.
    """
    is_file = spec.endswith(".py") or "/" in spec or Path(spec).is_file()
    try:
        module = _import_file(Path(spec)) if is_file else _import_module(spec)
    except RegistrationError:
        raise
    except (Exception, SystemExit) as error:
        # The author's own code may raise anything; the user learns what and where.
        raise RegistrationError(f"{spec}: {_blame(error)}") from error
    declarations = [_from(spec, declaration) for declaration in collect(module)]
    if not declarations:
        raise RegistrationError(f"{spec}: nothing in it is decorated with @tool, @resource, @prompt or @completion")
    return declarations


def _from(spec: str, declaration: Declaration) -> Declaration:
    return structs.replace(declaration, source=spec) if isinstance(declaration, ToolDeclaration) else declaration


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    if path.is_dir():
        raise RegistrationError(f"{path}: is a folder; name a file in it, or a module")
    if not path.is_file():
        raise RegistrationError(f"{path}: there is no such file")
    name = f"author_{path.stem.replace('-', '_')}_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RegistrationError(f"{path}: not a Python file")
    _make_importable(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise RegistrationError(f"{name}: there is no such module, and no such file either") from None
        raise


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _blame(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
