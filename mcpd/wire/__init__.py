"""MCP as values: what arrives and leaves, decided without touching a socket, a clock or a log.

Every file here is pure: no trio, no I/O, no logging; time and randomness are arguments. `jsonrpc` turns bytes into
messages and back, `headers` reads the routing headers of a POST, `envelope` and `session` open a call in either era,
`methods` says which method is legal where, `sieve` adapts results to a revision, `sse` frames events, `sealed` and
`cursors` make strings that a client carries for us and cannot alter, `schema` checks values against JSON Schema.

Called by: every room above. Calls: `mcpd.errors`. Deliberately not: a dispatcher; nothing here runs a tool.
"""
