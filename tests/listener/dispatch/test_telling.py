"""What the log says: of receivers that fail, of watches that this listener does not hear, of a server out of reach."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import insert, wait_until

from sqlalchemy_watch import CatchUpTimeout, Listener, RetryPolicy, Watch, Watched, everything, watch

from ..conftest import MakeListener
from ..insides import source_of

Client = psycopg.Connection[Any]


def fail(sender: Any, event: Any = None, events: Any = None) -> None:
    raise ValueError("no")


@pytest.fixture
def Item(Base: type[DeclarativeBase], engine: Engine) -> Any:
    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = (
            Watch("inserted", extra_columns=("secret",), delivery="both"),
            Watch("updated", delivery="durable"),
            Watch("deleted", delivery="notify"),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        secret: Mapped[str] = mapped_column(server_default="hidden_value")

    Base.metadata.create_all(engine)
    return Item


@pytest.fixture(autouse=True)
def talkative(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sqlalchemy_watch")


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_failure_names_receiver_and_row_and_that_it_is_not_tried_again(
    engine: Engine, client: Client, Item: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Item.watch.inserted.connect(fail)
    batches = Item.watch.inserted.batches(max_wait=60)
    batches.connect(fail)
    with Listener(engine, Item) as listener:
        insert(client, "items", range(7, 10))
        listener.catch_up()
    told = messages(caplog, logging.ERROR)
    assert len(told) == 4
    assert told[0].endswith("test_telling.fail failed on Item.inserted (7,): not tried again")
    assert told[3].endswith("test_telling.fail failed on Item.inserted (7,) and 2 more: not tried again")
    assert not any("hidden_value" in words for words in told)


@needs_logical_messages
@pytest.mark.parametrize(
    ("policy", "fates"),
    [
        (RetryPolicy(first_delay=0.01, max_attempts=2), ["tried again in 0.01 s", "it goes to the dead letters"]),
        (
            RetryPolicy(first_delay=0.01, max_attempts=2, in_order=False),
            ["parked among the dead letters, and tried again in 0.01 s", "its dead letter is given up"],
        ),
    ],
    ids=["in order", "parked"],
)
def test_a_groups_failure_says_when_it_is_tried_again_and_where_it_goes(
    client: Client, Item: Any, durable: MakeListener, policy: RetryPolicy, fates: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    Item.watch.inserted.connect(fail)
    with durable(retry=policy) as listener:
        insert(client, "items", 7)
        listener.catch_up()
        wait_until(client, lambda: listener.stats().dead_letters)
    told = messages(caplog, logging.ERROR)
    assert [words.partition("Item.inserted (7,): ")[2] for words in told[:2]] == fates
    assert "gave up Item.inserted (7,) for receiver" in told[2]
    assert not any("hidden_value" in words for words in told)


@pytest.mark.parametrize("durable_route", [False, pytest.param(True, marks=needs_logical_messages)])
@pytest.mark.parametrize("kind", ["plain", "filter", "batches", "none"])
def test_watches_that_a_listener_does_not_hear_are_named_at_its_start(
    engine: Engine, Item: Any, group: str, caplog: pytest.LogCaptureFixture, kind: str, durable_route: bool
) -> None:
    unheard, remedy = ("deleted", "without durable=") if durable_route else ("updated", "durable='a_group'")
    signal = Item.watch[unheard]
    views = {"plain": signal, "filter": signal.filter_by(id=7), "batches": signal.batches()}
    if kind != "none":
        views[kind].connect(fail)
    with Listener(engine, Item, durable=group if durable_route else None):
        pass
    told = [words for words in messages(caplog) if "does not hear" in words]
    if kind == "none":
        assert told == []
        assert any(f"does not hear Item.{unheard}" in words for words in messages(caplog, logging.INFO))
    else:
        (words,) = told
        assert f"does not hear Item.{unheard}, which have receivers" in words
        assert remedy in words


@needs_logical_messages
@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("the vault is closed")])
def test_catch_up_says_why_it_could_not_ask_the_server(
    Item: Any, durable: MakeListener, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> Any:
        raise error

    with durable() as listener:
        with monkeypatch.context() as patched:
            patched.setattr(source_of(listener), "_connect", refuse)
            with pytest.raises(CatchUpTimeout, match=rf"could not be asked \(.*{error.args[-1]}") as raised:
                listener.catch_up(timeout=0.5)
            assert raised.value.__cause__ is error
        listener.catch_up()


@needs_logical_messages
def test_catch_up_goes_on_when_descriptors_are_free_again(
    Item: Any, durable: MakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with durable() as listener:
        source, failures = source_of(listener), [0]
        connect = source._connect

        def fail_twice(**options: Any) -> Any:
            failures[0] += 1
            if failures[0] <= 2:
                raise OSError(24, "Too many open files")
            return connect(**options)

        monkeypatch.setattr(source, "_connect", fail_twice)
        listener.catch_up()
    assert failures[0] > 2


def test_models_that_look_watched_and_are_not_are_named_at_its_start(
    engine: Engine, Base: type[DeclarativeBase], Item: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Named(Base):
        __tablename__ = "named"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Book(Named):
        __watch__ = everything("title")

    class Table(Base):
        __tablename__ = "tables"
        __watch__ = ("inserted",)
        id: Mapped[int] = mapped_column(primary_key=True)

    class Unmapped(Base):
        __abstract__ = True
        __watch__ = ("inserted",)

    watch(Table, *Table.__watch__)
    for targets in ((Base,), (Base.registry, Item), (Book, Base)):
        caplog.clear()
        with Listener(engine, *targets):
            pass
        assert messages(caplog) == [
            "Book has __watch__ and is not Watched, so that nothing of it is heard: class Book(Watched, Named)"
        ]
    caplog.clear()
    with Listener(engine, Base.metadata):
        pass
    assert messages(caplog) == []
