"""The long test: one server under all kinds of clients at once, most of them in a hurry and some of them hostile.

`just soak 40m` (`python -m tests.soak 40m --seed 7`) starts a real `mcpd serve`, and `mcpd stdio` children, with API
keys, tools of its own and an ingested corpus, drives every transport of both eras, cancels 30 % of the calls at random
moments, and then asks whether the server is as it was. Not part of the tests: it takes its time.

| module | is |
|---|---|
| `course`, `__main__` | the phases of a run, and the command line |
| `tools`, `async_tools`, `corpus` | what is served: tools of all work classes, documents that change |
| `world`, `orders` | what roles share: keys, chances, the tally; calls and how their answers are judged |
| `http_roles`, `line_roles`, `reader_roles`, `operator_roles` | honest clients, slow ones, whoever runs the server |
| `hostile_messages`, `hostile_bytes`, `hostile_roles` | what an attacker sends, and how |
| `probes` | the fixed set of calls whose answers never change |
| `figures`, `verdict` | measuring and sampling; limits, violations and the table |

Laws: a role does one thing in a loop until it is cancelled, draws all chances from its own generator seeded by run,
phase and name, and reports what should not be to the tally; the load is bounded by the pauses between scenes, so that
two cores are not saturated; a violation fails the run and is printed with the seed.
"""
