"""Positions count what is in the log: another release, or another group, has the same for the same event."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from models import declare_base
from postgres import needs_logical_messages
from sqlalchemy import Engine, Integer, String
from sqlalchemy.orm import DeclarativeBase, mapped_column
from support import insert

from sqlalchemy_watch import Listener, Watch, Watched, wire
from sqlalchemy_watch.declaring.targets import watches_of_table
from sqlalchemy_watch.listener.decoding.payload import MAX_COUNTED_BYTES, count_rows
from sqlalchemy_watch.listener.dispatch.positions import Positions
from sqlalchemy_watch.listener.pipeline.parts import Notification, Transaction
from sqlalchemy_watch.listener.wal.skipped import SkippedRows

Client = psycopg.Connection[Any]
Place = tuple[str, Any, int | None]


def payload(rows: int, **others: Any) -> bytes:
    return json.dumps({"v": 1, "rows": [[n] for n in range(rows)], **others}).encode()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (payload(3), 3),
        (payload(0), 0),
        (payload(2, v=99), 2),
        (b'{"v": 1, "rows": [[NaN], ["\xff"]]}', 2),
        (b'{"v": 1, "rows": {}}', 0),
        (b"[]", 0),
        (b"garbage", 0),
        (b'{"rows": [[' + b"[" * 100_000, 0),
        (b'{"rows": [["' + b"x" * MAX_COUNTED_BYTES + b'"]]}', 1),
    ],
    ids=["rows", "none", "another version", "not UTF-8", "no list", "no object", "no JSON", "deep", "large"],
)
def test_rows_are_counted_whatever_they_are(content: bytes, rows: int) -> None:
    assert count_rows(content) == rows


def test_rows_that_nobody_watches_are_counted_between_those_that_are() -> None:
    skipped = SkippedRows()
    assert skipped.take() == 0
    for rows in (1, 2, 0):
        skipped.add(payload(rows))
    assert (skipped.take(), skipped.take()) == (3, 0)
    skipped.add(payload(1))
    skipped.forget()
    assert skipped.take() == 0


def test_only_so_much_is_kept_of_what_nobody_watches() -> None:
    skipped = SkippedRows()
    for _ in range(5):
        skipped.add(payload(1, pad="x" * (MAX_COUNTED_BYTES // 2)))
        assert sum(map(len, skipped._uncounted)) <= MAX_COUNTED_BYTES
    skipped.add(payload(1, pad="x" * MAX_COUNTED_BYTES))
    assert len(skipped._uncounted) < 2
    assert skipped.take() == 6


def test_positions_go_on_within_a_transaction_and_begin_anew_with_the_next() -> None:
    positions = Positions()
    transactions = {1: Transaction(1), 2: Transaction(2)}

    def first(rows: int, lsn: int, skipped: int = 0, *, noted: int | None = None) -> int:
        notification = Notification("c", payload(rows), skipped)
        found = positions.first_of(transactions[lsn], notification)
        assert positions.first_of(transactions[lsn], notification) == found  # handled anew
        if noted is not None:
            positions.note_rows(noted)
        return found

    assert [first(2, 1), first(1, 1, 5, noted=4), first(1, 1), first(1, 2, 1), first(1, 2)] == [0, 7, 11, 1, 2]


def declare(Base: Any, name: str, *watches: Any) -> Any:
    members = {
        "__tablename__": name,
        "__watch__": watches or ("inserted", "updated", "deleted", "truncated"),
        "__watch_delivery__": "durable",
        "id": mapped_column(Integer, primary_key=True),
        "note": mapped_column(String),
    }
    return type(name.upper(), (Watched, Base), members)


def places_of(listener: Listener, *models: Any) -> list[Place]:
    """Where each event stands that a listener hears of these models."""
    places: list[Place] = []

    def note(sender: Any, event: Any) -> None:
        places.append((f"{event.model.__tablename__}.{event.label}", event.identity or None, event.position))

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(model.watch.connected_to(note))
        with listener:
            listener.catch_up()
    return places


WRITES = """
BEGIN; INSERT INTO b (id) VALUES (1), (2); INSERT INTO a (id) VALUES (1); SAVEPOINT s; INSERT INTO b (id) VALUES (9);
ROLLBACK TO s; UPDATE b SET note = 'x'; DELETE FROM a; TRUNCATE b; INSERT INTO a SELECT generate_series(2, 4); COMMIT;
BEGIN; INSERT INTO a (id) VALUES (5); TRUNCATE a; COMMIT
"""


@needs_logical_messages
def test_a_release_that_watches_less_has_the_same_positions(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str
) -> None:
    A, B = declare(Base, "a"), declare(Base, "b")
    Base.metadata.create_all(engine)
    next_base = declare_base()
    NextA = declare(next_base, "a", "inserted", "deleted")  # the next release: without b, and without labels of a
    before = Listener(engine, Base, durable=f"{group}_1")
    after = Listener(engine, next_base, durable=f"{group}_2")
    without = Listener(engine, A, durable=f"{group}_3")
    for listener in (before, after, without):
        listener.start()
        listener.stop()
    client.execute(WRITES)
    places = places_of(before, A, B)
    assert places == [
        ("b.inserted", (1,), 0), ("b.inserted", (2,), 1), ("a.inserted", (1,), 2), ("b.updated", (1,), 3),
        ("b.updated", (2,), 4), ("a.deleted", (1,), 5), ("b.truncated", None, 6), ("a.inserted", (2,), 7),
        ("a.inserted", (3,), 8), ("a.inserted", (4,), 9), ("a.inserted", (5,), 0), ("a.truncated", None, 1),
    ]  # fmt: skip
    assert places_of(after, NextA) == [place for place in places if place[0] in ("a.inserted", "a.deleted")]
    assert places_of(without, A) == [place for place in places if place[0].startswith("a.")]


@needs_logical_messages
@pytest.mark.parametrize("level", ["statement", "row"])
def test_rows_that_cannot_be_read_and_payloads_that_are_none_have_their_places(
    engine: Engine, client: Client, Base: type[DeclarativeBase], group: str, level: Any
) -> None:
    A = declare(Base, "a", Watch("inserted", level=level))
    Base.metadata.create_all(engine)
    (watch,) = watches_of_table(A.__table__)
    fields = {**wire.head_fields(watch), "schema": "public"}

    def log(transactional: bool, prefix: str, content: str) -> None:
        client.execute("SELECT pg_logical_emit_message(%s, %s, %s)", [transactional, prefix, content])

    def emit(**changes: Any) -> None:
        log(True, wire.DURABLE_PREFIX + watch.channel, json.dumps({**fields, **changes}))

    listener = Listener(engine, A, durable=group)
    listener.start()
    listener.stop()
    with client.transaction():
        insert(client, "a", 1)
        emit(rows=[["none"], [2], ["neither"], [3]])
        emit(rows=[[4]], v=99)
        emit(rows=[[4], [4]], schema="elsewhere")
        emit(rows=[[4]], columns=["another"])
        log(True, wire.DURABLE_PREFIX + watch.channel, "garbage")
        log(False, wire.DURABLE_PREFIX + "another", '{"rows": [[1]]}')
        log(True, "a_stranger", '{"rows": [[1]]}')
        insert(client, "a", 5)
    assert [(identity, position) for _, identity, position in places_of(listener, A)] == [
        ((1,), 0), ((2,), 2), ((3,), 4), ((5,), 9),
    ]  # fmt: skip
