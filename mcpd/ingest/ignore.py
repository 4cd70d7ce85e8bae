r"""The patterns of `.gitignore` files: what git would leave out.

    parse_rules   the text of one file -> its rules
    ignored       rules, a path within the file's folder -> True, False (a `!` rule), None (no rule matches)
    glob_rule     one pattern in the same language, for `--glob`

As git has it: the last rule that matches counts; `#` comments, `!` takes back, `\` escapes; a trailing `/` means
folders only; a `/` at the start or within binds a pattern to the file's folder, else it is for names at any depth; `*`
and `?` stop at `/`; `**/`, `/**/` and `/**` do not; `[a-z]`, `[!a]`, `[[:alpha:]]`. What git cannot read matches
nothing. A file within an ignored folder cannot be taken back: whoever walks never enters that folder.

Called by: `walking`. Pure. Deliberately not: `.git/info/exclude` and the user's own excludes, which are not part of
what is read.

Laws: matching takes time linear in path and pattern: each star is bound, once and for all, to the first place that
fits, which is enough for a glob.

Sources: gitignore(5); glob(7); git's wildmatch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

MAX_PATTERN_CHARS: Final = 4096
"""Longer than any path; a longer pattern is no rule."""

MAX_RULES_ITEMS: Final = 10_000

_POSIX: Final = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "lower": "a-z", "upper": "A-Z", "space": r" \t-\r",
    "blank": r" \t", "xdigit": "0-9a-fA-F", "punct": r"!-.:-@\[-`{-~", "cntrl": r"\x00-\x1f\x7f", "print": r" -~",
    "graph": r"!-~",
}  # fmt: skip
_NOTHING: Final = "(?!)"


class Rule(NamedTuple):
    """One line."""

    pattern: re.Pattern[str]
    by_name: bool
    """Compared with the last part of a path, not with all of it."""
    folders_only: bool
    negated: bool


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules of a `.gitignore`, in their order; at most `MAX_RULES_ITEMS`."""
    lines = text.removeprefix("\ufeff").split("\n", MAX_RULES_ITEMS)[:MAX_RULES_ITEMS]
    return tuple(rule for rule in map(_rule, lines) if rule is not None)


def ignored(rules: Sequence[Rule], path: str, *, folder: bool) -> bool | None:
    """Say what the rules say of `path`, which is relative to their folder, with `/`; None when they say nothing."""
    name = path.rpartition("/")[2]
    for rule in reversed(rules):
        if (folder or not rule.folders_only) and rule.pattern.fullmatch(name if rule.by_name else path):
            return not rule.negated
    return None


def glob_rule(glob: str) -> Rule:
    """Return the rule for one pattern, in which `!` and `#` at the start mean themselves.

    Raises: ValueError for a pattern that can match nothing.
    """
    rule = _rule("\\" + glob if glob[:1] in ("!", "#") else glob)
    if rule is None or rule.pattern.pattern == _NOTHING:
        raise ValueError(f"{glob!r} is no pattern")
    return rule


def _rule(line: str) -> Rule | None:
    line = _without_trailing_blanks(line.removesuffix("\r"))
    if not line or line.startswith("#") or len(line) > MAX_PATTERN_CHARS:
        return None
    negated = line.startswith("!")
    body = line[1:] if negated else line
    folders_only = body.endswith("/")
    body = body.rstrip("/") if folders_only else body
    by_name = "/" not in body
    body = body.removeprefix("/")
    if not body:
        return None
    return Rule(re.compile(_path(body), re.DOTALL), by_name, folders_only, negated)


def _without_trailing_blanks(line: str) -> str:
    stripped = line.rstrip(" ")
    escapes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if escapes % 2 and len(stripped) < len(line) else stripped


def _path(pattern: str) -> str:
    """Translate into a regular expression; runs of parts between `**` are looked for one after the other."""
    try:
        runs = [[_part(part) for part in run] for run in _runs(pattern.split("/"))]
    except ValueError:
        return _NOTHING
    first, *middle, last = runs if len(runs) > 1 else [runs[0], None]
    if last is None:
        return "/".join(first or [])
    written = ["/".join(first) + "/"] if first else []
    written += [f"(?>(?:[^/]+/)*?{'/'.join(run)}/)" for run in middle if run]
    return "".join(written) + (f"(?:[^/]+/)*{'/'.join(last)}" if last else "[^/].*")


def _runs(parts: list[str]) -> Iterator[list[str]]:
    run: list[str] = []
    for part in parts:
        if part == "**":
            yield run
            run = []
        else:
            run.append(part)
    yield run


def _part(part: str) -> str:
    """Translate what stands between two slashes. Raises: ValueError for an open bracket, or an escape of nothing."""
    pieces: list[list[str]] = [[]]
    for sign in _signs(part):
        if sign == "*":
            pieces.append([])
        else:
            pieces[-1].append(sign)
    first, *others = ["".join(piece) for piece in pieces]
    if not others:
        return first
    found = "".join(f"(?>[^/]*?{piece})" for piece in others[:-1] if piece)
    return f"{first}{found}[^/]*{others[-1]}"


def _signs(part: str) -> Iterator[str]:
    """Yield the regular expression of each character, and `*` for a star."""
    index = 0
    while index < len(part):
        index, sign = _sign(part, index)
        yield sign


def _sign(part: str, index: int) -> tuple[int, str]:
    if part[index] == "[":
        return _bracket(part, index + 1)
    if part[index] in "*?":
        return index + 1, "*" if part[index] == "*" else "[^/]"
    index, letter = _letter(part, index)
    return index, re.escape(letter)


def _bracket(part: str, start: int) -> tuple[int, str]:
    """Return the index behind the closing bracket, and the class. Raises: ValueError when it is not closed."""
    negated = part[start : start + 1] in ("!", "^")
    index = begin = start + negated
    members: list[str] = []
    while index < len(part) and (part[index] != "]" or index == begin):
        index, member = _member(part, index)
        members.append(member)
    if index >= len(part):
        raise ValueError("the bracket is not closed")
    inside = "".join(members)
    if not inside:
        return index + 1, "[^/]" if negated else _NOTHING
    return index + 1, f"(?!/)[{'^' if negated else ''}{inside}]"


def _member(part: str, index: int) -> tuple[int, str]:
    """Return the index behind one letter, range or named class of a bracket, and how it is written."""
    if part.startswith("[:", index) and (end := part.find(":]", index + 2)) >= 0:
        if (named := _POSIX.get(part[index + 2 : end])) is None:
            raise ValueError("no such class")
        return end + 2, named
    index, low = _letter(part, index)
    if part[index : index + 1] != "-" or part[index + 1 : index + 2] in ("]", ""):
        return index, re.escape(low)
    index, high = _letter(part, index + 1)
    return index, f"{re.escape(low)}-{re.escape(high)}" if low <= high else ""


def _letter(part: str, index: int) -> tuple[int, str]:
    if part[index] == "\\":
        index += 1
    if index >= len(part):
        raise ValueError("nothing to escape")
    return index + 1, part[index]
