"""Notifications of another role, which floods the channels: they are counted, and change nothing for others."""

from __future__ import annotations

import itertools
import json
import logging
import random
import string
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import MADE_UP, PATIENCE, insert, oid_of

from sqlalchemy_watch import CatchUpTimeout, Listener, Watch, Watched, wire
from sqlalchemy_watch.listener.dispatch.dispatcher import UNREADABLE
from sqlalchemy_watch.listener.dispatch.receivers import UNDECIDED

from ..conftest import MakeListener
from ..insides import own_channel_of
from ..journal import Journal
from ..proxy import Proxy


@pytest.fixture
def stranger(cluster: Cluster, database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of a role that owns nothing and may read nothing."""
    with cluster.connect(database) as admin:
        admin.execute(f"CREATE ROLE stranger_{database} LOGIN")
    with cluster.connect(database, user=f"stranger_{database}") as connection:
        yield connection
    with cluster.connect(database) as admin:
        admin.execute(f"DROP ROLE stranger_{database}")


def payload_of(model: Any, label: str = "inserted", **changes: Any) -> dict[str, Any]:
    """A payload that looks genuine, but for the changes."""
    watch = model.metadata.info["sqlalchemy_watch"][model.__tablename__][label]
    return {**wire.head_fields(watch), **MADE_UP, "rows": [], **changes}


def notify(connection: psycopg.Connection[Any], signal: Any, payload: dict[str, Any]) -> None:
    connection.execute("SELECT pg_notify(%s, %s)", [signal.details.channel, json.dumps(payload)])


def flood(connection: psycopg.Connection[Any], signal: Any, payload: dict[str, Any], times: int = 3000) -> None:
    """Send it so many times in one transaction, each time with another `n`: of equal ones the server sends one."""
    connection.execute(
        "SELECT count(pg_notify(%s, (%s::jsonb || jsonb_build_object('n', i))::text)) FROM generate_series(1, %s) AS i",
        [signal.details.channel, json.dumps(payload), times],
    )


def random_payloads(chance: random.Random, genuine: dict[str, Any], number: int) -> Iterator[str]:
    """Noise, JSON of any kind, and genuine payloads with something changed."""

    def value(depth: int = 0) -> Any:
        kind = chance.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return [value(depth + 1) for _ in range(chance.randrange(4))]
        if kind == 7:
            return {chance.choice([*genuine, "x"]): value(depth + 1) for _ in range(chance.randrange(4))}
        return [
            None,
            True,
            chance.randrange(-(10**20), 10**20),
            chance.random(),
            "é\u0001🙂"[: chance.randrange(4)],
            "",
        ][kind]

    for _ in range(number):
        kind = chance.randrange(4)
        if kind == 0:
            yield "".join(chance.choices(string.printable + "é🙂", k=chance.randrange(60)))
        elif kind == 1:
            yield json.dumps(value())
        elif kind == 2:
            yield json.dumps({**genuine, chance.choice([*genuine]): value()})
        else:
            text = json.dumps(genuine)
            at = chance.randrange(len(text))
            yield text[:at] + chance.choice('{}[],:"0x') + text[at + chance.randrange(3) :]


def test_20_000_random_payloads_change_nothing(
    cluster: Cluster,
    client: psycopg.Connection[Any],
    stranger: psycopg.Connection[Any],
    User: Any,
    listening: MakeListener,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    genuine = payload_of(User, rows=[[666]], oid=oid_of(client, "users"))
    seed = random.randrange(10**9)
    print("seed", seed)  # noqa: T201 - to repeat a failure with
    listener = listening(cluster.port, max_queue=40_000, heartbeat_timeout=10)
    channel = User.watch.inserted.details.channel
    payloads = list(random_payloads(random.Random(seed), genuine, 20_000))
    for start in range(0, 20_000, 2_000):
        # Of payloads that are equal within a transaction the server sends one.
        batch = payloads[start : start + 2_000]
        stranger.execute("SELECT count(pg_notify(%s, p)) FROM unnest(%s::text[]) AS p", [channel, batch])
        insert(client, "users", 1_000_000 + start // 2_000)
    listener.catch_up()
    stats = listener.stats()
    assert stats.notifications > 12_000
    assert stats.events == len(journal.ids())
    assert stats.garbage > stats.notifications * 0.5
    assert stats.dropped == 0
    ours = list(range(1_000_000, 1_000_010))
    assert [id_ for id_ in journal.ids() if id_ in ours] == ours  # what looks genuine comes too, and proves nothing
    assert journal.count("disconnected") == 0
    warnings = [
        r for r in caplog.records if r.levelno >= logging.WARNING and "ignored a notification" in r.getMessage()
    ]
    assert 1 <= len(warnings) < 10  # the log isn't flooded too
    assert not any(r.levelno >= logging.ERROR for r in caplog.records)


ASKS_TO_RESYNC = [{"v": 99}, {"resync": wire.TOO_LARGE}, {"resync": "anything"}, {"rows": [["no number"]]}]


@pytest.mark.parametrize("changes", ASKS_TO_RESYNC, ids=str)
def test_a_flood_that_asks_to_resync_does_not_keep_everybody_reloading(
    stranger: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal, changes: dict[str, Any]
) -> None:
    flood(stranger, User.watch.inserted, payload_of(User, **changes))
    listener.catch_up()
    stats = listener.stats()
    assert (stats.notifications, stats.garbage) == (3000, 3000 if "v" in changes else 0)
    assert 2 <= journal.count("resync") < 100


def test_a_flood_of_rows_that_no_filter_can_decide_on_does_not_keep_everybody_reloading(
    engine: Engine, stranger: psycopg.Connection[Any], Base: type[DeclarativeBase], journal: Journal
) -> None:
    class Comment(Watched, Base):
        __tablename__ = "comments"
        __watch__ = (Watch("updated", extra_columns=("post_id",)),)
        id: Mapped[int] = mapped_column(primary_key=True)
        post_id: Mapped[int]

    Base.metadata.create_all(engine)
    Comment.watch.updated.filter_by(post_id=3).connect(journal)
    with Listener(engine, Comment) as listener:
        journal.attach(listener)
        flood(stranger, Comment.watch.updated, payload_of(Comment, "updated", rows=[[1]]))
        listener.catch_up()
        assert listener.stats().events == 3000
    assert {entry[1] for entry in journal.entries if entry[0] == "resync"} == {UNDECIDED}
    assert 2 <= journal.count("resync") < 100


def test_the_last_payload_that_asks_to_resync_is_followed_by_a_resync(
    stranger: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    for number in (1, 2):
        notify(stranger, User.watch.inserted, payload_of(User, v=99))
        journal.wait_for_count("resync", number)  # by itself
    notify(stranger, User.watch.inserted, payload_of(User, v=99))
    listener.catch_up()
    assert journal.count("resync") == 3


def test_a_resync_keeps_its_place_whatever_else_asks_for_others(
    client: psycopg.Connection[Any],
    stranger: psycopg.Connection[Any],
    User: Any,
    listener: Listener,
    journal: Journal,
) -> None:
    flood(stranger, User.watch.inserted, {"v": 99}, times=100)
    insert(client, "users", 1)
    notify(client, User.watch.inserted, payload_of(User, resync=wire.TOO_LARGE))
    insert(client, "users", 2)
    listener.catch_up()
    ours = [entry for entry in journal.entries if entry[1:] and entry[1] != UNREADABLE]
    assert ours == [("event", 1), ("resync", wire.TOO_LARGE), ("event", 2)]


def test_a_resync_that_was_put_off_does_not_wait_for_the_events_to_end(
    client: psycopg.Connection[Any], User: Any, listener: Listener, journal: Journal
) -> None:
    for _ in range(2):
        notify(client, User.watch.inserted, payload_of(User, resync=wire.TOO_LARGE))
    give_up = time.monotonic() + PATIENCE
    for number in itertools.count(1):  # with no pause between them
        insert(client, "users", number)
        journal.wait_for_count("event", number)
        if journal.count("resync") == 2:
            break
        assert time.monotonic() < give_up, journal.entries[-10:]


def test_forged_answer_is_neither_a_heartbeat_nor_a_catch_up(
    client: psycopg.Connection[Any],
    stranger: psycopg.Connection[Any],
    User: Any,
    listener: Listener,
    journal: Journal,
) -> None:
    # The stranger knows the listener's own channel, and the receiver holds the genuine answer up.
    release = threading.Event()
    User.watch.inserted.connect(lambda sender, event: release.wait())
    own_channel = own_channel_of(listener)
    client.execute("INSERT INTO users VALUES (1)")
    stop = threading.Event()

    def forge() -> None:
        while not stop.is_set():
            for payload in ("beat", "", ",", "0" * 32):
                stranger.execute("SELECT pg_notify(%s, %s)", [own_channel, payload])

    forger = threading.Thread(target=forge)
    forger.start()
    try:
        with pytest.raises(CatchUpTimeout):
            listener.catch_up(0.5)
    finally:
        release.set()
        stop.set()
        forger.join()
    listener.catch_up()
    assert listener.stats().notifications == 1
    assert journal.count("disconnected") == 0


def test_forged_heartbeat_does_not_hide_that_nothing_else_is_heard(
    cluster: Cluster,
    stranger: psycopg.Connection[Any],
    User: Any,
    proxy: Proxy,
    listening: MakeListener,
    journal: Journal,
) -> None:
    # The listener's own round trips fail from now on; the forged ones arrive all the same.
    listener = listening(proxy.port)
    own_channel = own_channel_of(listener)
    stop = threading.Event()

    def forge() -> None:
        while not stop.wait(0.01):
            stranger.execute("SELECT pg_notify(%s, 'beat')", [own_channel])

    forger = threading.Thread(target=forge)
    forger.start()
    try:
        proxy.drop_requests()
        journal.wait_for_count("disconnected", 1, 3)
    finally:
        stop.set()
        forger.join()


def test_own_channel_is_not_told_to_others(
    client: psycopg.Connection[Any],
    stranger: psycopg.Connection[Any],
    listener: Listener,
    journal: Journal,
) -> None:
    listener.catch_up()
    channel = own_channel_of(listener)
    for connection in (client, stranger):  # even a superuser sees no more than this
        assert connection.execute("SELECT * FROM pg_listening_channels()").fetchall() == []
        queries = connection.execute("SELECT query FROM pg_stat_activity").fetchall()
        assert not any(channel in (query or "") for (query,) in queries)
