"""Tools that mcpd brings along.

Each module here builds its declarations with the same decorators that any tool author uses, and `assembly` decides
which of them are served. Nothing here knows of MCP messages, connections or sessions: a built-in tool can do exactly
what a tool in a user's own file can.
"""
