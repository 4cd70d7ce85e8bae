"""Which keys seal and open on each replica: what one has sealed, every other one must be able to open.

Each replica writes down the ids of its keys at the start and then at a third of the lease, and compares them with those
of all others in the same script. It is refused when its first key, which seals, is not among those of another one, or
the first of another one is not among its own. What is refused is not written down, so replicas that agree go on. A
replica that finds out later, because Redis was away when it started, goes on too, says so in the log and is degraded.

Called by: `storage.redis.shared`. Deliberately not: the secrets, which never leave a process (`sealing`).

Laws: time is the server's; a replica that has died is forgotten after one lease, what no replica has
written at once.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final

import trio

from mcpd.deadlines import bounded_shield
from mcpd.drivers.redis import Redis, RedisError, Script, shaped
from mcpd.errors import ConfigurationError
from mcpd.storage.redis.keys import SEALS_TTL_MS, Keys

PATIENCE_S: Final = 1.0
LEAVE_S: Final = 0.5
LONGEST_KID: Final = 32
_log = logging.getLogger(__name__)

_AGREE: Final = Script(
    """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local id, lease, first, mine = ARGV[1], ARGV[2], ARGV[3], {}
for at = 3, #ARGV do mine[ARGV[at]] = true end
local lacked, unknown = '', ''
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local words = {}
  for word in string.gmatch(all[at + 1], '%S+') do words[#words + 1] = word end
  words[1] = words[2] and tonumber(words[1]) or 0
  if tonumber(words[1]) <= now then
    redis.call('HDEL', KEYS[1], all[at])
  elseif all[at] ~= id then
    local has = false
    for word = 2, #words do has = has or words[word] == first end
    if not has then lacked = words[2] end
    if not mine[words[2]] then unknown = words[2] end
  end
end
if lacked == '' and unknown == '' then
  redis.call('HSET', KEYS[1], id, (now + lease) .. ' ' .. table.concat(ARGV, ' ', 3))
  redis.call('PEXPIRE', KEYS[1], TTL)
end
return {lacked, unknown}
""".replace("TTL", str(SEALS_TTL_MS)),
    "agree",
)


class RedisSeals:
    """The keys of this replica beside those of the others."""

    def __init__(self, redis: Redis, keys: Keys, *, lease_s: float) -> None:
        self._redis = redis
        self._key = keys.seals
        self._lease_s = lease_s
        self._id = secrets.token_hex(8)
        self.trouble = ""
        """What is wrong with the keys, in one line."""

    async def run(self, kids: Sequence[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compare until cancelled; started after the first time, which is soon over where there is no Redis.

        Raises: ConfigurationError when the first comparison finds a difference.
        """
        await self._compare(kids)
        if self.trouble:
            raise ConfigurationError(self.trouble)
        task_status.started()
        try:
            while True:
                await trio.sleep(self._lease_s / 3)
                await self._compare(kids)
        finally:
            await self._leave()  # noqa: ASYNC102 - shielded and bounded inside

    async def _compare(self, kids: Sequence[str]) -> None:
        """Bring `trouble` up to date; it stays as it is while Redis is away."""
        if not self._redis.statistics().connected:
            return
        arguments: tuple[str | int, ...] = (self._id, round(self._lease_s * 1000), *kids)
        with trio.move_on_after(PATIENCE_S):
            try:
                said = await self._redis.run_script(_AGREE, keys=(self._key,), arguments=arguments, idempotent=True)
                lacked, unknown = shaped(said, tuple[bytes, bytes])
            except RedisError as error:
                _log.debug("the keys that seal could not be compared: %s", error)
                return
            self._note(kids[0], _text(lacked), _text(unknown))

    def _note(self, first: str, lacked: str, unknown: str) -> None:
        told, self.trouble = self.trouble, _difference(first, lacked, unknown)
        if self.trouble and self.trouble != told:
            _log.error("redis: %s", self.trouble)
        elif told and not self.trouble:
            _log.info("redis: all replicas have the keys that seal")

    async def _leave(self) -> None:
        if not self._redis.statistics().connected:
            return
        with bounded_shield(LEAVE_S):
            try:
                await self._redis.execute("HDEL", self._key, self._id, idempotent=True)
            except RedisError as error:
                _log.debug("the keys that seal are forgotten later: %s", error)


def _difference(first: str, lacked: str, unknown: str) -> str:
    if lacked:
        return (
            f"a replica that seals with key {lacked} does not have key {first}, which seals here: give all replicas"
            " the same MCPD_SEAL_KEYS or seal.key; a new key goes to the end of each list before it goes first in any"
        )
    if unknown:
        return (
            f"a replica seals with key {unknown}, which is not among the keys here: give all replicas the same"
            " MCPD_SEAL_KEYS or seal.key"
        )
    return ""


def _text(kid: bytes) -> str:
    return kid[:LONGEST_KID].decode("ascii", "replace")
