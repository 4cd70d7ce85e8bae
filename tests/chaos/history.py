"""What was broken, and when: the deaths of replicas and the troubles of Redis. Pure but for the lists it keeps.

Times are `time.monotonic()`, which all processes of a machine share. An entry is made before the thing is done, so that
whoever sees the effect finds the cause. Called by: `site`, which writes; `oracle` and the roles, which read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

DEATH_SLACK_S = 1.5
"""A client may meet the broken connection of a dead replica for so long: it is kept in a pool, the machine is busy."""
RECOVER_S = 3.5
"""After Redis answers again, a replica may be without it for so long: its longest pause between attempts is 2 s."""


@dataclass
class Death:
    """A replica was killed."""

    pid: int
    replica: int
    at: float


@dataclass
class Trouble:
    """Redis was away, or lost everything; `end` is when it answered again."""

    kind: str
    begin: float
    end: float = math.inf

    @property
    def empties(self) -> bool:
        """True when nothing is left of what it knew."""
        return self.kind in {"emptied", "flushed"}


@dataclass
class History:
    """All that was done."""

    deaths: list[Death] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def died(self, begin: float, end: float) -> bool:
        """Return whether a replica was killed so that a call between these moments may have noticed."""
        return any(begin - DEATH_SLACK_S <= death.at <= end for death in self.deaths)

    def death_of(self, pid: int) -> float:
        """Return when the process was killed; infinity for one that was not."""
        return min((death.at for death in self.deaths if death.pid == pid), default=math.inf)

    def troubled(self, begin: float, end: float) -> bool:
        """Return whether a replica may have been without Redis between these moments."""
        return any(trouble.begin <= end and begin <= trouble.end + RECOVER_S for trouble in self.troubles)

    def recovered(self, since: float) -> float:
        """Return from when on a replica that needed Redis at `since` has it: then, or when its trouble is over."""
        ends = [one.end + RECOVER_S for one in self.troubles if one.begin <= since <= one.end + RECOVER_S]
        return max([since, *ends])

    def calm(self, since: float, now: float) -> float:
        """Return how long Redis has been there without a break, at most, between these moments."""
        longest = 0.0
        for trouble in self.troubles:
            longest = max(longest, min(trouble.begin, now) - since)
            since = max(since, trouble.end)
        return max(longest, now - since)

    def emptied(self, begin: float, end: float = math.inf) -> bool:
        """Return whether Redis lost everything between these moments."""
        return any(one.empties and one.begin <= end and begin <= one.end for one in self.troubles)
