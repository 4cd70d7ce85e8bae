"""Drivers: how to talk to what keeps the data, knowing nothing of MCP or of documents."""
