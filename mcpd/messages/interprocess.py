"""What the sessions of this process tell those of other processes, and hear from them: one file, so that both agree.

    cancel    a client cancels a call that is not in flight here: whoever has it, or gets it, cancels it
    ended     sessions have ended, as the store knows by now: whoever has one loaded ends it, too
    changed   a session's record was changed and committed: whoever has it loaded takes it, and tells its client of
              what it watches now and has changed since
    answer    a client's answer to a question of another process, whose address is in its id

Called by: `messages.sessions`, which owns the sessions. Calls: an `Inbox`. Deliberately not: streams that are read from
another process (`messages.resumption`), or sessions of a connection, which no other process knows.

Laws: nothing is told before it is committed, so that whoever hears it and asks the store finds it; a message that
overtook a look into the store makes that look again. A client that can be refused is: what could not be told then is
`StoreUnavailable`. All else that is lost is found out with the next request of the session.

Sources: CAN-3, SES-4, S2C-1, STR-6.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mcpd.errors import Reason
from mcpd.messages.early_cancels import EarlyCancels
from mcpd.messages.peer import asker_of
from mcpd.messages.recent import RecentEvents
from mcpd.messages.session import Session
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import Inbox, Message
from mcpd.storage.refusals import PROCESSES, answering
from mcpd.storage.session_records import SessionRecord, decode, encode
from mcpd.wire.call import RequestId
from mcpd.wire.jsonrpc import Response

MAX_REMEMBERED: Final = 1_000
"""Sessions that are not here and of which something was heard: more than are looked up at once."""

_log = logging.getLogger(__name__)


class _Cancel(msgspec.Struct, array_like=True, frozen=True):
    session: str
    request: RequestId


class _Ended(msgspec.Struct, array_like=True, frozen=True):
    reason: Reason
    sessions: list[str]


class _Answer(msgspec.Struct, array_like=True, frozen=True):
    session: str
    response: Response


class Interprocess:
    """The link between the sessions `here`, by key, and those of other processes."""

    def __init__(
        self,
        inbox: Inbox,
        here: Mapping[str, Session],
        recent: RecentEvents,
        unload: Callable[[Session, Reason], object],
    ) -> None:
        """`unload` ends what a session has in this process."""
        self._inbox = inbox
        self._here = here
        self._recent = recent
        self._unload = unload
        self.early = EarlyCancels()
        self._heard: OrderedDict[str, float] = OrderedDict()
        """Key of a session that is not here -> the `rev` that its record has by now, without end for an ended one."""
        inbox.on("cancel", self._on_cancel)
        inbox.on("ended", self._on_ended)
        inbox.on("changed", self._on_changed)
        inbox.on("answer", self._on_answer)

    async def cancel(self, session: Session, request_id: Any) -> None:
        """Have a call of this session cancelled wherever it runs; what names none is ignored.

        Raises: StoreUnavailable.
        """
        if session.record is not None and type(request_id) in (str, int):
            self.early.note(session.key, request_id)
            with answering(PROCESSES):
                await self._inbox.send_all("cancel", msgspec.json.encode(_Cancel(session.key, request_id)))

    async def answer(self, session: Session, response: Response) -> None:
        """Hand a client's answer to whoever asked; one to a question of nobody who lives is ignored.

        Raises: StoreUnavailable.
        """
        asker = asker_of(response.id)
        if session.record is not None and asker is not None and asker != self._inbox.address:
            with answering(PROCESSES):
                await self._inbox.send(asker, "answer", msgspec.json.encode(_Answer(session.key, response)))

    async def ended(self, keys: Sequence[str], reason: Reason) -> None:
        """Tell that these sessions have ended. Raises nothing."""
        if keys:
            await self._tell("ended", msgspec.json.encode(_Ended(reason, list(keys))))

    async def changed(self, record: SessionRecord) -> None:
        """Tell what has become of a session's record. Raises nothing."""
        await self._tell("changed", encode(record))

    async def _tell(self, topic: str, body: bytes) -> None:
        try:
            await self._inbox.send_all(topic, body)
        except StorageError as error:
            _log.warning("other processes find out later what has %s: %s", topic, error)

    def outdates(self, record: SessionRecord | None) -> bool:
        """Tell, once, whether a record that was read is older than what was heard meanwhile. Not a checkpoint."""
        return record is not None and record.rev < self._heard.pop(record.key, 0)

    def _note(self, key: str, rev: float) -> None:
        self._heard[key] = max(rev, self._heard.get(key, 0))
        self._heard.move_to_end(key)
        if len(self._heard) > MAX_REMEMBERED:
            self._heard.popitem(last=False)

    def _on_cancel(self, message: Message) -> None:
        wish = msgspec.json.decode(message.body, type=_Cancel)
        session = self._here.get(wish.session)
        if session is None or not session.calls.cancel(wish.request):
            self.early.note(wish.session, wish.request)

    def _on_ended(self, message: Message) -> None:
        told = msgspec.json.decode(message.body, type=_Ended)
        for key in told.sessions:
            session = self._here.get(key)
            if session is None:
                self._note(key, math.inf)
            else:
                self._unload(session, told.reason)

    def _on_changed(self, message: Message) -> None:
        record = decode(message.body)
        if record is None:
            return
        session = self._here.get(record.key)
        if session is None:
            self._note(record.key, record.rev)
        else:
            self._recent.tell(session, session.take(record))

    def _on_answer(self, message: Message) -> None:
        told = msgspec.json.decode(message.body, type=_Answer)
        session = self._here.get(told.session)
        if session is not None:
            session.peer.answer(told.response)
