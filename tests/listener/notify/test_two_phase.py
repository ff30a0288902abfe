"""Prepared transactions, to which PostgreSQL refuses NOTIFY: the error, and the two ways round it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from models import declare_order
from postgres import needs_logical_messages
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched, muted

from ..journal import Journal

pytestmark = pytest.mark.server


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    Order = declare_order(Base)
    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def Comment(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Comment(Watched, Base):
        __tablename__ = "comments"
        __watch__ = (Watch("inserted", delivery="durable"),)
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    return Comment


def test_prepare_is_refused_by_the_server_after_a_watched_write(client: psycopg.Connection[Any], Order: Any) -> None:
    with client.transaction():
        client.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            client.execute("PREPARE TRANSACTION 'shop'")


def test_muted_transaction_can_be_prepared(engine: Engine, client: psycopg.Connection[Any], Order: Any) -> None:
    journal = Journal()
    Order.watch.inserted.connect(journal)
    with Listener(engine, Order) as listener:
        with engine.connect() as connection:
            transaction = connection.begin_twophase("shop")
            with muted(connection):
                connection.execute(text("INSERT INTO orders VALUES (1)"))
            transaction.prepare()
            transaction.commit()
        listener.catch_up()
    assert journal.entries == []
    assert client.execute("SELECT id FROM orders").fetchall() == [(1,)]


@needs_logical_messages
def test_durable_delivery_hears_prepared_transactions_when_they_commit(
    engine: Engine, client: psycopg.Connection[Any], Comment: Any, database: str
) -> None:
    journal = Journal()
    Comment.watch.inserted.connect(journal)
    with Listener(engine, Comment, durable=f"group_{database}") as listener:
        with Session(engine, twophase=True) as session:
            session.add_all([Comment(id=1), Comment(id=2)])
            session.commit()
        with client.transaction():
            client.execute("INSERT INTO comments VALUES (3)")
            client.execute("PREPARE TRANSACTION 'later'")
        client.execute("INSERT INTO comments VALUES (4)")
        listener.catch_up()
        assert journal.ids() == [1, 2, 4]
        client.execute("COMMIT PREPARED 'later'")
        listener.catch_up()
    assert journal.ids() == [1, 2, 4, 3]
    client.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
