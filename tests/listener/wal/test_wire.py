"""Messages of the walsender are parsed as PostgreSQL documents them; any other bytes are refused, never a crash."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sqlalchemy_watch.errors import PayloadError
from sqlalchemy_watch.listener.wal.messages import (
    BEGIN,
    COMMIT,
    KEEPALIVE,
    MESSAGE,
    OTHER,
    format_lsn,
    parse,
    parse_lsn,
    status_update,
    time_of,
)

LSNS = st.integers(0, 2**64 - 1)


def xlog(body: bytes) -> bytes:
    return b"w" + struct.pack("!QQq", 1, 2, 3) + body


def message(prefix: bytes, content: bytes, flags: int = 1) -> bytes:
    return xlog(b"M" + struct.pack("!BQ", flags, 7) + prefix + b"\0" + struct.pack("!I", len(content)) + content)


@given(st.binary(max_size=200))
@example(b"")
@example(b"w")
@example(b"k")
@example(xlog(b""))
def test_arbitrary_bytes_are_parsed_or_refused(data: bytes) -> None:
    with suppress(PayloadError):
        parse(data)


@given(st.sampled_from(b"MBCROYTIUDt"), st.binary(max_size=100))
def test_arbitrary_bodies_of_known_kinds_are_parsed_or_refused(kind: int, body: bytes) -> None:
    with suppress(PayloadError):
        parse(xlog(bytes([kind]) + body))


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50), st.binary(max_size=300))
def test_a_message_comes_out_as_it_was_sent(prefix: str, content: bytes) -> None:
    assert parse(message(prefix.encode(), content)) == (MESSAGE, prefix.encode(), content, True)
    assert parse(message(prefix.encode(), content, flags=0)) == (MESSAGE, prefix.encode(), content, False)
    assert parse(memoryview(message(prefix.encode(), content))) == (MESSAGE, prefix.encode(), content, True)


@given(LSNS, LSNS, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1))
def test_the_ends_of_a_transaction_come_out_as_they_were_sent(commit_lsn: int, end_lsn: int, at: int, xid: int) -> None:
    assert parse(xlog(b"B" + struct.pack("!QqI", commit_lsn, at, xid))) == (BEGIN, commit_lsn, at, xid)
    assert parse(xlog(b"C" + struct.pack("!BQQq", 0, commit_lsn, end_lsn, 0))) == (COMMIT, commit_lsn, end_lsn, None)
    assert parse(b"k" + struct.pack("!QqB", end_lsn, 0, 1)) == (KEEPALIVE, end_lsn, True, None)


@pytest.mark.parametrize(
    "whole",
    [
        message(b"sqlalchemy_watch/x", b"content"),
        xlog(b"B" + struct.pack("!QqI", 1, 2, 3)),
        xlog(b"C" + struct.pack("!BQQq", 0, 1, 2, 3)),
        b"k" + struct.pack("!QqB", 1, 2, 0),
    ],
)
def test_a_message_that_is_cut_off_is_refused(whole: bytes) -> None:
    header = 1 + 24 + 1  # of less nobody can say what it is
    for length in range(header if whole[:1] == b"w" else 1, len(whole)):
        with pytest.raises(PayloadError, match="cut off"):
            parse(whole[:length])


def test_other_messages_are_passed_over() -> None:
    assert parse(xlog(b"R" + b"relation")) == (OTHER, None, None, None)
    assert parse(b"z") == (OTHER, None, None, None)


@given(st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)))
def test_times_are_microseconds_since_2000(at: datetime) -> None:
    assert time_of((at - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)) == at


@given(LSNS)
def test_positions_are_read_as_they_are_written(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_positions_are_written_as_postgresql_writes_them() -> None:
    assert format_lsn(0x16_B374D848) == "16/B374D848"
    assert format_lsn(0) == "0/0"


@given(LSNS, LSNS, st.booleans())
def test_a_status_update_holds_what_is_acknowledged(received: int, acknowledged: int, reply_wanted: bool) -> None:
    update = status_update(received, acknowledged, reply_wanted=reply_wanted)
    kind, written, flushed, applied, _, reply = struct.unpack("!cQQQqB", update)
    assert (kind, written, flushed, applied, reply) == (b"r", received, acknowledged, acknowledged, reply_wanted)
