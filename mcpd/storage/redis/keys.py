"""Every key and channel that mcpd uses in Redis, with its type and how long it lives; spelt nowhere else.

    {run}:events        stream    change events of all replicas, the newest MAX_EVENTS; lives EVENTS_TTL_MS
    {run}:events        channel   the same events as they are written: `ID PREDECESSOR PAYLOAD`
    {rate:SHARE}:NAME   string    when a share's whole rate of this name is free again, in us; lives until then
    {run}:owners        zset      epochs of processes that own something, by when their lease ends; lives OWNERS_TTL_MS
    {run}:lease         hash      when anybody beat last, and until when nobody is given up; lives OWNERS_TTL_MS
    {run}:inboxes       zset      addresses of processes, by when their lease ends; lives OWNERS_TTL_MS
    {run}:inbox-lease   hash      what {run}:lease is to the owners, and until when the list is incomplete; likewise
    {run}:inbox:ADDRESS stream    what one process has still to hear; lives INBOX_TTL_MS from its last reading
    {run}:inbox:ADDRESS channel   calls that process to read; a message says nothing
    {run}:seals         hash      ids of the keys that seal and open, of each replica; lives SEALS_TTL_MS
    {run}:key:ID        hash      what an idempotency key stands for, its holder, its outcome; lives while it may run,
                                  then for `timeouts.idempotency_keep_s`
    {run}:keys          zset      all of these, by when they end; lives as long as the last
    {run}:keys:SHARE    zset      those of one share, likewise
    {run}:task:ID       hash      a task, its outcome apart, its owner; lives until `ttlMs` from its creation
    {run}:tasks         zset      tasks by when they expire; lives as long as the last, as the next three do
    {run}:tasks:SHARE   zset      those of one share, likewise
    {run}:task-states   hash      state and owner of each task
    {run}:task-changes  zset      tasks by the number of their last change
    {run}:task-changes  channel   each change: `NUMBER PREDECESSOR ID RECORD`
    {sessions}:one:KEY  hash      an HTTP session: record, rev, SHARE, and its times, ms; lives as long as it is kept
    {sessions}:all      zset      keys of all sessions, by when they expire, ms; lives as long as the last
    {sessions}:of:SHARE zset      those of one share, likewise
    {sessions}:rest:KEY hash      what is left of a session's finished replies, by stream; lives LONGEST_REPLY_MS
    {sessions}:ends:KEY zset      when each of these ends, ms; likewise
    {run}:cache:URI:ID  hash      what a load gave, its end, ms, how long it took, ms, and the state of its URI that it
                                  shows; lives as long as it may be used, CACHE_TTL_MS at most
    {run}:cache-claim:URI:ID string  who loads that now, of which state; lives CLAIM_MS, renewed while the load runs
    {run}:cache-state:URI string  names the state of what is behind a URI, another one after each change that was told;
                                  lives STATE_SPARE_MS longer than what was loaded of it
    {run}:cache-state   string    likewise of everything, for changes that name no URI
    {run}:vector:ID     string    a vector of a text; lives CACHE_TTL_MS
    {run}:cached:KIND   zset      what is kept of `cache` and of `vector`, by when it ends; lives as long as the last
    {run}:cached-bytes:KIND hash  how many bytes each of these has, and all of them; likewise
    {check}:key         string    `mcpd check` tries its rights on it; lives CHECK_TTL_MS
    {check}:stream      stream    likewise
    {check}:hash        hash      likewise, and deleted at once
    {check}:zset        zset      likewise, and deleted at once

All begin with the prefix that the operator gives (`mcpd:`), so that a user's rights can name them. What one script
touches stands under one tag in braces, as Cluster wants it. No key is without an end. SHARE is a digest: who calls from
where is nobody's to read here, but for the record of a session, which is its caller's.

Called by: the other files of this package. Pure.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from mcpd.rates import LONGEST_S

MAX_EVENTS: Final = 10_000
"""A replica that was away for longer than these is told that everything may have changed."""

EVENTS_TTL_MS: Final = 3_600_000
"""Renewed by every replica that looks, so it ends an hour after the last one has gone."""

OWNERS_TTL_MS: Final = 3_600_000
"""Renewed by every beat; an epoch that is not there is over."""

INBOX_TTL_MS: Final = 600_000
"""A process that is stopped for longer has missed what it was told, and whoever waited for it has given up."""

SEALS_TTL_MS: Final = 3_600_000
"""Renewed by every replica that agrees; each of them says in it how long it is to be believed."""

CHECK_TTL_MS: Final = 10_000
"""Longer than a check takes."""

CACHE_TTL_MS: Final = 86_400_000
"""What may be kept for longer than a day is loaded again after a day."""

CLAIM_MS: Final = 2_000
"""How long the load of a replica that has died keeps others waiting. Renewed at a third: a pause of a second does no
harm."""

STATE_SPARE_MS: Final = 60_000
"""A state outlives all that refers to it; a claim that is renewed renews it."""

MAX_KEEP_MS: Final = 400 * 86_400_000
"""More than any sensible time of `timeouts.*_keep_s`: what a test of key lives takes for their bound."""

LONGEST_SESSION_MS: Final = LONGEST_S * 1000
"""A session lives `timeouts.session_idle_s` from its last use, by default half an hour."""

LONGEST_REPLY_MS: Final = 300_000
"""What is left of a reply is kept for `messages.kept_replies.KEEP_REPLIES_S` at the longest."""

_DIGEST_BYTES: Final = 12
_NAME_BYTES: Final = 20
"""Of what stands for a whole name: nobody finds two that are the same."""


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str = "mcpd:") -> None:
        self.prefix = prefix
        self.check = f"{prefix}{{check}}:key"
        self.check_stream = f"{prefix}{{check}}:stream"
        self.check_hash = f"{prefix}{{check}}:hash"
        self.check_zset = f"{prefix}{{check}}:zset"
        self.events = f"{prefix}{{run}}:events"
        """The stream, and the channel of the same name."""
        self.owners = f"{prefix}{{run}}:owners"
        self.lease = f"{prefix}{{run}}:lease"
        self.inboxes = f"{prefix}{{run}}:inboxes"
        self.inbox_lease = f"{prefix}{{run}}:inbox-lease"
        self.seals = f"{prefix}{{run}}:seals"
        self.sessions = f"{prefix}{{sessions}}:all"
        self.idempotency_keys = f"{prefix}{{run}}:keys"
        self.tasks = f"{prefix}{{run}}:tasks"
        self.task_states = f"{prefix}{{run}}:task-states"
        self.task_changes = f"{prefix}{{run}}:task-changes"
        """The set, and the channel of the same name."""
        self.cache_state = f"{prefix}{{run}}:cache-state"

    def inbox(self, address: str) -> str:
        """Return where one process is told something: the stream, and the channel of the same name."""
        return f"{self.prefix}{{run}}:inbox:{address}"

    def idempotency_key(self, name: str) -> str:
        """Return where one key is; `name` is a digest."""
        return f"{self.prefix}{{run}}:key:{name}"

    def idempotency_keys_of(self, share: str) -> str:
        """Return where the keys of one share are counted."""
        return f"{self.idempotency_keys}:{digest(share)}"

    def task(self, task_id: str) -> str:
        """Return where one task is."""
        return f"{self.prefix}{{run}}:task:{task_id}"

    def tasks_of(self, share: str) -> str:
        """Return where the tasks of one share are counted."""
        return f"{self.tasks}:{digest(share)}"

    def rate(self, share: str, name: str) -> str:
        """Return the key of one rate of one share."""
        return f"{self.prefix}{{rate:{digest(share)}}}:{name}"

    def session(self, key: str) -> str:
        """Return where the session `key` is."""
        return f"{self.prefix}{{sessions}}:one:{key}"

    def sessions_of(self, digested: str) -> str:
        """Return where the sessions of one share are listed, given its `digest`."""
        return f"{self.prefix}{{sessions}}:of:{digested}"

    def replies(self, key: str) -> tuple[str, str]:
        """Return where the rests of replies of the session `key` are, and when they end."""
        return f"{self.prefix}{{sessions}}:rest:{key}", f"{self.prefix}{{sessions}}:ends:{key}"

    def cached(self, about: str, name: str) -> str:
        """Return where what was loaded is: `name` is unique, `about` the normal form of the URI that it depends on."""
        return f"{self.cached_prefix('cache')}{digest(about)}:{_digest(name, _NAME_BYTES)}"

    def cached_prefix(self, kind: str) -> str:
        """Return how all keys begin that are kept of one kind, `cache` or `vector`."""
        return f"{self.prefix}{{run}}:{kind}:"

    def cache_claim(self, about: str, name: str) -> str:
        """Return where it stands who loads that."""
        return self.cached(about, name).replace("{run}:cache:", "{run}:cache-claim:", 1)

    def cache_state_of(self, about: str) -> str:
        """Return what names the state of one URI."""
        return f"{self.cache_state}:{digest(about)}"

    def vector(self, name: str) -> str:
        """Return where the vector of this name is."""
        return f"{self.cached_prefix('vector')}{_digest(name, _NAME_BYTES)}"

    def cached_index(self, kind: str) -> tuple[str, str]:
        """Return what lists, and what weighs, all that is kept of one kind."""
        return f"{self.prefix}{{run}}:cached:{kind}", f"{self.prefix}{{run}}:cached-bytes:{kind}"

    def longest_ms(self, key: str) -> int | None:
        """Return how long a key lives at most without being used; None for one that is not ours."""
        lives = {
            re.escape(self.events): EVENTS_TTL_MS,
            re.escape(self.owners): OWNERS_TTL_MS,
            re.escape(self.lease): OWNERS_TTL_MS,
            re.escape(self.inboxes): OWNERS_TTL_MS,
            re.escape(self.inbox_lease): OWNERS_TTL_MS,
            re.escape(self.inbox("")) + r"[0-9a-f]{12}": INBOX_TTL_MS,
            re.escape(self.seals): SEALS_TTL_MS,
            re.escape(self.idempotency_keys) + r"(:[0-9a-f]{24})?": MAX_KEEP_MS,
            re.escape(self.prefix) + r"\{run\}:key:[0-9a-f]{64}": MAX_KEEP_MS,
            re.escape(self.tasks) + r"(:[0-9a-f]{24})?": MAX_KEEP_MS,
            re.escape(self.task_states): MAX_KEEP_MS,
            re.escape(self.task_changes): MAX_KEEP_MS,
            re.escape(self.task("")) + r"[A-Za-z0-9_-]{32}": MAX_KEEP_MS,
            re.escape(self.prefix) + r"\{run\}:cache:[0-9a-f]{24}:[0-9a-f]{40}": CACHE_TTL_MS,
            re.escape(self.prefix) + r"\{run\}:cache-claim:[0-9a-f]{24}:[0-9a-f]{40}": CLAIM_MS,
            re.escape(self.cache_state) + r"(:[0-9a-f]{24})?": CACHE_TTL_MS + STATE_SPARE_MS,
            re.escape(self.prefix) + r"\{run\}:vector:[0-9a-f]{40}": CACHE_TTL_MS,
            re.escape(self.prefix) + r"\{run\}:cached(-bytes)?:(cache|vector)": CACHE_TTL_MS,
            re.escape(self.check): CHECK_TTL_MS,
            re.escape(self.check_stream): CHECK_TTL_MS,
            re.escape(self.check_hash): CHECK_TTL_MS,
            re.escape(self.check_zset): CHECK_TTL_MS,
            re.escape(self.sessions): LONGEST_SESSION_MS,
            re.escape(self.session("")) + r"[A-Za-z0-9_-]{43}": LONGEST_SESSION_MS,
            re.escape(self.sessions_of("")) + r"[0-9a-f]{24}": LONGEST_SESSION_MS,
            **{re.escape(key) + r"[A-Za-z0-9_-]{43}": LONGEST_REPLY_MS for key in self.replies("")},
            re.escape(self.prefix) + r"\{rate:[0-9a-f]{24}\}:(caller|tool:[A-Za-z0-9_.-]{1,128})": LONGEST_S * 1000 + 1,
        }
        return next((ms for pattern, ms in lives.items() if re.fullmatch(pattern, key)), None)


def digest(share: str) -> str:
    """Return what stands for a share, or for a URI, in keys."""
    return _digest(share, _DIGEST_BYTES)


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
