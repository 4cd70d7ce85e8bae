"""The storm: replicas behind a balancer are killed, and their Redis fails in turns, while clients of both eras work.

`just chaos 20m` (`python -m tests.chaos 20m --seed 7`) starts three `mcpd serve` processes that share nothing but a
real Redis (AOF, `always`), behind a round-robin balancer. Every 3 s one is killed with SIGKILL and started again; Redis
is stopped, paused for longer than a lease, restarted with its data and without it, killed and flushed, in turns. Then
the clients' journals and the tools' witness files say whether anything was lost, run twice or refused without need.

| module | is |
|---|---|
| `course`, `__main__` | the phases of a run, and the command line |
| `site` | Redis, the replicas, the balancer, and who breaks them |
| `history`, `oracle` | what was broken when, and which failures that excuses; both pure |
| `world`, `asking` | what roles share: chances, tally, ledger; one request and the judgement of its answer |
| `call_roles`, `session_roles`, `task_roles`, `keyed_roles`, `event_roles`, `sdk_roles` | the clients |
| `tools`, `witness` | what is served, and the files in which its runs are counted |
| `aftermath`, `figures` | what has to be there after the storm; measuring, and the table |

Laws: an acknowledgement goes into the ledger before anything else happens; a failure is excused only by what was broken
while it happened, by the pid where the owner is known; chances are drawn from generators seeded by run, phase and name.
One replica is never killed: its memory and descriptors before and after are compared.
"""
