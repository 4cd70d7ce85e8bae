"""Several processes that are one server on one machine: what their supervisor and its workers say to each other.

`messages` are values and bytes, `link` is the worker's end, `child` the supervisor's; the supervisor itself is
`mcpd.supervisor`. Imports nothing itself, so that a supervisor loads neither Trio nor a transport.
"""
