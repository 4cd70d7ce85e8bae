"""Lock the dependencies, also behind a mirror that serves only the simple index.

Run by `just lock` with the Python that has poetry and poetry-plugin-export installed (CONTRIBUTING.md, "Parts"). It
writes `poetry.lock` and exports `requirements.lock` (base install) and `requirements.test.lock` (with the `test`
extra), both with hashes. Poetry alone would do, but asks the index for a JSON document per release that mirrors often
lack; here a release is described by its files' own metadata instead, which gives the same lock.

Deliberately not part of the package or the tests: nothing at run time needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from poetry.console.application import Application
from poetry.inspection.info import PackageInfo
from poetry.repositories.pypi_repository import PyPiRepository


def release_info(self: Any, name: Any, version: Any) -> Any:
    """Describe one release from the files that the simple index lists."""
    page = self.get_page(name)
    blank = PackageInfo(
        name=name,
        version=version.text,
        summary="",
        requires_dist=[],
        requires_python=None,
        files=[],
        yanked=page.yanked(name, version),
        cache_version=str(self.CACHE_VERSION),
    )
    return self._links_to_data(list(page.links_for_version(name, version)), blank)


def without_blank_ends(path: Path) -> None:
    """End the exported file with exactly one newline."""
    path.write_text(path.read_text(encoding="utf-8").rstrip("\n") + "\n", encoding="utf-8")


def poetry(*arguments: str) -> None:
    """Run one poetry command in this process; exit with its status if it fails."""
    sys.argv = ["poetry", *arguments]
    application = Application()
    application.auto_exits(False)
    if status := application.run():
        sys.exit(status)


def main() -> None:
    """Lock, then export."""
    PyPiRepository._get_release_info = release_info  # noqa: SLF001 - its only hook
    poetry("lock", "--no-interaction")
    export = ("export", "--format", "requirements.txt", "--without-urls")
    poetry(*export, "--output", "requirements.lock")
    poetry(*export, "--extras", "test", "--output", "requirements.test.lock")
    for name in ("requirements.lock", "requirements.test.lock"):
        without_blank_ends(Path(name))


if __name__ == "__main__":
    main()
