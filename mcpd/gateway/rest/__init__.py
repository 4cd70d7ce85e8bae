"""The REST transport, `/api/v1`: the calls of the Message Manager as resources of HTTP."""
