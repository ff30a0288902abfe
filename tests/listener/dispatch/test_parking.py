"""`RetryPolicy(in_order="key")`: an event that a receiver fails on holds up its key alone, for that receiver."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE, insert, wait_until

from sqlalchemy_watch import BatchFailed, ConfigurationError, Listener, RetryPolicy, SlotError, Watch, Watched
from sqlalchemy_watch.listener.dispatch import dead_letters
from sqlalchemy_watch.listener.dispatch.dead_letters import LETTERS

from ..conftest import MakeListener

pytestmark = needs_logical_messages

Client = psycopg.Connection[Any]

#: Retries at once, as far as the monitor looks.
SOON = RetryPolicy(in_order="key", attempts=2, first_delay=0.01, max_delay=0.01)


@pytest.fixture
def Line(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Line(Watched, Base):  # type: ignore[misc]
        __tablename__ = "lines"
        __watch__ = (Watch("inserted", extra_columns=("shop",), delivery="durable"),)
        id: Mapped[int] = mapped_column(primary_key=True)
        shop: Mapped[int]

    Base.metadata.create_all(engine)
    return Line


class Book:
    """A receiver that fails on what is poison, and notes what it has taken, by shop."""

    def __init__(self) -> None:
        self.poison: set[int] = set()
        self.taken: dict[int, list[int]] = defaultdict(list)
        self.tried: SimpleQueue[int] = SimpleQueue()

    def __call__(self, sender: Any, event: Any) -> None:
        self.tried.put(event.values["id"])
        if event.values["id"] in self.poison:
            raise ValueError(f"can't take {event.values['id']}")
        self.taken[event.values["shop"]].append(event.values["id"])

    def wait_for(self, id: int) -> None:
        while self.tried.get(timeout=PATIENCE) != id:
            pass


def write(client: Client, *lines: tuple[int, int]) -> None:
    for line in lines:
        client.execute("INSERT INTO lines VALUES (%s, %s)", line)


def parked(client: Client) -> list[tuple[int, str]]:
    return [(letter.attempts, letter.key or "") for letter in dead_letters.list_letters(client, only_parked=True)]


def test_the_key_waits_and_all_others_go_on_and_are_acknowledged(
    client: Client, Line: Any, durable: MakeListener
) -> None:
    book = Book()
    book.poison = {1}
    Line.watch.inserted.connect(book)
    with durable(retry=RetryPolicy(in_order="key", attempts=2, first_delay=0.01), workers=4, key=Line.shop) as listener:
        write(client, (1, 7), (2, 7), (3, 8), (4, 7), (5, 8))
        listener.catch_up()
        assert book.taken == {8: [3, 5]}
        assert [key for _, key in parked(client)] == ["7", "7", "7"]
        assert listener.stats().dead_letters == 0  # none is given up
        assert "behind an earlier event of its key" in dead_letters.list_letters(client)[1].error
        book.poison.clear()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        assert book.taken == {8: [3, 5], 7: [1, 2, 4]}
        write(client, (6, 7))  # an ordinary key again
        listener.catch_up()
        assert book.taken[7] == [1, 2, 4, 6]
        assert parked(client) == []


def test_the_default_key_is_the_row_and_one_worker_is_enough(client: Client, Order: Any, durable: MakeListener) -> None:
    heard: list[Any] = []
    poison = {1}

    @Order.watch.connect
    def note(sender: Any, event: Any) -> None:
        if event.identity[0] in poison:
            raise ValueError
        heard.append((event.operation, *event.identity))

    with durable(retry=SOON, heartbeat_interval=0.1) as listener:
        insert(client, "orders", 1)
        insert(client, "orders", 2)
        client.execute("UPDATE orders SET note = 'x'")
        client.execute("DELETE FROM orders")
        listener.catch_up()
        assert heard == [("inserted", 2), ("updated", 2), ("deleted", 2)]
        poison.clear()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        assert heard[3:] == [("inserted", 1), ("updated", 1), ("deleted", 1)]


def test_another_receiver_of_the_same_events_goes_on(client: Client, Line: Any, durable: MakeListener) -> None:
    fails, works = Book(), Book()
    fails.poison = {1}
    Line.watch.inserted.connect(fails, name="fails")
    Line.watch.inserted.connect(works, name="works")
    with durable(retry=RetryPolicy(in_order="key", attempts=1, first_delay=30), key=Line.shop) as listener:
        write(client, (1, 7), (2, 7))
        listener.catch_up()
        assert works.taken == {7: [1, 2]}
        assert fails.taken == {}
        assert {letter.receiver for letter in dead_letters.list_letters(client)} == {"fails"}


def test_what_is_parked_waits_for_the_next_process_and_so_does_what_comes_then(
    client: Client, Line: Any, durable: MakeListener
) -> None:
    book = Book()
    book.poison = {1}
    Line.watch.inserted.connect(book)
    policy = RetryPolicy(in_order="key", attempts=1, first_delay=1e-3, max_delay=1e-3)
    with durable(retry=policy, key=Line.shop, heartbeat_interval=0.1) as listener:
        write(client, (1, 7))
        listener.catch_up()
    write(client, (2, 7), (3, 8))
    with durable(retry=policy, key=Line.shop, heartbeat_interval=0.1) as listener:
        listener.catch_up()
        assert book.taken == {8: [3]}
        assert len(parked(client)) == 2
        book.poison.clear()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert book.taken == {8: [3], 7: [1, 2]}


def test_an_event_that_is_given_up_is_dead_and_its_key_goes_on_without_it(
    client: Client, Line: Any, durable: MakeListener
) -> None:
    book = Book()
    book.poison = {1}
    Line.watch.inserted.connect(book)
    policy = RetryPolicy(in_order="key", attempts=1, max_attempts=3, first_delay=0.01, max_delay=0.01)
    with durable(retry=policy, key=Line.shop, heartbeat_interval=0.1) as listener:
        given_up: SimpleQueue[Any] = SimpleQueue()
        listener.dead_lettered.connect(lambda sender, receiver, event, error: given_up.put(event), weak=False)
        write(client, (1, 7), (2, 7))
        assert given_up.get(timeout=PATIENCE).values["id"] == 1
        wait_until(client, "SELECT count(*) = 1 AND bool_and(retry_at IS NULL) FROM sqlalchemy_watch.dead_letters")
        write(client, (3, 7))
        listener.catch_up()
        assert book.taken == {7: [2, 3]}
        assert listener.stats().dead_letters == 1
        # Somebody has mended it, and has it tried once more: that is late, and the others have gone on.
        book.poison.clear()
        dead_letters.retry(client, listener._options.group or "", None)
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        assert book.taken == {7: [2, 3, 1]}


def test_letters_that_somebody_drops_hold_nothing_up(client: Client, Line: Any, durable: MakeListener) -> None:
    book = Book()
    book.poison = {1}
    Line.watch.inserted.connect(book)
    with durable(retry=RetryPolicy(in_order="key", attempts=1, first_delay=60), key=Line.shop) as listener:
        write(client, (1, 7), (2, 7))
        listener.catch_up()
        client.execute("DELETE FROM sqlalchemy_watch.dead_letters")
        write(client, (3, 7))
        listener.catch_up()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert book.taken == {7: [3]}


def test_batches_go_on_without_the_keys_that_wait(client: Client, Line: Any, durable: MakeListener) -> None:
    taken: dict[int, list[int]] = defaultdict(list)
    poison = {1}

    def index(sender: Any, events: list[Any]) -> None:
        for event in events:
            if event.values["id"] not in poison:
                taken[event.values["shop"]].append(event.values["id"])
        failed = [event for event in events if event.values["id"] in poison]
        if failed:
            raise BatchFailed(failed)

    Line.watch.inserted.batches(max_size=2, max_wait=60).connect(index)
    with durable(retry=SOON, key=Line.shop, heartbeat_interval=0.1) as listener:
        write(client, (1, 7), (2, 8), (3, 7), (4, 8))
        listener.catch_up()
        assert taken == {8: [2, 4]}
        poison.clear()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
        write(client, (5, 7))
        listener.catch_up()
    assert taken == {8: [2, 4], 7: [1, 3, 5]}


def test_whole_transactions_are_never_parked_in_pieces(client: Client, Line: Any, durable: MakeListener) -> None:
    fails, heard = [5], SimpleQueue[list[int]]()
    with durable(retry=SOON, key=Line.shop) as listener:

        @listener.transactions.connect
        def project(sender: Any, transaction: Any) -> None:
            fails[0] -= 1
            if fails[0] >= 0:
                raise ValueError
            heard.put([event.values["id"] for event in transaction.events])

        client.execute("INSERT INTO lines VALUES (1, 7), (2, 8)")
        assert heard.get(timeout=PATIENCE) == [1, 2]
        assert dead_letters.list_letters(client) == []


def test_coroutine_receivers_park_as_well(client: Client, Line: Any, durable: MakeListener) -> None:
    import asyncio

    taken: list[int] = []
    poison = {1}

    async def main() -> None:
        done = asyncio.Event()

        async def note(sender: Any, event: Any) -> None:
            if event.values["id"] in poison:
                raise ValueError
            taken.append(event.values["id"])
            if len(taken) == 3:
                done.set()

        Line.watch.inserted.connect(note)
        async with durable(retry=SOON, key=Line.shop, workers=4, heartbeat_interval=0.1) as listener:
            await asyncio.to_thread(write, client, (1, 7), (2, 7), (3, 8))
            await listener.catch_up_async()
            assert taken == [3]
            poison.clear()
            await asyncio.wait_for(done.wait(), PATIENCE)

    asyncio.run(main())
    assert taken == [3, 1, 2]


@pytest.mark.parametrize("in_order", ["key", False])
def test_what_stop_kept_from_being_parked_is_delivered_again(
    client: Client, Line: Any, durable: MakeListener, in_order: Any
) -> None:
    failed = threading.Event()
    works = False
    taken: list[int] = []

    @Line.watch.inserted.connect
    def note(sender: Any, event: Any) -> None:
        if not works:
            failed.set()
            raise ValueError
        taken.append(event.values["id"])

    policy = RetryPolicy(in_order=in_order, first_delay=0.01, **({"attempts": 1} if in_order == "key" else {}))
    listener = durable(retry=policy, workers=2)
    listener.start()
    listener.catch_up()  # what is parked has been read
    with psycopg.connect(client.info.dsn) as other:
        other.execute("LOCK TABLE sqlalchemy_watch.dead_letters IN ACCESS EXCLUSIVE MODE")
        client.execute("INSERT INTO lines VALUES (1, 7)")
        assert failed.wait(PATIENCE)
        listener.stop(timeout=0.3)
        client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'INSERT INTO sqlalchemy_watch.dead%' AND wait_event_type = 'Lock'"
        )
    for thread in threading.enumerate():
        if thread.name.startswith("sqlalchemy-watch"):
            thread.join(PATIENCE)
    works = True
    with durable(retry=policy, workers=2, heartbeat_interval=0.1) as listener:
        listener.catch_up()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert set(taken) == {1}  # of the log, and of the table too if it was written at last


ODD: dict[str, Callable[[Any], Any]] = {
    "an object that can't be compared": lambda event: [event.values["shop"]],
    "a key that raises": lambda event: 1 / 0,
    "text that no database holds": lambda event: ("\0", "\ud800", event.values["shop"]),
    "an object that is another one each time": lambda event: object(),
    "a long one": lambda event: ("x" * 100_000, event.values["shop"]),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_keys_lose_nothing(client: Client, Line: Any, durable: MakeListener, odd: str) -> None:
    book = Book()
    book.poison = {1}
    Line.watch.inserted.connect(book)
    with durable(retry=SOON, key=ODD[odd], workers=2, heartbeat_interval=0.1) as listener:
        write(client, (1, 7), (2, 7))
        listener.catch_up()
        book.poison.clear()
        wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert sorted(book.taken[7]) == [1, 2]


def test_bad_input_is_refused_at_once(engine: Engine, Base: Any, Line: Any, group: str) -> None:
    with pytest.raises(ConfigurationError, match="in_order must be True, 'key' or False"):
        RetryPolicy(in_order="keys")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="attempts must be an int of at least 1"):
        RetryPolicy(in_order="key", attempts=0)
    with pytest.raises(ConfigurationError, match="attempts is for in_order='key'"):
        RetryPolicy(attempts=5)
    with pytest.raises(ConfigurationError, match="key='price': the events of watch 'inserted' of table 'lines' do not"):
        Listener(engine, Base, durable=group, retry=SOON, key="price")


def test_a_role_that_may_not_have_the_table_is_told_so_at_the_start(
    client: Client, Line: Any, durable: MakeListener
) -> None:
    client.execute("CREATE SCHEMA sqlalchemy_watch")
    LETTERS.ensure(client)
    client.execute("ALTER TABLE sqlalchemy_watch.dead_letters RENAME retry_at TO retries_at")
    with pytest.raises(Exception, match="dead_letters for dead letters is not used") as raised:
        durable(retry=SOON).start()
    assert not isinstance(raised.value, SlotError)
