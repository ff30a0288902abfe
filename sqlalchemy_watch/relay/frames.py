"""What a broadcast sends: notifications as they came, numbered, so that whoever misses some knows it.

Pure. A frame is a line of JSON, and behind it the payloads, one after the other. The numbers of an epoch ascend by one;
a new epoch begins whenever the broadcast itself may have missed something. A frame without notifications is a beat: it
has the number of the last one before it, so that a loss at the end is noticed as well. Whatever comes is as hostile as
what NOTIFY brings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import PayloadError, in_one_line
from ..listener.pipeline.parts import Notification

VERSION = 1

#: Seconds between beats.
BEAT = 1.0

BEGUN_ANEW = "the broadcast has begun anew"

#: Epochs that are over, and known as such.
MOST_ENDED = 1_000

#: The most bytes of a name or a reason in a frame.
MAX_TEXT = 1_000


class Frame(NamedTuple):
    """A part of a broadcast."""

    epoch: str
    #: 0 where the epoch begins.
    number: int
    notifications: Sequence[Notification] = ()
    #: What is broadcast; told to who asks, and where an epoch begins.
    channels: Sequence[str] | None = None
    #: Why the epoch has begun.
    reason: str | None = None
    #: The database's, which tells those of one name apart; None where it could not be asked for that.
    database: str | None = None

    def encode(self) -> bytes:
        """Return it as it is sent."""
        head: dict[str, Any] = {"version": VERSION, "epoch": self.epoch, "number": self.number}
        if self.channels is not None:
            head["channels"] = list(self.channels)
        if self.reason is not None:
            head["reason"] = self.reason[:MAX_TEXT]
        if self.database is not None:
            head["database"] = self.database
        if self.notifications:
            head["notifications"] = [[n.channel, len(n.payload), n.skipped_rows] for n in self.notifications]
        payloads = [notification.payload for notification in self.notifications]
        return b"".join([json.dumps(head, separators=(",", ":")).encode(), b"\n", *payloads])


def decode(data: bytes) -> Frame:
    """Return the frame that was sent.

    :raises PayloadError: for anything else.
    """
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        if head["version"] != VERSION:
            raise PayloadError(f"a frame of version {head['version']!r}, and this is {VERSION}: update both sides")
        notifications, start = [], 0
        for channel, size, skipped in head.get("notifications", ()):
            _check(isinstance(channel, str) and _is_count(size) and _is_count(skipped))
            notifications.append(Notification(channel, rest[start : start + size], skipped))
            start += size
        _check(start == len(rest))
        epoch, number, channels, reason = head["epoch"], head["number"], head.get("channels"), head.get("reason")
        database = head.get("database")
        _check(database is None or (isinstance(database, str) and len(database) <= MAX_TEXT))
        _check(isinstance(epoch, str) and 0 < len(epoch) <= MAX_TEXT and _is_count(number))
        _check(channels is None or (isinstance(channels, list) and all(isinstance(each, str) for each in channels)))
        _check(reason is None or (isinstance(reason, str) and len(reason) <= MAX_TEXT))
    except PayloadError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise PayloadError(f"no frame of a broadcast ({type(error).__name__}): {data[:60]!r}") from None
    return Frame(epoch, number, notifications, channels, None if reason is None else in_one_line(reason), database)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _check(is_so: bool) -> None:
    if not is_so:
        raise ValueError


class Following:
    """Which frames are new, and where some are missing."""

    def __init__(self) -> None:
        self._epoch: str | None = None
        self._number = 0
        self._ended: dict[str, None] = {}

    def is_stale(self, frame: Frame) -> bool:
        """Return True for a frame of an epoch that is over, and for one that came before."""
        if frame.epoch in self._ended:
            return True
        return frame.epoch == self._epoch and frame.number < self._number + bool(frame.notifications)

    def gap(self, frame: Frame) -> str | None:
        """Note a frame that is not stale; return why events may be missing in front of it, None where none are."""
        before, last = self._epoch, self._number
        self._epoch, self._number = frame.epoch, frame.number
        if before is None:
            return None
        if frame.epoch != before:
            self._ended[before] = None
            if len(self._ended) > MOST_ENDED:
                del self._ended[next(iter(self._ended))]
            return frame.reason or BEGUN_ANEW
        missing = frame.number - last - bool(frame.notifications)
        return f"messages of the broadcast were lost on the way: {missing}" if missing else None
