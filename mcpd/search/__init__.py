"""Search: what makes documents findable, and how several ways of finding are brought together.

`chunking` cuts a text into the pieces that are found, `hashing` is the built-in embedding, `fusion` merges ranked
lists: these three are pure. `query` is the grammar of a search, `searcher` answers it from a store; `embeddings` and
`endpoint` make vectors, `providers` opens what the settings ask for. Deliberately not here: an index; that is the
store's.
"""
