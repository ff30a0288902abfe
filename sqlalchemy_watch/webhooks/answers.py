"""What is made of a partner's answers: failures, and the pauses that it asks for."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ..errors import RetryAfter, WatchError

#: Seconds of the shortest pause, so that `Retry-After: 0` is no endless loop.
LEAST_PAUSE = 1.0

#: Partners whose pauses are known, before those that have gone by are forgotten.
_MANY = 1000

_SECONDS = re.compile(r"[0-9]+")


class WebhookFailed(WatchError):
    """Raised by a webhook that the partner has not taken: an answer that is none of 2xx, or no answer in time.

    What is sent, the secret, and the URL's path and query are not in its words.
    """

    says_all = True

    def __init__(self, host: str, reason: str, status: int | None = None) -> None:
        super().__init__(f"webhook to {host}: {reason}")
        #: Of the URL.
        self.host: str = host
        #: HTTP's code of the answer; None without one.
        self.status: int | None = status


def read_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` asks for: a number, or a date; None where it is neither.

    :param now: by the partner's clock, where that is known.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text[:12])
    asked = read_date(text)
    return None if asked is None else max((asked - now).total_seconds(), 0.0)


def read_date(value: str | None) -> datetime | None:
    """Return the time in a header; None where there is none."""
    try:
        found = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class _Pause:
    """That of one endpoint. Times are those of `time.monotonic()`."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.until = since


class Pauses:
    """The endpoints that have asked for a pause: nothing is sent there meanwhile, whichever lane it is for.

    :param longest: seconds. No single pause is longer; and where pauses follow one another for so long, without an
        event that was taken, further ones count as attempts, so that such an endpoint does not hold events for ever.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._by_url: dict[str, _Pause] = {}
        self._lock = threading.Lock()  # of lanes, which run side by side

    def present(self, url: str, host: str, now: float) -> RetryAfter | None:
        """Return what is to be raised while a pause lasts; None where none does."""
        with self._lock:
            pause = self._by_url.get(url)
            if pause is None or pause.until <= now:
                return None
            return self._error(pause, now, f"webhook to {host}: it has asked for a pause")

    def begin(self, url: str, host: str, status: int, seconds: float, now: float) -> RetryAfter:
        """Note a pause, and return what is to be raised for it."""
        with self._lock:
            if len(self._by_url) >= _MANY:
                self._by_url = {each: pause for each, pause in self._by_url.items() if not self._is_old(pause, now)}
            pause = self._by_url.get(url)
            if pause is None or self._is_old(pause, now):
                pause = self._by_url[url] = _Pause(now)
            # The longest of those that lanes were told of at the same time.
            pause.until = max(pause.until, now + min(max(seconds, LEAST_PAUSE), max(self._longest, LEAST_PAUSE)))
            return self._error(pause, now, f"webhook to {host}: answered {status}, and asked for a pause")

    def end(self, url: str) -> None:
        """Note that an event was taken."""
        if url in self._by_url:
            with self._lock:
                self._by_url.pop(url, None)

    def _is_old(self, pause: _Pause, now: float) -> bool:
        return pause.until + self._longest <= now

    def _error(self, pause: _Pause, now: float, reason: str) -> RetryAfter:
        return RetryAfter(pause.until - now, reason, is_attempt=now - pause.since >= self._longest)
