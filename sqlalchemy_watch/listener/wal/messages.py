"""The replication protocol, as far as reading logical messages needs it: bytes in, values out, no I/O.

psycopg has no replication API, so this is PostgreSQL's "Streaming Replication Protocol" and "Logical
Replication Message Formats" (chapter 54 of its manual), from libpq's COPY data.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from ...errors import PayloadError
from ...wire import DURABLE_PREFIX

#: Prefixes of messages of the library's own: marks of `catch_up`, and the names of groups whose slot begins with a gap.
TOKEN_PREFIX: Final = DURABLE_PREFIX + "token"
RESYNC_PREFIX: Final = DURABLE_PREFIX + "resync"

_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

#: In front of each message of a plugin: "w", two positions and a time.
_HEADER = 25

#: A larger piece is looked at where it lies. Its prefix is among the first bytes, or is none of ours.
_LARGE = 65_536
HEAD_BYTES: Final = 1_024

#: The useful part behind the letter of each kind, or behind the "k" of a keepalive.
_KEEPALIVE = struct.Struct("!Q8x?")
_BEGIN = struct.Struct("!QqI")
_COMMIT = struct.Struct("!xQQ8x")
_LENGTH = struct.Struct("!I")
_STATUS = struct.Struct("!cQQQqB")

#: What a piece is, and its parts. There are three pieces to a transaction, so they are plain tuples:
#: MESSAGE, prefix, content, True if it is transactional. The message is as `pg_logical_emit_message` wrote it, in the
#:     database's encoding; the content need not be text, and is a view where it is large: most of that is not ours.
#: BEGIN, where it commits, the time of that in microseconds since 2000, the lower 32 bits of its number. Transactions
#:     come whole, in commit order.
#: COMMIT, where it commits, where it ends, None: acknowledging the end acknowledges the transaction.
#: KEEPALIVE, up to where everything has been sent, True if a reply is wanted, None.
#: OTHER, None, None, None: origins, relations, changes of tables, of which our publication has none.
Received: TypeAlias = tuple[int, Any, Any, Any]
MESSAGE, BEGIN, COMMIT, KEEPALIVE, OTHER = b"MBCk\0"
_OTHER: Received = (OTHER, None, None, None)
_W = ord("w")


def parse(data: bytes | memoryview) -> Received:
    """One piece of COPY data from a walsender with the plugin pgoutput.

    :raises PayloadError: where it is cut off.
    """
    try:
        if len(data) > _LARGE:
            return _parse_large(memoryview(data))
        data = bytes(data)
        if data[0] == _W:
            kind = data[_HEADER]
            if kind == MESSAGE:
                end = data.index(0, _HEADER + 10)
                (length,) = _LENGTH.unpack_from(data, end + 1)
                content = data[end + 5 : end + 5 + length]
                if len(content) < length:
                    raise ValueError("content")
                return MESSAGE, data[_HEADER + 10 : end], content, data[_HEADER + 1] & 1 == 1
            if kind == BEGIN:
                return BEGIN, *_BEGIN.unpack_from(data, _HEADER + 1)
            if kind == COMMIT:
                return COMMIT, *_COMMIT.unpack_from(data, _HEADER + 1), None
        elif data[0] == KEEPALIVE:
            return KEEPALIVE, *_KEEPALIVE.unpack_from(data, 1), None
        return _OTHER
    except (struct.error, ValueError, IndexError) as error:
        raise PayloadError(f"a replication message is cut off ({error})") from None


def _parse_large(data: memoryview) -> Received:
    """Read a large piece without a copy of its content."""
    head = bytes(data[:HEAD_BYTES])
    end = _end_of_prefix(head)
    if end is None:
        return _OTHER
    (length,) = _LENGTH.unpack_from(data, end + 1)
    content = data[end + 5 : end + 5 + length]
    if len(content) < length:
        raise ValueError("content")
    prefix, is_transactional = prefix_of(head)
    return MESSAGE, prefix, content, is_transactional


def is_message(head: bytes) -> bool:
    """Return True if the piece of COPY data that begins like this is a logical message."""
    return len(head) > _HEADER and head[0] == _W and head[_HEADER] == MESSAGE


def _end_of_prefix(head: bytes) -> int | None:
    """Return where the prefix of a logical message ends; None of anything else, and where it is longer than ours."""
    end = head.find(0, _HEADER + 10, HEAD_BYTES - 4) if is_message(head) else -1
    return None if end < 0 else end


def message_size(head: bytes) -> int | None:
    """Return the size of the piece that begins like this; None where it is no message, or its prefix is too long."""
    end = _end_of_prefix(head)
    return None if end is None else end + 5 + int(_LENGTH.unpack_from(head, end + 1)[0])


def prefix_of(head: bytes) -> tuple[bytes, bool]:
    """Return the prefix of the logical message that begins like this, and True if it is transactional."""
    end = _end_of_prefix(head)
    return head[_HEADER + 10 : end], head[_HEADER + 1] & 1 == 1


def status_update(received: int, acknowledged: int, *, reply_wanted: bool) -> bytes:
    """Return a standby status update.

    :param received: up to where everything has been read.
    :param acknowledged: up to where the server need not keep its log for us.
    :param reply_wanted: True to have the server answer at once with a keepalive.
    """
    now = int((datetime.now(UTC) - _POSTGRES_EPOCH).total_seconds() * 1_000_000)
    return _STATUS.pack(b"r", received, acknowledged, acknowledged, now, reply_wanted)


def time_of(microseconds: int) -> datetime:
    """Return a time that is told in microseconds since 2000."""
    return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)


def format_lsn(lsn: int) -> str:
    """Return a position in the log as PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Return the number of a position in the log that is written in PostgreSQL's way."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)
