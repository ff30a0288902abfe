"""Large pieces of the log: what is not ours is passed over where it lies, in libpq's buffer.

Whoever may connect may write messages of up to 1 GB. `PQgetCopyData` copies each of them once more; the older
`PQgetlineAsync`, which psycopg does not wrap, hands out a piece bit by bit.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from psycopg import OperationalError, pq
from psycopg.pq.abc import PGconn
from psycopg.pq.misc import find_libpq_full_path

from .messages import HEAD_BYTES, is_message, message_size

#: The bits in which a piece is handed out, in bytes.
_BIT = 1 << 20

#: Returns so many bytes of the piece that has arrived whole; 0 before it has, -1 at the end.
_Getline = Callable[[int, Any, int], int]


def _find_getline() -> _Getline | None:
    """Return the function of the very libpq that psycopg uses; None where it can't be found."""
    module = sys.modules[pq.PGconn.__module__]
    path = find_libpq_full_path() if pq.__impl__ == "python" else module.__file__
    try:
        function = ctypes.PyDLL(path).PQgetlineAsync
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int], ctypes.c_int
    return function


class LargePieces:
    """Takes pieces of COPY data from one connection, as `PGconn.get_copy_data` does.

    :param pass_over: told of the beginning and the size of a message; returns True where it is not to be read.
    """

    def __init__(self, pgconn: PGconn, pass_over: Callable[[bytes, int], bool]) -> None:
        self._pgconn, self._pass_over = pgconn, pass_over
        self._getline = _find_getline()
        self._head = ctypes.create_string_buffer(HEAD_BYTES)
        #: The connection's address; psycopg's Protocol of a PGconn does not mention it.
        self._address: int | None = getattr(pgconn, "pgconn_ptr", None)

    def take(self) -> tuple[int, bytes | memoryview]:
        """Return the size and the contents of the next piece, which are empty where it was passed over.

        The size is 0 where none has arrived whole, and negative at the end.
        """
        pgconn, getline = self._pgconn, self._getline
        if getline is None or self._address is None:
            return pgconn.get_copy_data(1)
        got = getline(self._address, self._head, HEAD_BYTES)
        if got <= 0:
            return pgconn.get_copy_data(1)  # which knows the end from an error
        head = self._head.raw[:got]
        if got < HEAD_BYTES:
            return got, head
        if not is_message(head):  # of no known size: libpq's other function takes it whole
            self._getline = None
            return pgconn.get_copy_data(1)
        size = message_size(head)
        if size is None:
            return self._pass_over_prefix(head), b""
        return size, self._take_rest(head, size)

    def _take_rest(self, head: bytes, size: int) -> bytes:
        kept = None if self._pass_over(head, size) else bytearray(head)
        left = size - len(head)
        while left > 0:
            bit = self._next_bit(min(_BIT, left))
            left -= len(bit)
            if kept is not None:
                kept += bit
        return b"" if kept is None else bytes(kept)

    def _pass_over_prefix(self, head: bytes) -> int:
        """Pass over a message whose prefix is longer than any of ours; behind it stands the size of the rest."""
        bit, seen = head[-4:], len(head) - 4
        while (end := bit.find(0)) < 0:
            seen += len(bit)
            bit = self._next_bit(_BIT)
        while len(bit) < end + 5:
            bit += self._next_bit(end + 5 - len(bit))
        size = seen + end + 5 + int.from_bytes(bit[end + 1 : end + 5], "big")
        left = size - seen - len(bit)
        while left > 0:
            left -= len(self._next_bit(min(_BIT, left)))
        return size

    def _next_bit(self, size: int) -> bytes:
        if self._getline is None or self._address is None:
            raise OperationalError("the connection is closed")
        bit = ctypes.create_string_buffer(size)
        got = self._getline(self._address, bit, size)
        if got <= 0:
            raise OperationalError("a piece of the log ended too early")
        return bit.raw[:got]
