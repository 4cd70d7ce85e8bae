"""Where documents live: the Protocols in `base`, and one file for each backend."""
