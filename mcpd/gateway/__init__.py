"""Transports: bytes on one side, the Message Manager on the other.

Transports translate and refuse (Host, Origin, credentials, sizes); they make no MCP decisions. Only this package
imports Quart and Hypercorn. Imports nothing itself, so that one transport can be loaded without the others.

Sources: architecture "The one path".
"""
