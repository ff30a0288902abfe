"""LISTEN without a socket: the notifications that are ours, and the round trip that proves it is in force.

Pure: times are those of `time.monotonic()`. A round trip is a query that notifies a channel of the listener's own: the
notification that comes back proves that LISTEN is in force, not merely that a socket is open. `catch_up` uses the same
round trip: notifications come in commit order, so everything before it was committed before it. Its payload is a
secret of the process: nobody else can make one up.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..heartbeat import Heartbeat
from ..pipeline.parts import Here, Notification


class Arrived(Protocol):
    """A notification as libpq gives it."""

    @property
    def relname(self) -> bytes:
        """The channel."""

    @property
    def extra(self) -> bytes:
        """The payload."""


class Returned(NamedTuple):
    """The tokens that travelled with a round trip are back: their place among the notifications matters."""

    tokens: Sequence[str]


Part: TypeAlias = list[Notification] | Returned | Here


class NotifyProtocol:
    """One connection that LISTENs, as a state machine.

    :param channels: those listened to, by their name in the server's encoding.
    :param own_channel: the one for round trips.
    :param convert: payloads to UTF-8; None where they are in UTF-8 already.
    :param find_mark: finds the mark of a name, which comes once; None where nobody waits for it.
    """

    def __init__(
        self,
        channels: Mapping[bytes, str],
        own_channel: bytes,
        heartbeat: Heartbeat,
        convert: Callable[[bytes], bytes] | None = None,
        find_mark: Callable[[str], Here | None] = lambda name: None,
    ) -> None:
        self._find_mark = find_mark
        self._channels, self._own_channel, self._convert = channels, own_channel, convert
        self._heartbeat = heartbeat
        #: The payload of the round trip under way, and the tokens that travel with it.
        self._secret: bytes | None = None
        self._tokens: Sequence[str] = ()
        #: True once its notification, and the result of its query, are back.
        self._is_proved = self._is_answered = False

    def wants_trip(self, now: float, has_tokens: bool) -> bool:
        """Return True if a round trip is due: by the heartbeat, or for somebody who waits."""
        return self._secret is None and (has_tokens or self._heartbeat.is_due(now))

    def begin_trip(self, tokens: Sequence[str], now: float) -> tuple[bytes, bytes]:
        """Return the channel to notify, and the payload."""
        self._secret = uuid.uuid4().hex.encode()
        self._tokens = tokens
        self._is_proved = self._is_answered = False
        self._heartbeat.ask(now)
        return self._own_channel, self._secret

    def receive(self, arrived: Iterable[Arrived], now: float) -> Iterator[Part]:
        """Return the notifications that are ours, in runs, and the tokens and marks that came in between."""
        ours: list[Notification] = []
        for notify in arrived:
            channel = self._channels.get(notify.relname)
            if channel is not None:
                payload = notify.extra if self._convert is None else self._convert(notify.extra)
                ours.append(Notification(channel, payload))
                continue
            mark: Returned | Here | None = None
            if notify.relname == self._own_channel:
                if notify.extra == self._secret:
                    self._is_proved = True
                    mark, self._tokens = Returned(self._tokens), ()
                else:
                    mark = self._find_mark(notify.extra.decode(errors="replace"))
            if mark is not None:
                if ours:
                    yield ours
                    ours = []
                yield mark
        if ours:
            # An answer comes behind a backlog; only silence is a loss.
            self._heartbeat.postpone(now)
            yield ours

    def answer(self) -> None:
        """Note that the query of the round trip has ended."""
        self._is_answered = True

    def end_trip(self, now: float) -> bool:
        """Return True if both are back, and the round trip is over with that: a result alone does not prove LISTEN."""
        if self._secret is None or not (self._is_proved and self._is_answered):
            return False
        self._secret = None
        self._heartbeat.hear(now)
        return True

    def check(self, now: float) -> None:
        """Raise where a round trip takes too long.

        :raises Silent: with the number of seconds that were waited.
        """
        self._heartbeat.check(now)

    @property
    def deadline(self) -> float:
        """The time at which a round trip is due, or takes too long."""
        return self._heartbeat.deadline
