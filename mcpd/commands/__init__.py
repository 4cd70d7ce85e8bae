"""The commands that work on the document store: `mcpd ingest`, `documents`, `search`, `migrate`.

`declarations` says what they are called and take, for `cli`; what they do is imported when one runs: `ingesting`,
`listing`, `searching`, `migrating`. `options` has what every command has in common, `stores` how they come to a store
and end at Ctrl-C, `terminal` how results look. Deliberately not here: what a store, a search or an ingest is.
"""
