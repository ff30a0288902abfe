"""Right and wrong receivers, for mypy and pyright: they find an error in each line that says so, and in no other.

This is not run: `test_typing.py` has it checked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Row, Table, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqlalchemy_watch import Event, Listener, Resync, Transaction, Watched, watch
from sqlalchemy_watch.live import LiveQuery, live
from sqlalchemy_watch.webhooks import webhook


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = ("updated",)
    id: Mapped[int] = mapped_column(primary_key=True)


class SpecialOrder(Order):
    pass


class User(Watched, Base):
    __tablename__ = "users"
    __watch__ = ("updated",)
    id: Mapped[int] = mapped_column(primary_key=True)


updated = Order.watch.updated

# ---- Functions


@Order.watch.updated.connect
def take(sender: Any, event: Event[Order]) -> int:
    return event.identity[0] or 0


def call(event: Event[Order]) -> int:
    return take(Order, event=event)


def call_for_words(event: Event[Order]) -> str:
    return take(Order, event)  # error


@updated.connect
def take_another_name(who: type[Order], what: Event[Order]) -> None: ...


@updated.connect
def take_of_any_model(sender: object, event: Event[Base]) -> None: ...


@updated.connect
def take_anything(sender: Any, event: Any) -> None: ...


@updated.connect
async def take_in_a_loop(sender: Any, event: Event[Order]) -> str:
    return ""


async def wait(event: Event[Order]) -> str:
    return await take_in_a_loop(Order, event=event)


@updated.connect  # error
def take_a_user(sender: Any, event: Event[User]) -> None: ...


@updated.connect  # error
def take_no_event(sender: Any) -> None: ...


@updated.connect  # error
def take_nothing() -> None: ...


@updated.connect  # error
def take_too_much(sender: Any, event: Event[Order], more: int) -> None: ...


@updated.connect  # error
async def take_a_user_in_a_loop(sender: Any, event: Event[User]) -> None: ...


@updated.connect  # error
def take_a_special_order(sender: Any, event: Event[SpecialOrder]) -> None: ...


@updated.connect  # error
def take_a_list(sender: Any, event: list[Event[Order]]) -> None: ...


# ---- By keyword


@updated.connect
def take_by_keyword(sender: Any, *, event: Event[Order]) -> None: ...


@updated.connect
def take_keywords(sender: Any, **kwargs: Any) -> None: ...


@updated.connect
def take_all(*args: Any, **kwargs: Any) -> None: ...


@updated.connect  # error
def take_a_user_by_keyword(sender: Any, *, event: Event[User]) -> None: ...


@updated.connect  # error
def take_another_keyword(sender: Any, *, row: Event[Order]) -> None: ...


@updated.connect  # error
def take_keywords_of_a_user(sender: Any, **kwargs: Event[User]) -> None: ...


# ---- Methods, objects, lambdas, partials


class Service:
    def take(self, sender: Any, event: Event[Order]) -> None: ...

    def take_a_user(self, sender: Any, event: Event[User]) -> None: ...

    async def take_in_a_loop(self, sender: Any, event: Event[Order]) -> None: ...

    def __call__(self, sender: Any, event: Event[Order]) -> None: ...


class UserService:
    def __call__(self, sender: Any, event: Event[User]) -> None: ...


class Receipt:
    def __init__(self, sender: Any, event: Event[Order]) -> None: ...


service = Service()
updated.connect(service)
updated.connect(service.take)
updated.connect(service.take_in_a_loop)
updated.connect(Receipt)
updated.connect(service.take_a_user)  # error
updated.connect(UserService())  # error
updated.connect(Service)  # error

updated.connect(lambda sender, event: event.identity)
updated.connect(lambda sender, **kwargs: None)
updated.connect(lambda *args: None)
updated.connect(lambda sender: None)  # error


def take_with(number: int, sender: Any, event: Event[Order]) -> None: ...


updated.connect(partial(take_with, 7))
updated.connect(partial(take_with, number=7))


def untyped(sender, event):  # type: ignore[no-untyped-def]
    return event


updated.connect(untyped)
updated.connect("take")  # error

# ---- Parameters of connect

updated.connect(take, Order, True, "takes")
updated.connect(take, sender=Order, weak=True, name="takes")
updated.connect(take, name=7)  # error


@updated.connect(name="named")
def take_named(sender: Any, event: Event[Order]) -> int:
    return 7


def call_named(event: Event[Order]) -> int:
    return take_named(Order, event=event)


@updated.connect_via(Order)
def take_via(sender: Any, event: Event[Order]) -> None: ...


@updated.connect(name="named")  # error
def take_a_user_named(sender: Any, event: Event[User]) -> None: ...


@updated.connect_via(Order)  # error
def take_a_user_via(sender: Any, event: Event[User]) -> None: ...


# ---- Filters, all signals of a model, Tables

filtered = updated.filter_by(id=7)
filtered.connect(take)
updated.touching(id=7).connect(service.take)
Order.watch.connect(take)
filtered.connect(service.take_a_user)  # error
updated.touching(id=7).connect(service.take_a_user)  # error
Order.watch.connect(service.take_a_user)  # error


@filtered.connect(name="filtered")
def take_filtered(sender: Any, event: Event[Order]) -> None: ...


def watch_a_table(table: Table) -> None:
    watch(table, "updated").updated.connect(service.take)


# ---- Batches

batches = updated.batches(max_size=10)


@batches.connect
def take_many(sender: Any, events: list[Event[Order]]) -> int:
    return len(events)


many: int = take_many(Order, events=[])


@batches.connect
def take_many_by_keyword(sender: Any, *, events: list[Event[Order]]) -> None: ...


@batches.connect(name="many")
async def take_many_named(sender: Any, batch: list[Event[Order]]) -> None: ...


filtered.batches().connect(lambda sender, events: len(events))


@batches.connect  # error
def take_many_users(sender: Any, events: list[Event[User]]) -> None: ...


@batches.connect  # error
def take_one(sender: Any, events: Event[Order]) -> None: ...


batches.connect(service)  # error

# ---- The listener's own signals


def follow(listener: Listener, failed: Any) -> None:
    listener.resync.connect(lambda listener, reason: reason.upper())
    listener.resync.connect(lambda *args, **kwargs: None)
    listener.connected.connect(lambda listener: None, weak=True)
    listener.receiver_failed.connect(lambda listener, receiver, event, error: None)
    listener.resync.connect(lambda listener: None)  # error
    listener.disconnected.connect(lambda listener, reason: None)  # error


# ---- Events


def read(event: Event[Order], session: Session) -> tuple[int, Event[Base], Order | None]:
    return event.identity[0], event, event.load(session, options=[], with_for_update=True)


def read_special(event: Event[SpecialOrder]) -> Event[Order]:
    return event


def read_a_user(event: Event[Order]) -> Event[User]:
    return event  # error


def load_a_user(event: Event[Order], session: Session) -> User | None:
    return event.load(session)  # error


async def load(event: Event[Order], session: AsyncSession) -> Order | None:
    return await event.load(session)


# ---- Several signals at once, streams, iterators and transactions


def use(*values: object) -> None: ...


@Order.watch.connect
def take_every_one(sender: Any, event: Event[Order]) -> None: ...


@Order.watch.connect  # error
def take_every_one_of_another(sender: Any, event: Event[User]) -> None: ...


def iterate(listener: Listener) -> None:
    for event in Order.watch.iterate(timeout=1):
        order: Event[Order] = event
        user: Event[User] = event  # error
        use(order, user)
    for found in Order.watch.updated.iterate(on_gap="yield"):
        if isinstance(found, Resync):
            use(found.reason, found.dropped)
        else:
            use(found.identity)
        use(found.identity)  # error
    for anything in listener.events.iterate():
        use(anything.model)


async def stream() -> None:
    async with Order.watch.updated.stream() as events:
        async for event in events:
            order: Event[Order] = event
            use(order)
    async with Order.watch.stream(on_gap="sometimes") as others:  # error
        use(others)


def project(listener: Listener) -> None:
    @listener.transactions.connect
    def take_whole(sender: Any, transaction: Transaction) -> None:
        use(transaction.events[0].identity, transaction.is_last)

    @listener.transactions.connect(chunk=10, name="parts")
    def take_parts(sender: Any, transaction: Transaction) -> None: ...

    def take_nothing() -> None: ...

    listener.transactions.connect(take_nothing)  # error
    take_whole(listener, take_parts)  # error


# ---- With a session


def book(sender: Any, event: Event[Order], session: Session) -> None: ...


async def book_async(sender: Any, event: Event[Order], session: AsyncSession) -> None: ...


updated.connect_once(book, sessionmaker[Session]())
updated.connect_once(book_async, async_sessionmaker[AsyncSession]())
updated.connect_once(book, async_sessionmaker[AsyncSession]())  # error
Order.watch.connect_once(book, sessionmaker[Session]())


@updated.connect_once(session_factory=sessionmaker[Session]())
def book_decorated(sender: Any, event: Event[Order], session: Session) -> None: ...


@updated.connect_once(session_factory=sessionmaker[Session]())  # error
def book_user(sender: Any, event: Event[User], session: Session) -> None: ...


# ---- Webhooks


def body_of(event: Event[Order]) -> dict[str, object]:
    return {"id": event.identity[0]}


def url_of(event: Event[Any]) -> str | None:
    return None


updated.connect(webhook("https://partner.example", secret="whsec_"), name="partner")
updated.filter_by(id=7).connect(webhook(url_of, secret=lambda event: ["whsec_"], body=body_of))
Order.watch.connect(webhook(lambda event: str(event.id), secret=["whsec_"], body=lambda event: event.to_json()))
updated.batches(max_size=10).connect(webhook("https://partner.example", secret="whsec_"))  # error
webhook("https://partner.example", secret=b"whsec_")  # error


# ---- Live queries


async def load_count(session: AsyncSession) -> int:
    return 1


def take_key(key: int) -> None: ...


async def follow_queries(factory: async_sessionmaker[AsyncSession], number: int) -> None:
    async for rows in live(factory, select(Order.id, Order)):
        key: int = rows[0][0]
        order: Order = rows[0][1]
        take_key(key + order.id)
    async for count in live(factory, load_count):
        take_key(count)
    async for count in live(factory, lambda session: load_count(session)):
        take_key(count + number)
    async for counts in live(factory, load_count):
        take_key(counts.missing)  # error
    live(factory, 1)  # error


def show(query: Any, rows: list[Row[int]]) -> None: ...
def show_text(query: Any, text: str) -> None: ...


def follow_in_threads(factory: sessionmaker[Session]) -> None:
    LiveQuery(factory, select(Order.id)).changed.connect(show)
    LiveQuery(factory, select(Order.id)).changed.connect(show_text)  # error
    LiveQuery(factory, lambda session: "text").changed.connect(show_text)
    LiveQuery(factory, lambda session: 1).changed.connect(show_text)  # error
