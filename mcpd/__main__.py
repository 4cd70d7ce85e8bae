"""The command `mcpd`, which is `python -m mcpd` too: loads the command line, and runs it.

Loading takes a moment, in which Ctrl-C is already possible; it then ends the process as it does later, without a
traceback. Can be imported without effect.

Called by: the console script. Deliberately not: anything that has to be loaded before that holds.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from mcpd import cli
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    cli.main()


if __name__ == "__main__":
    main()
