"""`python -m mcpd`: the same as the command `mcpd`.

Runs `mcpd.cli.main` and nothing else, so that it can be imported without effect and both ways in behave alike.
"""

from __future__ import annotations

from mcpd.cli import main

if __name__ == "__main__":
    main()
