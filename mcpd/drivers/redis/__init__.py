"""A client for Redis (7.0 and newer) and Valkey (8.0 and newer) on Trio; `client` says how to use it.

These names are all of its public interface. It could be published by itself: it knows nothing of MCP.
"""

from mcpd.drivers.redis.client import Options, Redis, Script, Statistics
from mcpd.drivers.redis.connection import Connection
from mcpd.drivers.redis.errors import Garbled, NotExecuted, OutcomeUnknown, RedisError, Refused, Unreachable
from mcpd.drivers.redis.replies import number, shaped
from mcpd.drivers.redis.subscription import GAP, Gap, Message, Subscription

__all__ = [
    "GAP",
    "Connection",
    "Gap",
    "Garbled",
    "Message",
    "NotExecuted",
    "Options",
    "OutcomeUnknown",
    "Redis",
    "RedisError",
    "Refused",
    "Script",
    "Statistics",
    "Subscription",
    "Unreachable",
    "number",
    "shaped",
]
