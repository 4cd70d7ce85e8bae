"""The store that forgets: the contract in plain Python, for tests and as the reference of the others."""
