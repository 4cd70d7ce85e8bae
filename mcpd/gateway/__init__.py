"""The front doors: bytes on one side, the Message Manager on the other.

Doors translate and refuse (Host, Origin, credentials, sizes); they make no MCP decisions. Only this room imports Quart
and Hypercorn. Imports nothing itself, so that one door can be loaded without the others.

Sources: architecture "The one path".
"""
