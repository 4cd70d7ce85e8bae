"""The README as data: its generated tables, its commands, its example.

`python -m tests.readme` (`just readme`) writes the tables anew; `--command serve|tests` prints one of the two set-up
commands, which `.ci/run` then runs as a reader would. `test_operations.py` checks that all of it is true.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from mcpd.monitoring.metrics import Metrics
from mcpd.settings import reference_table
from tests.source import ROOT

README = ROOT / "README.md"
STANDARD_METRICS = re.compile(r"process_")
"""What every Prometheus client reports; not ours to document."""


def metrics_table() -> str:
    """Return a Markdown table of every metric, with labels, in the order of declaration."""
    lines = ["| Metric | Labels | What |", "|---|---|---|"]
    for name, labels, what in declared_metrics():
        lines.append(f"| `{name}` | {', '.join(f'`{label}`' for label in labels)} | {what} |")
    return "\n".join(lines) + "\n"


def declared_metrics() -> list[tuple[str, tuple[str, ...], str]]:
    """Return (name as queried, labels, documentation) of every metric of ours."""
    found = []
    for collector in Metrics().registry._collector_to_names:
        labels = tuple(getattr(collector, "_labelnames", ()) or getattr(collector, "_labels", ()))
        for family in collector.collect():
            if not STANDARD_METRICS.match(family.name):
                suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
                found.append((f"{family.name}{suffix}", labels, family.documentation))
    return found


SECTIONS: dict[str, Callable[[], str]] = {"settings": reference_table, "metrics": metrics_table}


def text() -> str:
    """Return the README as it stands."""
    return README.read_text(encoding="utf-8")


def section(name: str) -> str:
    """Return what stands in the generated section `name`."""
    return _split(name, text())[1]


def _split(name: str, whole: str) -> tuple[str, str, str]:
    found = re.search(rf"(<!-- {name}: begin[^\n]*-->\n)(.*?)(<!-- {name}: end -->)", whole, re.DOTALL)
    assert found, f"the README has no section {name}"
    return found[1], found[2], found[3]


def rendered() -> str:
    """Return the README with every generated section written anew."""
    whole = text()
    for name, generate in SECTIONS.items():
        head, old, foot = _split(name, whole)
        whole = whole.replace(f"{head}{old}{foot}", f"{head}{generate()}{foot}")
    return whole


def marked_block(kind: str, name: str) -> str:
    """Return the fenced block behind `<!-- kind: name -->`."""
    found = re.search(rf"<!-- {kind}: {name} -->\n```\w+\n(.*?)```", text(), re.DOTALL)
    assert found, f"the README has no {kind} {name}"
    return found[1]


def shell_lines() -> list[str]:
    """Return the lines of all shell blocks, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def main() -> None:
    """Write the tables, or print a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.readme", description=main.__doc__)
    parser.add_argument("--command", choices=["serve", "tests"])
    wanted = parser.parse_args().command
    if wanted:
        print(marked_block("command", wanted).strip())
    else:
        README.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main()
