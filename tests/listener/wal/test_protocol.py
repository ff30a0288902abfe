"""The consumer's half of streaming replication as a state machine: no server, no thread, no clock."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sqlalchemy_watch.errors import PayloadError
from sqlalchemy_watch.listener.heartbeat import Heartbeat, Silent
from sqlalchemy_watch.listener.pipeline.parts import CaughtUp, Message, Notification, Resync
from sqlalchemy_watch.listener.source import Tokens
from sqlalchemy_watch.listener.stats import ReadingStats
from sqlalchemy_watch.listener.wal.liveness import LOOK_AFTER, PRESSING, Liveness, Seen
from sqlalchemy_watch.listener.wal.protocol import (
    ACKNOWLEDGE_INTERVAL,
    PART_BYTES,
    SLOT_LOST,
    Contents,
    Position,
    WalCore,
)
from sqlalchemy_watch.listener.xids import Xids

INTERVAL, TIMEOUT = 30.0, 10.0

CHANNEL = b"sqlalchemy_watch/orders"


def plugin(kind: bytes) -> bytes:
    return b"w" + struct.pack("!QQQ", 0, 0, 0) + kind


def begin(lsn: int, committed_at: int = 0, xid: int = 7) -> bytes:
    return plugin(b"B") + struct.pack("!QqI", lsn, committed_at, xid)


def commit(lsn: int, end: int) -> bytes:
    return plugin(b"C") + struct.pack("!BQQq", 0, lsn, end, 0)


def message(content: bytes, prefix: bytes = CHANNEL, flags: int = 1) -> bytes:
    return plugin(b"M") + struct.pack("!BQ", flags, 0) + prefix + b"\0" + struct.pack("!I", len(content)) + content


def keepalive(end: int, *, reply_wanted: bool = False) -> bytes:
    return b"k" + struct.pack("!Qq?", end, 0, reply_wanted)


def transaction(lsn: int, *contents: bytes) -> list[bytes]:
    """The pieces of a transaction that commits at `lsn` and ends ten bytes behind."""
    return [begin(lsn), *map(message, contents), commit(lsn, lsn + 10)]


#: A message with the commit of its transaction, or the end of one.
Read = tuple[int, Message | str]


def mark_of(done: Callable[[], None] | None) -> CaughtUp | None:
    return None if done is None else CaughtUp(done)


class Connection:
    """A core, and all that its consumer does with it."""

    def __init__(self, position: Position | None = None, **contents: Any) -> None:
        self.tokens: dict[str, Callable[[], None]] = {}
        contents = {"find_mark": lambda name: mark_of(self.tokens.get(name)), **contents}
        self.stats = ReadingStats()
        self.xids = Xids(5 * 2**32)
        self.core = WalCore(
            Contents(b"a_group", {CHANNEL: "orders"}, **contents),
            position or Position(),
            Liveness(Heartbeat(INTERVAL, TIMEOUT, 0.0), longest_silence=100.0),
            15.0,
            self.stats,
            self.xids,
        )

    def feed(self, *pieces: bytes, now: float = 0.0) -> list[Read]:
        for piece in pieces:
            self.core.receive(piece, now)
        self.core.liveness.hear(now)
        self.core.cut()
        found: list[Read] = []
        for transaction, messages, is_last in self.core.take()[0]:
            assert transaction.lsn is not None
            found += [(transaction.lsn, message) for message in messages]
            if is_last:
                found.append((transaction.end, "end"))
        return found

    def acknowledge(self, lsn: int, *, is_idle: bool = True) -> None:
        self.core.acknowledge(lsn, is_idle=is_idle)

    def send(self, now: float) -> tuple[int, int, bool] | None:
        """Return what is sent at that time: received, acknowledged, and True if a reply is wanted."""
        status = self.core.send(now)
        return None if status is None else said(status)


def said(status: bytes) -> tuple[int, int, bool]:
    _, received, flushed, applied, _, reply_wanted = struct.unpack("!cQQQqB", status)
    assert flushed == applied
    return received, flushed, bool(reply_wanted)


@pytest.fixture
def connection() -> Connection:
    made = Connection()
    assert made.send(0.0) == (0, 0, True)  # the first update asks whether the server is there
    made.feed(keepalive(0))
    return made


def payloads(items: list[Read]) -> list[bytes]:
    return [item.payload for _, item in items if isinstance(item, Notification)]


# Dispatching


def test_a_transaction_is_its_messages_and_its_end(connection: Connection) -> None:
    assert connection.feed(*transaction(100, b"x", b"y")) == [
        (100, Notification("orders", b"x")), (100, Notification("orders", b"y")), (110, "end"),
    ]  # fmt: skip
    assert connection.stats.notifications == 2


def test_the_messages_of_a_transaction_have_its_number_and_the_time_of_its_commit(connection: Connection) -> None:
    connection.xids.begin(5 * 2**32)
    begins = [begin(100, 0, 2**32 - 5), begin(120, 1_500_000, 9), begin(140, -1_000_000, 2**32 - 6)]
    for lsn, begun in zip((100, 120, 140), begins, strict=True):
        for piece in (begun, message(b"x"), message(b"y"), commit(lsn, lsn + 10)):
            connection.core.receive(piece, 0.0)
    at = datetime(2000, 1, 1, tzinfo=UTC)
    assert [part.transaction.stamp for part in connection.core.take()[0]] == [
        (5 * 2**32 - 5, at),
        (5 * 2**32 + 9, at + timedelta(seconds=1.5)),
        (5 * 2**32 - 6, at - timedelta(seconds=1)),  # begun before the others
    ]


def test_a_large_transaction_comes_in_parts() -> None:
    core = Connection().core
    third = b"x" * (PART_BYTES // 3 + 1)
    for piece in (begin(100), *[message(third)] * 4, commit(100, 110), *transaction(200, b"y")):
        core.receive(piece, 0.0)
    parts, notifications, size = core.take()
    assert [(part.transaction.lsn, len(part.messages), part.is_last) for part in parts] == [
        (100, 3, False), (100, 1, True), (200, 1, True),
    ]  # fmt: skip
    assert parts[0].transaction is parts[1].transaction
    assert (notifications, size) == (5, 4 * len(third) + 1)
    assert core.take() == ([], 0, 0)


@pytest.mark.parametrize(
    ("piece", "items"),
    [
        (message(b"x"), [(100, Notification("orders", b"x"))]),
        (message(b"x", b"sqlalchemy_watch/other"), []),
        (message(b"x", b"another program's"), []),
        (message(b"x", flags=0), []),  # not transactional: written though its transaction may have failed
        (message(b"a_group", b"sqlalchemy_watch/resync"), [(100, Resync(SLOT_LOST))]),
        (message(b"another_group", b"sqlalchemy_watch/resync"), []),
        (message(b"unknown", b"sqlalchemy_watch/token"), []),
        (message(b"\xff\xfe", b"sqlalchemy_watch/token"), []),
        (plugin(b"R") + b"a relation", []),
        (plugin(b"O") + b"an origin", []),
        (b"?", []),
        (keepalive(100), []),
    ],
)
def test_of_what_the_server_sends_only_our_own_is_dispatched(
    connection: Connection, piece: bytes, items: list[Read]
) -> None:
    connection.feed(begin(100))
    assert connection.feed(piece) == items


@pytest.mark.parametrize("piece", [begin(100), commit(100, 110), message(b"content"), keepalive(7)])
def test_a_piece_that_is_cut_off_is_an_error(connection: Connection, piece: bytes) -> None:
    for length in range(1, len(piece)):
        if length == 25:  # a header without a kind stands for a message of no kind
            continue
        try:
            connection.feed(piece[:length])
        except PayloadError:
            continue
        assert piece[:length].startswith(b"w")
        assert length <= 25 or piece[25:26] not in b"BCMk", (piece, length)


def test_contents_are_converted(connection: Connection) -> None:
    connection = Connection(convert=lambda content: content.decode("latin1").encode())
    assert payloads(connection.feed(*transaction(100, b"\xe4"))) == ["ä".encode()]


def test_a_token_is_back_with_its_transaction(connection: Connection) -> None:
    connection.tokens["mine"] = done = threading.Event().set
    token = message(b"mine", b"sqlalchemy_watch/token")
    assert connection.feed(begin(100), token, commit(100, 110)) == [(100, CaughtUp(done)), (110, "end")]


def test_a_token_of_a_transaction_that_was_taken_before_is_not_back() -> None:
    position = Position()
    Connection(position).feed(*transaction(100))
    connection = Connection(position)
    connection.tokens["mine"] = threading.Event().set
    assert connection.feed(begin(100), message(b"mine", b"sqlalchemy_watch/token"), commit(100, 110)) == []
    assert position.begun is None


def test_a_token_that_was_sent_anew_is_back_under_its_new_name_alone(connection: Connection) -> None:
    # The message before may be lost with the server, or come late.
    tokens, done = Tokens(), threading.Event()
    old = tokens.add(done)
    (new,) = tokens.rename()
    connection = Connection(find_mark=lambda name: mark_of(getattr(tokens.find(name), "set", None)))
    items = [
        connection.feed(begin(lsn), message(name.encode(), b"sqlalchemy_watch/token"), commit(lsn, lsn + 10))
        for lsn, name in ((100, old), (200, new))
    ]
    assert items == [[], [(200, CaughtUp(done.set)), (210, "end")]]


# Events that are sent again

ALL = [*transaction(100, b"1", b"2"), *transaction(200, b"3"), *transaction(300, b"4", b"5", b"6")]


#: The places where the server may begin again: transactions not acknowledged, never the middle of one.
BEGINS = [0, 4, 7]


@pytest.mark.parametrize(
    ("cut", "again_from"), [(cut, start) for cut in range(len(ALL) + 1) for start in BEGINS if start <= cut]
)
def test_whatever_was_taken_before_is_passed_over(cut: int, again_from: int) -> None:
    position = Position()
    one, other = Connection(position), Connection(position)
    assert [*one.feed(*ALL[:cut]), *other.feed(*ALL[again_from:])] == Connection().feed(*ALL)


def test_a_transaction_that_a_lost_connection_has_cut_goes_on_as_the_same() -> None:
    position, parts = Position(), []
    for pieces in (ALL[:2], ALL[:4]):
        core = Connection(position).core
        for piece in pieces:
            core.receive(piece, 0.0)
        core.cut()
        parts += core.take()[0]
    assert [(len(part.messages), part.is_last) for part in parts] == [(1, False), (1, True)]
    assert parts[0].transaction is parts[1].transaction


def test_what_was_dispatched_by_another_process_is_passed_over() -> None:
    # A commit record may begin exactly where the one before ends.
    connection = Connection(Position(begins=110))
    items = connection.feed(*transaction(100, b"old"), *transaction(110, b"new"))
    assert items == [(110, Notification("orders", b"new")), (120, "end")]


@pytest.mark.parametrize(
    ("pieces", "newest"),
    [
        ([], 0),
        ([begin(100)], 0),
        ([begin(100), message(b"1")], 100),
        (transaction(100, b"1"), 100),
        (transaction(100), 100),
        ([*transaction(100, b"1"), begin(200), message(b"2")], 200),
        ([*transaction(100, b"1"), begin(200)], 100),
    ],
)
def test_the_newest_commit_of_which_something_was_taken(pieces: list[bytes], newest: int) -> None:
    position = Position()
    Connection(position).feed(*pieces)
    assert position.newest == newest


# Acknowledging


def test_a_transaction_is_acknowledged_once_it_is_dispatched(connection: Connection) -> None:
    connection.feed(*transaction(100, b"x"))
    assert connection.send(ACKNOWLEDGE_INTERVAL) is None
    connection.acknowledge(110)
    assert connection.send(ACKNOWLEDGE_INTERVAL) == (110, 110, False)
    assert connection.send(2 * ACKNOWLEDGE_INTERVAL) is None
    assert connection.stats.acknowledged == "0/6E"


def test_acknowledgements_are_not_sent_more_often_than_need_be(connection: Connection) -> None:
    connection.feed(*transaction(100, b"x"), now=1.0)
    connection.acknowledge(110)
    assert connection.send(1.0) == (110, 110, False)
    connection.feed(*transaction(200, b"x"), now=1.0)
    connection.acknowledge(210)
    assert connection.send(1.0 + ACKNOWLEDGE_INTERVAL / 2) is None
    assert connection.core.deadline(1.0) == pytest.approx(1.0 + ACKNOWLEDGE_INTERVAL)
    assert connection.send(1.0 + ACKNOWLEDGE_INTERVAL) == (210, 210, False)


@pytest.mark.parametrize(
    ("pieces", "acknowledged", "is_idle", "said_to_be"),
    [
        ([keepalive(500)], 0, True, 500),  # nothing is under way: unwatched writes must not hold the server's disk
        ([begin(400), keepalive(500)], 0, True, 0),
        ([*transaction(100, b"x"), keepalive(500)], 0, False, 0),
        ([*transaction(100, b"x"), keepalive(500)], 110, True, 500),
        ([*transaction(100, b"x"), begin(400), keepalive(500)], 110, True, 110),
        ([*transaction(100, b"x"), *transaction(200, b"y"), keepalive(500)], 110, False, 110),
        ([*transaction(100), keepalive(500)], 0, True, 500),
    ],
)
def test_how_far_the_server_may_forget_its_log(
    connection: Connection, pieces: list[bytes], acknowledged: int, is_idle: bool, said_to_be: int
) -> None:
    connection.feed(*pieces)
    connection.acknowledge(acknowledged, is_idle=is_idle)
    assert said(connection.core.status(1.0))[1] == said_to_be


def test_what_was_read_and_not_yet_handed_on_is_not_acknowledged(connection: Connection) -> None:
    for piece in (*transaction(100, b"x"), keepalive(500)):
        connection.core.receive(piece, 0.0)
    connection.acknowledge(0)
    assert said(connection.core.status(1.0))[1] == 0


def test_a_transaction_cut_off_by_the_connection_is_not_under_way_any_more() -> None:
    position = Position()
    Connection(position).feed(begin(100))
    connection = Connection(position)
    connection.feed(keepalive(500))
    connection.acknowledge(0)
    assert said(connection.core.status(1.0))[1] == 500


def test_a_keepalive_that_wants_a_reply_gets_one_at_once(connection: Connection) -> None:
    connection.send(ACKNOWLEDGE_INTERVAL)
    connection.feed(keepalive(0, reply_wanted=True), now=1.0)
    assert connection.send(1.0) == (0, 0, False)
    assert connection.send(1.0) is None


# Signs of life of the server


def run_until_silent(connection: Connection, times: list[float], look: Callable[[float], Seen | None]) -> float | None:
    """Call `send` at these times; return the one at which the connection is given up, None if it isn't."""
    liveness = connection.core.liveness
    for now in times:
        try:
            if (seen := look(now)) is not None:
                liveness.see(seen, now)
            connection.core.send(now)
        except Silent:
            return now
        liveness.wants_look(now)
    return None


SECONDS = [float(second) for second in range(1, 200)]


def test_silence_is_asked_about_and_then_a_loss(connection: Connection) -> None:
    assert run_until_silent(connection, SECONDS, lambda now: None) == 15.0 + TIMEOUT  # the status interval is shorter


@pytest.mark.parametrize(
    ("seen", "lost_at"),
    [
        (Seen(is_ours=True, is_decoding=False), 25.0),
        (Seen(is_ours=False, is_decoding=False), 25.0),  # behind a proxy that makes up process ids
        (Seen(is_ours=True, is_decoding=True), 35.0),  # seen once, and not again
    ],
)
def test_the_monitor_is_believed_once(connection: Connection, seen: Seen, lost_at: float) -> None:
    looks = iter([seen])
    given_up = run_until_silent(connection, SECONDS, lambda now: next(looks, None) if now >= 18.0 else None)
    assert given_up == lost_at


def test_a_walsender_that_decodes_is_waited_for_but_not_for_ever(connection: Connection) -> None:
    busy = Seen(is_ours=True, is_decoding=True)
    given_up = run_until_silent(connection, SECONDS, lambda now: busy if now >= 18.0 else None)
    assert given_up is not None
    assert 100.0 < given_up <= 100.0 + TIMEOUT


def test_whoever_answers_is_not_lost(connection: Connection) -> None:
    for now in SECONDS:
        connection.send(now)
        if now % 9 == 0:
            connection.feed(keepalive(int(now)), now=now)


def test_the_monitor_is_asked_before_the_time_is_up(connection: Connection) -> None:
    liveness = connection.core.liveness
    liveness.heartbeat.ask(30.0)
    assert not liveness.wants_look(30.0 + TIMEOUT * LOOK_AFTER - 0.1)
    assert liveness.deadline == pytest.approx(30.0 + TIMEOUT * LOOK_AFTER)
    assert liveness.wants_look(30.0 + TIMEOUT * LOOK_AFTER)
    assert not liveness.wants_look(39.0)  # it is looking
    assert liveness.deadline == 40.0


def test_while_nothing_is_read_the_monitor_tells_that_the_slot_is_ours(connection: Connection) -> None:
    liveness = connection.core.liveness
    liveness.pause(True, 0.0)
    for now in (30.0, 60.0, 90.0):
        assert not liveness.wants_look(now - 0.1)
        assert liveness.wants_look(now)
        connection.send(now)  # an answer of the server's would come behind all that is not read
        liveness.see(Seen(is_ours=True, is_decoding=False), now)
        liveness.check(now + INTERVAL)


def test_while_nothing_is_read_a_monitor_that_does_not_answer_is_a_loss(connection: Connection) -> None:
    liveness = connection.core.liveness
    liveness.pause(True, 0.0)
    assert liveness.wants_look(30.0)
    assert liveness.deadline == 30.0 + TIMEOUT
    liveness.check(39.9)
    with pytest.raises(Silent, match="could not be looked at within 10 s"):
        liveness.check(40.0)


def test_a_slot_that_is_lost_while_nothing_is_read_is_noticed(connection: Connection) -> None:
    liveness = connection.core.liveness
    liveness.pause(True, 0.0)
    assert liveness.wants_look(30.0)
    with pytest.raises(Silent, match="ended the stream"):
        liveness.see(Seen(is_ours=False, is_decoding=False), 31.0)


def test_an_answer_waited_for_while_nothing_was_read_gets_its_time_afterwards(connection: Connection) -> None:
    liveness = connection.core.liveness
    liveness.heartbeat.ask(5.0)
    liveness.pause(True, 6.0)
    liveness.pause(False, 100.0)
    liveness.check(109.9)
    with pytest.raises(Silent):
        liveness.check(110.0)


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("asked", [None, 20.0])
@pytest.mark.parametrize("looks", [False, True])
def test_there_is_always_a_time_at_which_to_go_on(
    connection: Connection, is_paused: bool, asked: float | None, looks: bool
) -> None:
    liveness = connection.core.liveness
    liveness.heartbeat.asked_at = asked
    liveness.pause(is_paused, 20.0)
    if looks:
        liveness.wants_look(math.inf if liveness.deadline == math.inf else 31.0)
    deadline = connection.core.deadline(20.0)
    assert 20.0 <= deadline <= 45.0


def test_an_answer_of_the_monitor_from_before_is_not_waited_for_while_nothing_is_read() -> None:
    liveness = Liveness(Heartbeat(INTERVAL, TIMEOUT, 0.0))
    liveness.heartbeat.ask(30.0)
    assert liveness.wants_look(32.5)
    liveness.see(Seen(is_ours=True, is_decoding=True), 32.6)
    liveness.pause(True, 33.0)  # a dead letter that is due has filled the queue
    assert liveness.wants_look(33.0)
    liveness.check(42.9)
    with pytest.raises(Silent, match="could not be looked at"):
        liveness.check(43.0)


def test_a_server_that_asks_again_and_again_and_takes_no_connection_shuts_down() -> None:
    liveness = Liveness(Heartbeat(INTERVAL, TIMEOUT, 0.0))
    for number in range(1, PRESSING):
        liveness.note_request(number / 1000)
        assert not liveness.wants_look(number / 1000)
        liveness.refuse()  # the monitor has reasons of its own to connect
    liveness.note_request(0.5)
    assert liveness.wants_look(0.5)
    assert not liveness.wants_look(0.5)
    with pytest.raises(ConnectionAbortedError, match="the server shuts down"):
        liveness.refuse()


def test_a_server_that_asks_again_and_again_and_takes_connections_goes_on() -> None:
    liveness = Liveness(Heartbeat(INTERVAL, TIMEOUT, 0.0))
    for _ in range(PRESSING):
        liveness.note_request(0.0)
    assert liveness.wants_look(0.0)
    liveness.see(Seen(is_ours=True, is_decoding=False), 0.1)
    liveness.refuse()
    assert not liveness.wants_look(0.2)


def test_a_server_that_asks_now_and_then_does_not_shut_down() -> None:
    liveness = Liveness(Heartbeat(INTERVAL, TIMEOUT, 0.0))
    for number in range(10 * PRESSING):
        liveness.note_request(number / 4)  # with a wal_sender_timeout of half a second
        assert not liveness.wants_look(number / 4)
    liveness.refuse()
