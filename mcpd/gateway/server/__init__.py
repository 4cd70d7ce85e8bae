"""What listens and parses: Hypercorn's listeners, and HTTP/1.1 and WebSocket connections of our own inside them.

Imports nothing itself. Knows nothing of MCP: what it calls is one ASGI application.
"""
