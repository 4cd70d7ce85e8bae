"""What `list_files` shows: a glob, and a walk that can be stopped and taken up again anywhere.

`Glob` decides which names match and which folders are worth entering; `walk` visits a folder in one fixed order (each
folder's names sorted, a folder before what is in it) and can begin behind any path, whether or not that still exists.
So a page needs no memory of the one before: the cursor is the last path that was visited.

Called by `files`; everything it sees comes from `jail.Jail`, which does not follow links. Folders that cannot be
entered, or vanish on the way, are passed over. At most one folder is open at a time.
"""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from mcpd.errors import ToolError
from mcpd.tools.builtin.jail import Found, Jail
from mcpd.tools.builtin.protected import Parts

States = frozenset[int]

_ANY_DEPTH = "**"


class Glob:
    """A pattern of `/`-separated names, where `**` stands for any number of folders.

    A pattern without `/` is matched against names alone: of the folder itself, or of everything below it when
    `recursive`. Matching takes time linear in the pattern, and never backtracks from one name into another.
    """

    def __init__(self, pattern: str | None, *, recursive: bool) -> None:
        names = [name for name in (pattern or "*").split("/") if name not in ("", ".")] or ["*"]
        if recursive and len(names) == 1:
            names = [_ANY_DEPTH, *names]
        self._steps = [None if name == _ANY_DEPTH else re.compile(fnmatch.translate(name)) for name in names]
        self.start: States = self._skip({0})

    def step(self, states: States, name: str) -> States:
        """Go one name deeper."""
        after: set[int] = set()
        for state in states:
            if state < len(self._steps):
                pattern = self._steps[state]
                if pattern is None:
                    after.add(state)
                elif pattern.match(name):
                    after.add(state + 1)
        return self._skip(after)

    def accepts(self, states: States) -> bool:
        """Tell whether the path that led here matches."""
        return len(self._steps) in states

    def goes_on(self, states: States) -> bool:
        """Tell whether anything below the path that led here can match."""
        return any(state < len(self._steps) for state in states)

    def _skip(self, states: set[int]) -> States:
        for at, pattern in enumerate(self._steps):
            if pattern is None and at in states:
                states.add(at + 1)
        return frozenset(states)


class Visit(NamedTuple):
    """One entry that a walk came by."""

    parts: Parts
    found: Found
    matches: bool


class _Frame(NamedTuple):
    parts: Parts
    states: States
    resume: Parts
    entries: Iterator[Found]


def walk(jail: Jail, base: Parts, glob: Glob, *, after: Parts = (), limit: int) -> Iterator[Visit]:
    """Visit what is below `base`, from behind the path `after` (relative to `base`) on.

    `limit` bounds how many entries of one folder are looked at: take no more visits than that.

    Raises: ToolError when `base` itself cannot be listed.
    """
    stack = [_Frame(base, glob.start, after, _entries(jail, base, after, limit))]
    while stack:
        frame = stack[-1]
        found = next(frame.entries, None)
        if found is None:
            stack.pop()
            continue
        parts, states = (*frame.parts, found.name), glob.step(frame.states, found.name)
        seen = frame.resume[:1] == (found.name,)
        if not seen:
            yield Visit(parts, found, glob.accepts(states))
        if stat.S_ISDIR(found.status.st_mode) and glob.goes_on(states):
            resume = frame.resume[1:] if seen else ()
            stack.append(_Frame(parts, states, resume, _entries_or_none(jail, parts, resume, limit)))


def _entries(jail: Jail, parts: Parts, resume: Parts, limit: int) -> Iterator[Found]:
    return iter(jail.scan(parts, first=resume[0] if resume else "", limit=limit + 1))


def _entries_or_none(jail: Jail, parts: Parts, resume: Parts, limit: int) -> Iterator[Found]:
    try:
        return _entries(jail, parts, resume, limit)
    except ToolError:
        return iter(())
