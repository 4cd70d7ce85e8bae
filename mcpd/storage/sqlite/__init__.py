"""The embedded store: one SQLite file in the data folder. `documents` is the adapter, the other files its parts."""
