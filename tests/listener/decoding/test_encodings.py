"""Databases that are not UTF-8: values and names come as what they are, and bytes that are no text stop nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import created_database, resync_reasons, wait_until

from sqlalchemy_watch import Listener, RetryPolicy, Watch, Watched, status

from ..conftest import drop_slots

pytestmark = pytest.mark.server

_numbers = itertools.count(1)

DELIVERIES = pytest.mark.parametrize("delivery", ["notify", pytest.param("durable", marks=needs_logical_messages)])


class Encoded:
    """A database of some encoding with a watched table, and what its listener says."""

    def __init__(self, cluster: Cluster, database: str, encoding: str, delivery: str, engine: Engine) -> None:
        self.cluster, self.database, self.engine = cluster, database, engine
        self.is_durable = delivery == "durable"

        class Base(DeclarativeBase):
            pass

        class Dish(Watched, Base):
            __tablename__ = "Entrées"
            __watch__ = (
                Watch("inserted", extra_columns=("name",), delivery=delivery),
                Watch("updated", extra_columns=("name",), old=True, delivery=delivery),
            )
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column("Nom_é")

        self.Base, self.Dish = Base, Dish
        self.events: list[Any] = []
        self._take = Dish.watch.connect(lambda sender, event: self.events.append(event))

    def listen(self, **options: Any) -> Listener:
        durable = f"group_{self.database}" if self.is_durable else None
        listener = Listener(self.engine, self.Base, durable=durable, **options)
        self.resyncs = resync_reasons(listener)
        return listener

    def names(self) -> list[Any]:
        return [event.values["name"] for event in self.events]

    def write(self, id_: int, name: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(self.Dish).values(id=id_, name=name))

    def connect(self) -> psycopg.Connection[Any]:
        """A client that sends bytes as they are."""
        return self.cluster.connect(self.database, client_encoding="SQL_ASCII")


@pytest.fixture
def make(cluster: Cluster) -> Iterator[Any]:
    made: list[Encoded] = []
    databases = ExitStack()

    def make(encoding: str, delivery: str, driver: str = "psycopg", **options: Any) -> Encoded:
        database = f"encoded_{next(_numbers)}"
        databases.enter_context(
            created_database(cluster, database, f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        )
        engine = create_engine(cluster.url(database, driver), **options)
        encoded = Encoded(cluster, database, encoding, delivery, engine)
        made.append(encoded)
        encoded.Base.metadata.create_all(engine)
        return encoded

    with databases:
        yield make
        for encoded in made:
            encoded.engine.dispose()
            drop_slots(cluster, encoded.database)


@DELIVERIES
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("UTF8", "Gâteau 🙂"),
        ("LATIN1", "Gâteau"),
        ("WIN1252", "Gâteau à 3 €"),
        ("EUC_JP", "寿司é"),
        ("SQL_ASCII", "寿司é🙂"),
    ],
)
def test_values_and_names_come_as_what_they_are(make: Any, encoding: str, name: str, delivery: str) -> None:
    encoded = make(encoding, delivery, client_encoding="utf8")
    assert [item.state for item in status(encoded.engine, encoded.Base)] == ["installed"] * 2
    filtered: list[Any] = []
    with encoded.listen() as listener:
        signal = encoded.Dish.watch.updated.filter_by(name=name + "!")
        signal.connect(lambda sender, event: filtered.append(event.old["name"]))
        encoded.write(1, name)
        with encoded.engine.begin() as connection:
            connection.execute(encoded.Dish.__table__.update().values({"Nom_é": name + "!"}))
        listener.catch_up()
        assert listener.stats().garbage == listener.stats().ignored == 0
    assert encoded.names() == [name, name + "!"]
    assert filtered == [name]
    assert encoded.resyncs == []


@DELIVERIES
@pytest.mark.parametrize(
    ("encoding", "client_encoding"), [("UTF8", "latin1"), ("LATIN1", "latin1"), ("LATIN1", "utf8")]
)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_engines_client_encoding_does_not_matter(
    make: Any, encoding: str, client_encoding: str, driver: str, delivery: str
) -> None:
    encoded = make(encoding, delivery, driver, client_encoding=client_encoding)
    names = ["Gâteau", "寿司🙂"] if encoding == "UTF8" else ["Gâteau"]  # more than the engine could read
    with encoded.listen() as listener:
        with encoded.cluster.connect(encoded.database, client_encoding="utf8") as client:
            for id_, name in enumerate(names):
                client.execute("""INSERT INTO "Entrées" VALUES (%s, %s)""", [id_, name])
        listener.catch_up()
    assert encoded.names() == names


#: Bytes that the server stores, and nobody can read.
NO_TEXT = pytest.mark.parametrize(("encoding", "bytes_"), [("SQL_ASCII", rb"\xe9"), ("EUC_JP", rb"\xa9a1")])


@DELIVERIES
@NO_TEXT
def test_a_row_that_is_no_text_is_counted_and_asks_for_a_resync(
    make: Any, encoding: str, bytes_: bytes, delivery: str
) -> None:
    encoded = make(encoding, delivery, client_encoding="utf8")
    with encoded.listen() as listener:
        with encoded.connect() as client:
            client.execute(_insert(encoding, 1, b"'a'"))
            client.execute(_insert(encoding, 2, b"convert_from('" + bytes_ + b"', getdatabaseencoding())"))
            client.execute(_insert(encoding, 3, b"'c'"))
        listener.catch_up()
        assert listener.stats().garbage == 1
        assert listener.stats().reconnects == 0
    assert encoded.names() == ["a", "c"]
    assert len(encoded.resyncs) == 1


def _insert(encoding: str, id_: int, value: bytes) -> bytes:
    table = '"Entrées"'.encode("euc_jp" if encoding == "EUC_JP" else "utf-8")
    return b"INSERT INTO %s VALUES (%d, %s)" % (table, id_, value)


@NO_TEXT
def test_a_strangers_bytes_do_not_take_others_notifications_with_them(make: Any, encoding: str, bytes_: bytes) -> None:
    encoded = make(encoding, "notify", client_encoding="utf8")
    channel = encoded.Dish.watch.inserted.details.channel
    with encoded.listen() as listener:
        with encoded.connect() as client, client.transaction():  # so that all are read at once
            client.execute(_insert(encoding, 1, b"'a'"))
            name = channel.encode("euc_jp" if encoding == "EUC_JP" else "utf-8")
            client.execute(b"SELECT pg_notify('" + name + b"', convert_from('" + bytes_ + b"', getdatabaseencoding()))")
            client.execute(_insert(encoding, 2, b"'b'"))
        listener.catch_up()
        assert listener.stats().garbage == 1
    assert encoded.names() == ["a", "b"]


@needs_logical_messages
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_logical_message_of_somebody_else_whose_prefix_is_no_utf_8_does_not_stop_a_durable_listener(
    make: Any, encoding: str
) -> None:
    encoded = make(encoding, "durable", client_encoding="utf8")
    with encoded.listen() as listener:
        with encoded.connect() as client:
            client.execute(b"SELECT pg_logical_emit_message(true, '\xe9', 'x')")
        encoded.write(1, "a")
        listener.catch_up()
        assert listener.stats().reconnects == 0
    assert encoded.names() == ["a"]


@needs_logical_messages
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_dead_letter_is_written_whatever_the_error_says(make: Any, encoding: str) -> None:
    encoded = make(encoding, "durable", client_encoding="utf8")

    def 发送(sender: Any, event: Any) -> None:
        raise ValueError("寿司 🙂 é")

    encoded.Dish.watch.inserted.connect(发送)
    with encoded.listen(retry=RetryPolicy(max_attempts=1)) as listener:
        encoded.write(1, "Gâteau")
        encoded.write(2, "Café")
        listener.catch_up()
        assert listener.stats().dead_letters == 2
        with encoded.cluster.connect(encoded.database, client_encoding="utf8") as client:
            row = client.execute("SELECT count(*) FROM sqlalchemy_watch.dead_letters WHERE error LIKE 'ValueError: %'")
            assert row.fetchone() == (2,)
            encoded.Dish.watch.inserted.disconnect(发送)
    assert encoded.names() == ["Gâteau", "Café"]
    with encoded.engine.connect() as connection:
        assert connection.scalars(select(encoded.Dish.name)).all() == ["Gâteau", "Café"]


@needs_logical_messages
def test_a_parked_event_is_tried_again_for_a_receiver_whose_name_the_database_can_not_hold(make: Any) -> None:
    encoded = make("LATIN1", "durable")
    calls: list[str] = []

    @encoded.Dish.watch.inserted.connect
    def 发送(sender: Any, event: Any) -> None:
        calls.append(event.values["name"])
        if calls == ["Gâteau"]:
            raise ValueError("寿司")

    with encoded.listen(retry=RetryPolicy(in_order=False, first_delay=0.01)) as listener:
        encoded.write(1, "Gâteau")
        listener.catch_up()
        with encoded.cluster.connect(encoded.database) as client:
            wait_until(client, "SELECT count(*) = 0 FROM sqlalchemy_watch.dead_letters")
    assert calls == ["Gâteau", "Gâteau"]
