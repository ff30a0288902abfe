"""The gate in front of receivers. It is closed while another process may be the active consumer.

What was read under one connection belongs to a tenure: the ledger of that time. With the connection the slot is lost to
whoever stands by, so whoever is about to call a receiver waits at the gate. If nobody else consumed meanwhile it
opens, and all goes on where it was. Otherwise the tenure is over: a new ledger begins, and what belongs to the old one
is dropped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from .inbox import Inbox, summary
from .ledger import Ledger
from .parts import News

#: The reader looks at its connection more often than that, in seconds. Otherwise the process was suspended, and another
#: one may be active since: nobody passes before the server was asked.
DOUBT_SECONDS = 0.75


class Revoked(Exception):
    """Raised where what is being handled is no longer this process's to deliver."""


class Gate:
    """Everyone passes, from the beginning.

    :param ledger: of the first tenure.
    """

    def __init__(self, inbox: Inbox, ledger: Ledger) -> None:
        self._inbox = inbox
        #: That of the present tenure.
        self.ledger: Ledger = ledger
        #: That of which the dispatch thread handles something.
        self.served: Ledger = ledger
        self._lock = threading.RLock()  # reentrant: a garbage collection may call stop() in this very thread
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self.is_stopped: bool = False
        #: When the reader looked at its connection, by `time.monotonic()`; infinite where nobody else could take over.
        self.looked_at: float = math.inf
        #: True while it is to be found out whether this process is the active consumer still.
        self.is_doubted: bool = False
        self._news: deque[News] = deque()
        #: Called in the dispatch thread, with news that come out of turn.
        self.on_news: Callable[[News], None] = lambda news: None
        #: True if whoever calls receivers has to look here first. Read before each call, and so no property.
        self.needs_attention: bool = False

    def close(self) -> None:
        """Let nobody pass: another process may be the active consumer."""
        with self._lock:
            self._closed = True
            self._note_change()

    def open(self) -> None:
        """Let those pass who wait."""
        with self._lock:
            self._closed = False
            self._note_change()

    def look(self, now: float) -> None:
        """Let nobody pass where the process has been suspended; called by the reader, and before each message.

        :param now: by `time.monotonic()`.
        """
        if now - self.looked_at > DOUBT_SECONDS and not self.is_doubted:
            with self._lock:
                self.is_doubted = True
                self._note_change()

    def trust(self) -> None:
        """Note that this process is the active consumer."""
        self.looked_at = time.monotonic()
        if self.is_doubted:
            with self._lock:
                self.is_doubted = False
                self._note_change()

    def renew(self, ledger: Ledger) -> None:
        """Begin a new tenure: what belongs to the one before is dropped."""
        with self._lock:
            self.ledger.is_over = True
            self.ledger = ledger
            self._note_change()

    def serve(self, ledger: Ledger) -> None:
        """In the dispatch thread: note that it has dropped what does not belong to this tenure."""
        with self._lock:
            self.served = ledger
            self._note_change()

    def stop(self) -> None:
        """Let nobody pass any more, and nobody wait."""
        with self._lock:
            self.is_stopped = True
            self._note_change()

    def end(self) -> None:
        """Note that nothing is acknowledged any more: what waits somewhere comes again."""
        self.ledger.is_over = True

    def tell(self, news: News) -> None:
        """Have the dispatch thread hear this before anything else, also while the gate is closed."""
        with self._lock:
            self._news = deque(summary([*self._news, news]))
            self._note_change()

    def _note_change(self) -> None:
        self.ledger.is_paused = self._closed or self.is_doubted
        is_held = self.ledger.is_paused or self.ledger is not self.served
        self.needs_attention = is_held or self.is_stopped or bool(self._news)
        self._changed.notify_all()
        if self.needs_attention:
            self._inbox.wake()

    @property
    def is_revoked(self) -> bool:
        """True if what the dispatch thread handles will not be gone on with."""
        return self.ledger is not self.served or (self.is_stopped and (self._closed or self.is_doubted))

    def await_turn(self) -> bool:
        """In the dispatch thread: wait while the gate is closed; hear news meanwhile.

        :returns: False once no receiver is called any more.
        :raises Revoked: where the tenure is over.
        """
        while (news := self._next_news()) is not None:
            self.on_news(news)
        if self.is_revoked:
            raise Revoked
        return not self.is_stopped

    def admits(self, ledger: Ledger) -> bool:
        """In another thread: wait while the gate is closed.

        :returns: False where the tenure is over, or all is stopped.
        """
        if self.needs_attention:
            with self._lock:
                while self.ledger is ledger and ledger.is_paused and not self.is_stopped:
                    self._changed.wait()
        return self.ledger is ledger and not self.is_stopped

    def _next_news(self) -> News | None:
        with self._lock:
            while not self.is_stopped:
                if self._news:
                    news = self._news.popleft()
                    self._note_change()
                    return news
                if self.ledger is not self.served or not (self._closed or self.is_doubted):
                    return None
                self._changed.wait()
            return None
