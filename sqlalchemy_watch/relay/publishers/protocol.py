"""What every publisher keeps to, and what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ...errors import ConfigurationError, WatchError
from ..messages import Message

T = TypeVar("T")

#: Seconds within which a broker has to answer.
TIMEOUT = 10.0

#: What is on its way at a time.
MOST_MESSAGES, MOST_BYTES = 500, 4 * 1024 * 1024


class Publisher(Protocol):
    """Hands messages to a broker. One of your own has these three methods.

    The relay calls them one at a time. It publishes a list again for as long as that fails, so a broker may get a
    message twice.
    """

    async def start(self) -> None:
        """Connect.

        :raises ConfigurationError: where the broker is not set up for this, and trying again would not change that.
        :raises Exception: any other, where it is worth trying again.
        """

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages, and return once the broker has confirmed all of them.

        Those of one `Message.lane` come in this order, whatever fails: nothing is published whose predecessor has not
        been confirmed.

        :raises Refused: some will never be taken. The others are confirmed, but those that come after a refused one.
        :raises Exception: any other, where the whole list is to be published again.
        """

    async def close(self) -> None:
        """Disconnect. It can be started again. Never raises."""


class Refused(WatchError):
    """Raised by a publisher: the broker will never take some of the messages. All others are confirmed, but `held`."""

    def __init__(self, reasons: Sequence[tuple[Message, str]], held: Sequence[Message] = ()) -> None:
        #: Those it will never take, and why in words.
        self.reasons: list[tuple[Message, str]] = list(reasons)
        #: Those that come after one of them in its lane, and so were not published: they still have to be.
        self.held: list[Message] = list(held)
        message, reason = self.reasons[0]
        others = f", and {len(self.reasons) - 1} others" if len(self.reasons) > 1 else ""
        super().__init__(f"the broker does not take {message.id} ({message.subject}): {reason}{others}")


class Refusals:
    """Keeps what is refused of one list, and holds back what comes after it."""

    def __init__(self) -> None:
        self._reasons: list[tuple[Message, str]] = []
        self._held: list[Message] = []
        self._lanes: set[tuple[str, str, str | None]] = set()
        self._is_barred = False

    def add(self, message: Message, reason: str) -> None:
        """Keep a message that will never be taken."""
        self._reasons.append((message, reason))
        self._bar(message)

    def holds(self, message: Message) -> bool:
        """Return True for a message that has to wait, since it comes after one that was refused."""
        waits = self._is_barred or message.lane in self._lanes or (message.key is None and bool(self._lanes))
        if waits:
            self._held.append(message)
            self._bar(message)
        return waits

    def check(self) -> None:
        """Raise `Refused` if something was."""
        if self._reasons:
            raise Refused(self._reasons, self._held)

    def _bar(self, message: Message) -> None:
        self._lanes.add(message.lane)
        self._is_barred = self._is_barred or message.key is None


def runs(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Cut a list where a lane comes again, so that within a run any may fail and none overtakes its predecessor.

    What names no row is in order with all, and so alone.
    """
    run: list[Message] = []
    lanes: set[tuple[str, str, str | None]] = set()
    size = 0
    for message in messages:
        ends = message.lane in lanes or message.key is None or len(run) == MOST_MESSAGES or size >= MOST_BYTES
        if run and (ends or run[-1].key is None):
            yield run
            run, lanes, size = [], set(), 0
        run.append(message)
        lanes.add(message.lane)
        size += len(message.data)
    if run:
        yield run


async def within(seconds: float, doing: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine does, if it does so within these seconds, even if it does not let itself be cancelled.

    :raises TimeoutError: it does not.
    """
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(_ignore)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError(f"{doing}: no answer within {seconds:g} s")
    return task.result()


def _ignore(task: asyncio.Task[Any]) -> None:
    """Look at an error that nobody waits for any more, of which the loop would complain."""
    if not task.cancelled():
        task.exception()


def check_timeout(timeout: float) -> float:
    """Return the seconds, if they can be some.

    :raises ConfigurationError: they can't.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise ConfigurationError(f"timeout={timeout!r}: give seconds, more than 0")
    return float(timeout)
