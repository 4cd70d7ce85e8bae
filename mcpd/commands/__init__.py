"""The commands of the command line, one file a family: what it is called and takes, in click, and nothing heavier.

What a command does is imported when it runs: `calling`, `checking`, `ingesting`, `listing`, `searching`, `migrating`.
`options` has what the commands have in common, `stores` how they come to a store and end at Ctrl-C, `terminal` how
results look. Deliberately not here: what a store, a search or an ingest is.
"""
