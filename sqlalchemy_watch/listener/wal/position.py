"""Where in the log a consumer is, and what of it has been taken: no I/O."""

from __future__ import annotations

import threading

from .messages import Begin, Commit


class Position:
    """Where in the log this process is, and what of it has been taken."""

    def __init__(self) -> None:
        #: Commits after this can't have been delivered by another consumer.
        self.known_new_from: int | None = None
        self.in_transaction: bool = False
        self.commit_lsn: int = 0
        self.redelivered: bool | None = None
        self.tokens: list[threading.Event] = []
        #: The newest transaction taken in full, and how much of the one after it.
        self._taken_commit = 0
        self.last_end: int = 0
        self._partly_taken: tuple[int, int] = (0, 0)
        self._messages = 0

    def begin(self, begin: Begin) -> None:
        self.in_transaction = True
        self.commit_lsn = begin.commit_lsn
        self._messages = 0
        if self.tokens:
            self.tokens = []
        new_from = self.known_new_from
        self.redelivered = None if new_from is None or begin.commit_lsn <= new_from else False

    def message(self) -> bool:
        """Whether this message of the transaction is to be taken."""
        self._messages += 1
        lsn, count = self._partly_taken
        if self.commit_lsn <= self._taken_commit or (lsn == self.commit_lsn and self._messages <= count):
            return False
        self._partly_taken = (self.commit_lsn, self._messages)
        return True

    def commit(self, commit: Commit) -> bool:
        """Whether the end of the transaction is to be passed on."""
        self.in_transaction = False
        if commit.commit_lsn <= self._taken_commit:
            return False
        self._taken_commit = commit.commit_lsn
        self.last_end = commit.end_lsn
        return True

    def is_within(self, end: int) -> bool:
        """Whether all that was taken, in part or in full, committed before a point of the log."""
        taken = max(self._taken_commit, self._partly_taken[0])
        return not taken or taken < end

    def take_tokens(self) -> list[threading.Event]:
        tokens = self.tokens
        if tokens:
            self.tokens = []
        return tokens
