"""How a client reaches its cluster: credentials, trust and numbers, as one value.

Called by: users of the client. Deliberately not: settings or their documentation, which are the caller's.

Law: neither text nor repr has a credential.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from mcpd.drivers.elasticsearch_errors import Refused


@dataclass(frozen=True)
class Options:
    """Seconds, bytes and items. At most one of `api_key`, `token` and `username` with `password`."""

    api_key: str = field(default="", repr=False)
    """As Elasticsearch gives it (`encoded`)."""
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """Sent as a bearer: a service token, or of JWT."""
    ca_file: str = ""
    """PEM of the authorities to trust, instead of the machine's."""
    fingerprint: str = ""
    """SHA-256 in hex of the server's certificate, or of an authority in its chain; trusted instead of any other."""
    connect_s: float = 5.0
    """For TCP, and again for TLS."""
    silence_s: float = 90.0
    """A node that says nothing for so long within an exchange is given up; its own timeouts are 60 s."""
    patience_s: float = 2.0
    """How long a call is tried again, if its own scope allows."""
    max_exchanges: int = 64
    """At once, over all nodes; who wants one more waits."""
    max_answer_bytes: int = 64 << 20
    compress_bytes: int | None = None
    """Bodies of at least so many bytes are sent compressed; None for none, best where the cluster is near."""
    sniff: bool = False
    """Ask the cluster which nodes it has, and use those; not for clusters behind a proxy, or with unreachable names."""
    bulk_bytes: int = 5 << 20
    bulk_items: int = 1_000
    bulk_parallel: int = 2
    """Chunks of one `bulk` in flight at once."""
    bulk_patience_s: float = 30.0
    """How long items that the cluster has no room for are sent again while none gets through."""
    user_agent: str = "mcpd"

    def authorization(self) -> str:
        """Return the header's value, or empty. Raises: Refused when there are two of them."""
        ways = [
            f"ApiKey {self.api_key}" if self.api_key else "",
            f"Bearer {self.token}" if self.token else "",
            _basic(self.username, self.password) if self.username else "",
        ]
        found = [way for way in ways if way]
        if len(found) > 1:
            raise Refused("Give one of api_key, token and username, not several")
        if any(not " " <= char <= "~" for way in found for char in way):
            raise Refused("A key or token has characters that no header may have")
        return found[0] if found else ""


def _basic(username: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"
