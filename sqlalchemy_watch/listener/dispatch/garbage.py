"""The log of notifications that can't be read."""

from __future__ import annotations

import logging
import time

from ...errors import PayloadError
from ..pipeline.parts import Notification

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between warnings of garbage. Otherwise a client that floods a channel would fill the log as well.
GARBAGE_WARNING_SECONDS = 10.0


class GarbageLog:
    """Logs the channel and the length of payloads, never their contents; warns now and then, and debugs otherwise."""

    def __init__(self) -> None:
        self._warned_at = -GARBAGE_WARNING_SECONDS

    def note(self, notification: Notification, error: PayloadError) -> None:
        """Log one that can't be read."""
        now = time.monotonic()
        is_due = now - self._warned_at >= GARBAGE_WARNING_SECONDS
        if is_due:
            self._warned_at = now
        log.log(
            logging.WARNING if is_due else logging.DEBUG, "ignored a notification on channel %r (%d bytes): %s",
            notification.channel, len(notification.payload), error,
        )  # fmt: skip
