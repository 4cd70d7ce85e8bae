"""Ingestion: from files to values that can be stored and found.

`walking` finds the files of a folder, `ignore` reads `.gitignore`, `readers` reads one file within bounds, `encoding`
turns its bytes into text, `formats` says which format it is in, `extraction` and `hypertext` get title, text and
metadata out of it. `sources` says how files and documents are called, `drafts` makes a document of a file, `pipeline`
brings all of them into a store, `watch` keeps them in step, `reports` has what there is to tell. Deliberately not here:
chunks and vectors, which are `search`'s, and the documents, which are the store's.
"""
