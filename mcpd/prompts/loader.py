"""Prompts from files: what the formats are, and a loader that follows the files as they change.

    *.json   an object keyed by id; each entry has `name` (else the id with - for _), `title`, `description` and
             `arguments` [{name, description, required}], and one of
               `template`  the text of a user message
               `content`   {description, capabilities[], instruction}: a system prompt, "You are ... with expertise in"
    *.md     TOML front matter between two lines `+++`: `name` (else the file's), `title`, `description`, `role`,
             [[arguments]]; what follows is the template

`{name}` or `{{name}}` in a template stands for a declared argument, an absent optional one is empty; any other brace is
text. A value is put in as it is and not read again. `role` may be user, assistant or system; the protocol has no system
messages, so that one is sent as the user's.

Called by: `app`, which runs it as a service and hands what it finds to `PromptManager.adopt`. Deliberately not: a
registry; it knows nothing of prompts declared in code.

Laws: snapshot, then swap (law 10); a bad file is reported once for each change and keeps what it last gave, the others
are served; a later folder wins over an earlier one; file sizes and their number are bounded (law 8).

Sources: surfaces "Writing tools", Prompts; MCP 2026-07-28 server/prompts (PRM-1).
"""

from __future__ import annotations

import json
import logging
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from mcpd.authoring.declarations import PromptDeclaration
from mcpd.authoring.signatures import PromptArgument
from mcpd.errors import counted

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES_ITEMS = 1000
POLL_S = 2.0
"""Time between two looks at the folders: a look is a directory listing, a change is rare."""

_log = logging.getLogger(__name__)
_ROLES = {"user": "user", "assistant": "assistant", "system": "user"}
_PLACEHOLDER = re.compile(r"\{\{\s*([\w-]+)\s*\}\}|\{([\w-]+)\}")
_FRONT_MATTER = re.compile(r"\ufeff?(\+\+\+|---)[ \t]*\r?\n(.*?)^\1[ \t]*\r?$", re.DOTALL | re.MULTILINE)

Stamp = tuple[int, int, int]


class BadPrompt(Exception):
    """A file or one entry of it is no prompt; the text says where and why."""


class FilePrompt(PromptDeclaration, frozen=True, kw_only=True):
    """A prompt from a file: its function takes `arguments` as they are, all of them strings."""

    arguments: tuple[PromptArgument, ...] = ()


class _Argument(msgspec.Struct):
    name: str
    description: str | None = None
    required: bool = False


class _System(msgspec.Struct):
    description: str
    instruction: str = ""
    capabilities: list[str] = []


class _Entry(msgspec.Struct):
    name: str
    title: str | None = None
    description: str | None = None
    arguments: list[_Argument] = []
    role: str = "user"
    template: str | None = None
    content: _System | None = None


class _File(msgspec.Struct, frozen=True):
    """What one file last gave."""

    stamp: Stamp
    prompts: list[FilePrompt]


class PromptLoader:
    """Reads the prompt files of some folders, later ones winning, and reads again those that change."""

    def __init__(self, folders: Sequence[Path], *, poll_s: float = POLL_S) -> None:
        self._folders = tuple(folders)
        self._poll_s = poll_s
        self._files: dict[Path, _File] = {}
        self._absent: set[Path] = set()

    def load(self) -> list[FilePrompt]:
        """Return all prompts, reading only files that are new or changed; what cannot be read is logged.

        Blocks on the file system. An unchanged file gives the same objects as before.
        """
        files: dict[Path, _File] = {}
        found: dict[str, FilePrompt] = {}
        for folder in self._folders:
            names: set[str] = set()
            for path, stamp in self._look(folder):
                files[path] = self._read(path, stamp)
                self._merge(files[path].prompts, path, names, found)
        self._files = files
        return list(found.values())

    def _look(self, folder: Path) -> list[tuple[Path, Stamp]]:
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".md"))
            self._absent.discard(folder)
        except OSError as error:
            if folder not in self._absent:
                _log.warning("no prompts from %s: %s", folder, error.strerror)
            self._absent.add(folder)
            return []
        stamped = [(path, _stamp(path)) for path in paths[:MAX_FILES_ITEMS]]
        return [(path, stamp) for path, stamp in stamped if stamp is not None]

    def _read(self, path: Path, stamp: Stamp) -> _File:
        last = self._files.get(path)
        if last is not None and last.stamp == stamp:
            return last
        try:
            return _File(stamp, parse_file(path.name, _text(path)))
        except (BadPrompt, OSError) as error:
            kept = [] if last is None else last.prompts
            _log.error("prompt file %s: %s; serving the %s it had before", path, error, counted(len(kept), "prompt"))
            return _File(stamp, kept)

    def _merge(self, prompts: list[FilePrompt], path: Path, names: set[str], found: dict[str, FilePrompt]) -> None:
        for prompt in prompts:
            if prompt.name in names:
                _log.error("prompt file %s: %r is already in another file of its folder; left out", path, prompt.name)
                continue
            names.add(prompt.name)
            found[prompt.name] = prompt

    async def run(
        self,
        on_loaded: Callable[[list[FilePrompt]], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Load, give the result to `on_loaded`, report started, then look again every `poll_s` for ever.

        `on_loaded` gets every look's result; `PromptManager.adopt` tells whether it is a change.
        Cancellation: safe; a look that is under way is abandoned.
        """
        on_loaded(await trio.to_thread.run_sync(self.load, abandon_on_cancel=True))
        task_status.started()
        while True:
            await trio.sleep(self._poll_s)
            on_loaded(await trio.to_thread.run_sync(self.load, abandon_on_cancel=True))


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise BadPrompt(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPrompt(f"not UTF-8 at byte {error.start}") from None


def parse_file(name: str, text: str) -> list[FilePrompt]:
    """Return the prompts in the text of a file called `name`. Pure.

    Raises: BadPrompt naming the entry and the member that is wrong.
    """
    entries = _json_entries(text) if name.endswith(".json") else [_markdown_entry(name.removesuffix(".md"), text)]
    prompts = [_declaration(_checked(identity, raw)) for identity, raw in entries]
    if len({prompt.name for prompt in prompts}) < len(prompts):
        raise BadPrompt("two entries have the same name")
    return prompts


def _json_entries(text: str) -> list[tuple[str, Any]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPrompt(f"not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise BadPrompt("must be an object keyed by prompt id")
    return [(key.replace("_", "-"), raw) for key, raw in entries.items()]


def _markdown_entry(stem: str, text: str) -> tuple[str, Any]:
    found = _FRONT_MATTER.match(text)
    if found is None:
        raise BadPrompt("must begin with TOML between two lines '+++'")
    try:
        head = tomllib.loads(found[2])
    except tomllib.TOMLDecodeError as error:
        raise BadPrompt(f"front matter: {error}") from None
    return stem, {**head, "template": text[found.end() :].strip()}


def _checked(identity: str, raw: Any) -> _Entry:
    try:
        entry = msgspec.convert({"name": identity, **raw} if isinstance(raw, dict) else raw, _Entry)
    except msgspec.ValidationError as error:
        raise BadPrompt(f"{identity!r}: {error}") from None
    problem = _problem(entry)
    if problem is not None:
        raise BadPrompt(f"{identity!r}: {problem}")
    return entry


def _problem(entry: _Entry) -> str | None:
    names = [argument.name for argument in entry.arguments]
    if not (0 < len(entry.name) <= 128 and entry.name.isprintable()):
        return "'name' must be 1 to 128 printable characters"
    if entry.role not in _ROLES:
        return "'role' must be user, assistant or system"
    if (entry.template is None) == (entry.content is None):
        return "give either 'template' or 'content'"
    if entry.template == "" or (entry.content is not None and not entry.content.description.strip()):
        return "the template, or the content's description, is empty"
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        return "argument names must differ and be made of letters, digits, _ and -"
    return None


def _declaration(entry: _Entry) -> FilePrompt:
    template, names = _template(entry), frozenset(argument.name for argument in entry.arguments)
    role = _ROLES[entry.role]

    async def render(**arguments: str) -> list[tuple[str, str]]:
        return [(role, fill(template, names, arguments))]

    return FilePrompt(
        name=entry.name,
        title=entry.title,
        description=entry.description or (entry.content.description if entry.content else None),
        arguments=tuple(PromptArgument(given.name, given.description, given.required) for given in entry.arguments),
        fn=render,
    )


def fill(template: str, names: frozenset[str], arguments: dict[str, str]) -> str:
    """Put arguments into a template; only `names` are placeholders, everything else is text. Pure."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return arguments.get(name, "") if name in names else found[0]

    return _PLACEHOLDER.sub(value, template)


def _template(entry: _Entry) -> str:
    if entry.content is None:
        return entry.template or ""
    content = entry.content
    listed = "\n".join(f"- {capability}" for capability in content.capabilities)
    opening = f"You are {with_article(content.description)}"
    opening += f" with expertise in:\n{listed}" if listed else "."
    return f"{opening}\n\n{content.instruction}".strip()


def with_article(noun: str) -> str:
    """Return `noun` ready to follow "You are": "Expert in X" -> "an expert in X", "SQL expert" -> "an SQL expert"."""
    first = noun.split(" ", 1)[0]
    if first.lower() in ("a", "an", "the"):
        return first.lower() + noun[len(first) :]
    acronym = len(first) > 1 and first.isupper()
    vowels = "AEFHILMNORSX" if acronym else "AEIOU"
    article = "an" if noun[:1].upper() in vowels else "a"
    return f"{article} {noun if acronym else noun[:1].lower() + noun[1:]}"
