"""The replication protocol, as far as reading logical messages needs it: bytes in, values out, no I/O.

psycopg has no replication API, so this is PostgreSQL's "Streaming Replication Protocol" and "Logical
Replication Message Formats" (chapter 54 of its manual), from libpq's COPY data.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

from ..errors import PayloadError

_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_XLOG_DATA = struct.Struct("!QQq")
_KEEPALIVE = struct.Struct("!QqB")
_BEGIN = struct.Struct("!QqI")
_COMMIT = struct.Struct("!BQQq")
_MESSAGE = struct.Struct("!BQ")
_STATUS = struct.Struct("!cQQQqB")


class Begin(NamedTuple):
    """A transaction begins; they come whole, in commit order."""

    commit_lsn: int
    txid: int


class LogicalMessage(NamedTuple):
    """What `pg_logical_emit_message` wrote, which need not be text; the prefix is as `encode_prefix` gives it."""

    prefix: str
    content: bytes
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
    data = bytes(data)
    try:
        if data[:1] == b"k":
            wal_end, _, reply = _KEEPALIVE.unpack_from(data, 1)
            return Keepalive(wal_end, bool(reply))
        if data[:1] == b"w":
            return _parse_message(data, 1 + _XLOG_DATA.size)
        return Other(data[:1].decode("latin1"))
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise PayloadError(f"a replication message is cut off ({error})") from None


def _parse_message(data: bytes, at: int) -> Received:
    kind = data[at : at + 1]
    at += 1
    if kind == b"M":
        flags, _ = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        end = data.index(b"\0", at)
        (length,) = struct.unpack_from("!I", data, end + 1)
        content = data[end + 5 : end + 5 + length]
        if len(content) < length:
            raise ValueError("content")
        return LogicalMessage(data[at:end].decode(errors="surrogateescape"), content, bool(flags & 1))
    if kind == b"B":
        commit_lsn, _, txid = _BEGIN.unpack_from(data, at)
        return Begin(commit_lsn, txid)
    if kind == b"C":
        _, commit_lsn, end_lsn, _ = _COMMIT.unpack_from(data, at)
        return Commit(commit_lsn, end_lsn)
    return Other(kind.decode("latin1"))


def status_update(received: int, acknowledged: int, *, reply_wanted: bool) -> bytes:
    """A standby status update.

    :param received: up to where everything has been read.
    :param acknowledged: up to where the server need not keep its log for us.
    :param reply_wanted: whether the server is to answer at once with a keepalive.
    """
    now = int((datetime.now(UTC) - _POSTGRES_EPOCH).total_seconds() * 1_000_000)
    return _STATUS.pack(b"r", received, acknowledged, acknowledged, now, reply_wanted)


def encode_prefix(prefix: str, encoding: str) -> str:
    """A prefix as it comes from a database of an encoding, where that is read as UTF-8."""
    return prefix.encode(encoding, "replace").decode(errors="surrogateescape")


def format_lsn(lsn: int) -> str:
    """As PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The number behind PostgreSQL's way of writing a position in its log."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)
