"""What `mcpd check` finds: the configuration in force, and everything that would keep a server from starting with it.

Each check is one small function that yields findings; all run even when one of them finds something. Nothing is
changed, and nobody is called over the network but the stores.

Called by: `commands`. Calls what `app` would call at start, one piece after the other. Deliberately not: a start of the
server, and no judgement on what is allowed but unwise.

Sources: surfaces "Command line" (check), "Access", "Writing tools".
"""

from __future__ import annotations

import difflib
import os
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from mcpd import settings
from mcpd.authoring.declarations import ToolDeclaration, load
from mcpd.config import Config
from mcpd.drivers.mounts import network_file_system
from mcpd.errors import ConfigurationError, McpdError, RegistrationError, counted
from mcpd.gateway.access import startup_check
from mcpd.gateway.keys import KeyStore
from mcpd.gateway.server import descriptors
from mcpd.gateway.server.hypercorn import check_certificate
from mcpd.sealing import load_ring
from mcpd.storage.open import count_tasks, examine_shared, open_documents, schema_of
from mcpd.tools.builtin.files import file_tools
from mcpd.tools.builtin.jail import missing_support
from mcpd.tools.builtin.protected import own_places
from mcpd.tools.registry import Tool

_DISCOVERED = ("tcp://", "udp://", "sctp://")
"""What Kubernetes sets `MCPD_SERVER_PORT` to for a service called mcpd-server."""

_LIKE_ONE = 0.92
"""Of difflib's ratio: one letter apart is above it, Kubernetes' `MCPD_SERVICE_HOST` is below."""


class Finding(NamedTuple):
    """One thing worth saying. `wrong`: the server cannot start, or cannot serve something it was told to serve."""

    wrong: bool
    text: str


class Report(NamedTuple):
    """All that was found. `settings` is empty when the configuration cannot be read."""

    settings: list[settings.Effective]
    findings: list[Finding]

    @property
    def problems(self) -> list[str]:
        """The texts of what is wrong."""
        return [finding.text for finding in self.findings if finding.wrong]

    def as_json(self) -> dict[str, Any]:
        """Return `{"settings": [{"name", "value", "origin"}], "problems": [...], "notes": [...]}`."""
        notes = [finding.text for finding in self.findings if not finding.wrong]
        return {"settings": [row._asdict() for row in self.settings], "problems": self.problems, "notes": notes}

    def as_text(self) -> str:
        """Return one line per setting and finding, what is wrong at the end, and how much that is."""
        name_width = max((len(row.name) for row in self.settings), default=0)
        value_width = min(40, max((len(row.value) for row in self.settings), default=0))
        lines = [f"{row.name:{name_width}}  {row.value:{value_width}}  ({row.origin})" for row in self.settings]
        lines += [f"note   {finding.text}" for finding in self.findings if not finding.wrong]
        lines += [f"WRONG  {problem}" for problem in self.problems]
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        count = len(self.problems)
        if not count:
            return "ok     a server can start with this"
        return f"{count} thing{'s are' if count > 1 else ' is'} wrong: see WRONG above"


def examine(read: Callable[[], Config]) -> Report:
    """Read the configuration with `read` and run every check on it. Blocks on the disk; never raises McpdError."""
    try:
        config = read()
    except ConfigurationError as error:
        return Report([], [Finding(wrong=True, text=str(error))])
    findings = [finding for check in _CHECKS for finding in _guarded(partial(check, config))]
    return Report(settings.describe(config), findings)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except McpdError as error:
        yield Finding(wrong=True, text=str(error))


def _check_variables(_config: Config) -> Iterator[Finding]:
    """Tell of variables that look like settings and are not read: a note only, since others may have set them."""
    names = [*settings.SHORT_NAMES, *(setting.variable for setting in settings.SETTINGS.values())]
    spellings = {name.replace("__", "_"): name for name in names}
    for variable, value in os.environ.items():
        is_ours = "__" in variable or variable in settings.SHORT_NAMES
        if variable.startswith("MCPD_") and value and not is_ours and not value.startswith(_DISCOVERED):
            for nearest in difflib.get_close_matches(variable, spellings, n=1, cutoff=_LIKE_ONE):
                yield Finding(wrong=False, text=f"{variable} is not read; the nearest is {spellings[nearest]}")


def _check_access(config: Config) -> Iterator[Finding]:
    store = KeyStore(config.keys_file, config.auth.api_key)
    startup_check(config, store)
    if store.locked:
        yield Finding(wrong=False, text="there is no key, and every request needs one; make one: mcpd keys new NAME")
    if not store.required:
        yield Finding(wrong=False, text="no API keys: whoever can reach the server can use it")


def _check_tls(config: Config) -> Iterator[Finding]:
    check_certificate(config.server)
    yield from ()


def _check_descriptors(_config: Config) -> Iterator[Finding]:
    descriptors.check(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield from ()


def _check_seals(config: Config) -> Iterator[Finding]:
    if config.auth.seal_keys is not None:
        load_ring(config.data.folder, config.auth.seal_keys)
    yield from ()


def _check_data(config: Config) -> Iterator[Finding]:
    folder = config.data.folder.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        yield Finding(wrong=True, text=f"data.folder {config.data.folder}: {nearest} is not a folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        yield Finding(wrong=True, text=f"data.folder {config.data.folder}: {nearest} cannot be written to")


def _check_store(config: Config) -> Iterator[Finding]:
    """Open the store that is there; one that is not is made by whoever needs it first, and not by a check."""
    kind = network_file_system(config.data.folder)
    if kind is not None:
        yield Finding(wrong=True, text=f"data.folder {config.data.folder}: on a network file system ({kind})")
    else:
        yield from _guarded(lambda: iter(trio.run(_ask_store, config)))
        yield from _guarded(lambda: iter(trio.run(_ask_tasks, config)))


async def _ask_store(config: Config) -> list[Finding]:
    state = await schema_of(config).status()
    name = Path(state.place).name
    if not state.exists:
        advice = f"{state.store}: no indices {state.place}; serving makes them, or `mcpd migrate up`"
        return [] if state.store == "sqlite" else [Finding(wrong=False, text=advice)]
    if state.version != state.latest:
        is_older = state.version < state.latest
        advice = "opening it brings it up to date" if is_older else "it is of a newer mcpd: update this one"
        text = f"{name}: schema {state.version} of {state.latest}; {advice}"
        return [Finding(wrong=not is_older, text=text)]
    async with open_documents(config) as documents:
        found = await documents.statistics()
    held = f"{counted(found.documents, 'document')} in {counted(found.chunks, 'chunk')}"
    return [Finding(wrong=False, text=f"{name}: {held}")]


async def _ask_tasks(config: Config) -> list[Finding]:
    count = await count_tasks(config)
    return [] if count is None else [Finding(wrong=False, text=f"tasks: {count} kept")]


def _check_shared(config: Config) -> Iterator[Finding]:
    for advice in trio.run(examine_shared, config):
        yield Finding(advice.wrong, f"redis: {advice.text}")


def _check_files(config: Config) -> Iterator[Finding]:
    reason = missing_support()
    root = config.files.folder(working=Path.cwd(), home=Path.home())
    if reason is not None:
        yield Finding(wrong=False, text=f"no file tools: {reason}")
    elif not config.files.enabled:
        yield Finding(wrong=False, text="no file tools: files.enabled is false")
    elif root is None:
        yield Finding(wrong=False, text="no file tools: they do not serve / or the home folder unless --files names it")
    else:
        file_tools(root, config.files, config.limits, own_places(config, config.tools.modules))
        yield Finding(
            wrong=False, text=f"models can {'read and write' if config.files.write else 'read'} files in {root}"
        )


def _check_tools(config: Config) -> Iterator[Finding]:
    for module in config.tools.modules:
        yield from _guarded(partial(_check_module, module))


def _check_module(module: str) -> Iterator[Finding]:
    for declaration in load(module):
        if isinstance(declaration, ToolDeclaration):
            try:
                Tool(declaration)
            except RegistrationError as error:
                yield Finding(wrong=True, text=f"{module}: {error}")


def _check_prompts(config: Config) -> Iterator[Finding]:
    folder = config.prompts.folder
    if folder is not None and not folder.is_dir():
        yield Finding(wrong=True, text=f"prompts.folder {folder} is not a folder")


_CHECKS = (
    _check_variables,
    _check_access,
    _check_tls,
    _check_descriptors,
    _check_seals,
    _check_data,
    _check_store,
    _check_shared,
    _check_files,
    _check_tools,
    _check_prompts,
)
