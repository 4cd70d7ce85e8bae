"""Tools: what they are, which are registered, and the three ways to run one.

`async def` runs in the call's own scope, `def` in a bounded thread (`threads.py`), `isolation="process"` in a worker
process that can be killed (`workers.py`, `process.py` in the server; `worker.py` in the child; `frames.py` between).
This file imports nothing: a worker process passes through it on its way to `mcpd.tools.worker`, and every import here
would be paid again by each worker's start.
"""
