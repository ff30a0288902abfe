"""The replication protocol, as far as reading logical messages needs it: bytes in, values out, no I/O.

psycopg has no replication API, so this is PostgreSQL's "Streaming Replication Protocol" and "Logical
Replication Message Formats" (chapter 54 of its manual), from libpq's COPY data.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

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

#: Makes a named tuple of a tuple at a third of the cost of calling its class: there are three to a transaction.
_new = tuple.__new__


class Begin(NamedTuple):
    """A transaction begins; they come whole, in commit order."""

    commit_lsn: int
    #: The time of the commit, in microseconds since 2000.
    committed_at: int
    #: The lower 32 bits of its number.
    xid: int


class LogicalMessage(NamedTuple):
    """A message as `pg_logical_emit_message` wrote it, in the database's encoding; the content need not be text."""

    prefix: bytes
    #: A view where it is large: most of what is large is not ours, and is never copied.
    content: bytes | memoryview
    transactional: bool


class Commit(NamedTuple):
    """The transaction ends; acknowledging `end_lsn` acknowledges it."""

    commit_lsn: int
    end_lsn: int


class Keepalive(NamedTuple):
    """All before `wal_end` has been sent."""

    wal_end: int
    reply_wanted: bool


class Other(NamedTuple):
    """Anything else: origins, relations, changes of tables, of which our publication has none."""

    kind: str


Received: TypeAlias = Begin | LogicalMessage | Commit | Keepalive | Other


def parse(data: bytes | memoryview) -> Received:
    """One piece of COPY data from a walsender with the plugin pgoutput.

    :raises PayloadError: where it is cut off.
    """
    try:
        if len(data) > _LARGE:
            return _parse_large(memoryview(data))
        data = bytes(data)
        if data[:1] == b"w":
            return _parse_message(data)
        if data[:1] == b"k":
            return _new(Keepalive, _KEEPALIVE.unpack_from(data, 1))
        return Other(data[:1].decode("latin1"))
    except (struct.error, ValueError, IndexError) as error:
        raise PayloadError(f"a replication message is cut off ({error})") from None


def _parse_message(data: bytes) -> Received:
    kind, at = data[_HEADER : _HEADER + 1], _HEADER + 1
    if kind == b"M":
        flags, prefix = data[at], at + 9
        end = data.index(0, prefix)
        (length,) = _LENGTH.unpack_from(data, end + 1)
        content = data[end + 5 : end + 5 + length]
        if len(content) < length:
            raise ValueError("content")
        return _new(LogicalMessage, (data[prefix:end], content, flags & 1 == 1))
    if kind == b"B":
        return _new(Begin, _BEGIN.unpack_from(data, at))
    if kind == b"C":
        return _new(Commit, _COMMIT.unpack_from(data, at))
    return Other(kind.decode("latin1"))


def _parse_large(data: memoryview) -> Received:
    """Read a large piece without a copy of its content."""
    head = bytes(data[:HEAD_BYTES])
    end = _end_of_prefix(head)
    if end is None:
        return Other(head[_HEADER : _HEADER + 1].decode("latin1"))
    (length,) = _LENGTH.unpack_from(data, end + 1)
    content = data[end + 5 : end + 5 + length]
    if len(content) < length:
        raise ValueError("content")
    prefix, is_transactional = prefix_of(head)
    return _new(LogicalMessage, (prefix, content, is_transactional))


def is_message(head: bytes) -> bool:
    """Return True if the piece of COPY data that begins like this is a logical message."""
    return head[:1] == b"w" and head[_HEADER : _HEADER + 1] == b"M"


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
