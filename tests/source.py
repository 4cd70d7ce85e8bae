"""The package's source as syntax trees, for the tests that look at the server rather than at what it does.

Used by `test_layers.py` and `test_shape.py`. Reads each file once per run. Deliberately not an importer: a rule must
hold for files that cannot even be imported here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mcpd"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One file: its path from the repository's root, its dotted module name, its text and its tree."""

    path: str
    module: str
    text: str
    tree: ast.Module


class Import(NamedTuple):
    """One imported module: by which module, where, whether only when a function runs, whether only for types."""

    importer: str
    imported: str
    line: int
    deferred: bool
    typing_only: bool


@cache
def package() -> tuple[Source, ...]:
    """Return every Python file of the package."""
    return tuple(_read(path) for path in sorted(PACKAGE.rglob("*.py")))


@cache
def tests() -> tuple[Source, ...]:
    """Return every Python file of the tests, benchmarks included."""
    found = (path for path in sorted((ROOT / "tests").rglob("*.py")) if "node_modules" not in path.parts)
    return tuple(_read(path) for path in found)


def _read(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Source(relative.as_posix(), module, text, ast.parse(text, filename=str(path)))


def imports(source: Source) -> Iterator[Import]:
    """Yield every import of a file, `from package import module` resolved to the module."""
    yield from _walk(source, source.tree, deferred=False, typing_only=False)


def _walk(source: Source, node: ast.AST, *, deferred: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in _names(child):
            yield Import(source.module, name, child.lineno, deferred, typing_only)  # type: ignore[attr-defined]
        inner_deferred = deferred or isinstance(child, Function)
        inner_typing = typing_only or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        yield from _walk(source, child, deferred=inner_deferred, typing_only=inner_typing)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [_resolve(node.module, alias.name) for alias in node.names]
    return []


def _resolve(module: str, name: str) -> str:
    where = ROOT.joinpath(*module.split("."))
    return f"{module}.{name}" if (where / f"{name}.py").is_file() or (where / name).is_dir() else module


def functions(source: Source) -> Iterator[tuple[str, Function]]:
    """Yield every function of a file with its dotted name (`Class.method`, `outer.inner`)."""
    yield from _functions(source.tree, "")


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if isinstance(child, Function):
                yield name, child
            yield from _functions(child, f"{name}.")
        else:
            yield from _functions(child, prefix)
