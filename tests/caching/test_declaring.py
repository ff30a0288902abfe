"""What would leave an entry behind is refused where it is declared, with the remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cashews import Cache as Cashews
from dogpile.cache import make_region
from flask_caching import Cache as FlaskCache
from sqlalchemy import Column, Engine, ForeignKey, Integer, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, Listener, Watch, Watched, watch
from sqlalchemy_watch.caching import Invalidation, invalidate
from sqlalchemy_watch.caching.keys import Keys

CACHE: dict[Any, Any] = {}

ALL = ("inserted", "updated", "deleted", "truncated")


def declare(Base: type[DeclarativeBase], *watches: Any) -> Any:
    class Order(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "orders"
        __watch__ = watches
        id: Mapped[int] = mapped_column(primary_key=True)
        customer_id: Mapped[int]
        total: Mapped[int]

    return Order


def everything(*columns: str, old: bool = True, **options: Any) -> tuple[Any, ...]:
    return (
        Watch("inserted", extra_columns=columns, **options),
        Watch("updated", extra_columns=columns, old=old, **options),
        Watch("deleted", extra_columns=columns, **options),
        Watch("truncated", **options),
    )


def by_customer(row: Any) -> str:
    return f"orders:{row['customer_id']}"


def by_id(row: Any) -> str:
    return f"order:{row['id']}"


REFUSED: list[tuple[str, tuple[Any, ...], Callable[[Any], Any], tuple[str, ...]]] = [
    ("nothing", (), by_id, ("Order", "not watched", "__watch__")),
    ("no update", ("deleted", "truncated"), by_id, ("Order", "'updated'", "add it to __watch__")),
    ("no delete", ("updated", "truncated"), by_id, ("Order", "'deleted'", "add it to __watch__")),
    ("no truncate", ("updated", "deleted"), by_id, ("Order", "'truncated'", "add it to __watch__")),
    (
        "trigger_columns",
        (Watch("updated", label="paid", trigger_columns=["total"]), "deleted", "truncated"),
        by_id,
        ("'orders'", "'updated'", "Order.paid", "Watch('updated')"),
    ),
    (
        "when",
        ("updated", Watch("deleted", label="big", when=lambda old, new: old.total > 9), "truncated"),
        by_id,
        ("'orders'", "'deleted'", "Order.big"),
    ),
    (
        "durable",
        tuple(Watch(name, delivery="durable") for name in ALL),
        by_id,
        ("'orders'", "'updated'", "delivery='both'"),
    ),
    (
        "not carried",
        (*everything("customer_id")[:2], "deleted", "truncated"),
        by_customer,
        ("'orders'", "'deleted'", "'customer_id'", "extra_columns"),
    ),
    ("not carried, by get", ALL, lambda row: row.get("customer_id"), ("'orders'", "'customer_id'")),
    ("not carried, in a dict", ALL, lambda row: dict(row)["customer_id"], ("'orders'", "'customer_id'")),
    ("not carried, several", ALL, lambda row: (row[name] for name in ("id", "total")), ("'orders'", "'total'")),
    ("no column", ALL, lambda row: row["no_such"], ("'orders'", "'no_such'", "'id'")),
    (
        "no old values",
        everything("customer_id", old=False),
        by_customer,
        ("'orders'", "'updated'", "'customer_id'", "old=True"),
    ),
    (
        "no new rows",
        everything("customer_id")[1:],
        by_customer,
        ("'orders'", "'inserted'", "'customer_id'"),
    ),
]


@pytest.mark.parametrize(("watches", "key", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_declaration_that_leaves_entries_behind_is_refused(
    Base: type[DeclarativeBase], watches: tuple[Any, ...], key: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Keys(declare(Base, *watches), key)
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


ACCEPTED: list[tuple[str, tuple[Any, ...], Callable[[Any], Any]]] = [
    ("by the primary key", ("updated", "deleted", "truncated"), by_id),
    ("by a parent", everything("customer_id"), by_customer),
    ("delivery both", tuple(Watch(name, delivery="both") for name in ALL), by_id),
    (
        "the one of two that carries it",
        (*everything("customer_id"), Watch("updated", label="also", extra_columns=["total"])),
        by_customer,
    ),
    ("no key", ALL, lambda row: None),
    ("several keys", ALL, lambda row: [f"order:{row['id']}", "orders"]),
    ("formatted", ALL, lambda row: f"order:{row['id']:08d}:{row['id']:.2f}:{row['id']:%Y-%m}"),
    ("joined", ALL, lambda row: "order:" + row["id"].hex.upper() + str(row["id"] + 1) + row["id"][0]),
    ("called", ALL, lambda row: ":".join(["order", row["id"].isoformat()[:4].strip().lower() or "x"])),
    ("fails on made-up values", ALL, lambda row: {7: "seven"}[row["id"]]),
    ("fails on their texts", ALL, lambda row: {"seven": 7}[str(row["id"])]),
    ("fails on unhashable ones", ALL, lambda row: {}[frozenset([[row["id"]]])]),
    ("raises something", ALL, lambda row: (_ for _ in ()).throw(RuntimeError(row["id"]))),
]


@pytest.mark.parametrize(("watches", "key"), [a[1:] for a in ACCEPTED], ids=[a[0] for a in ACCEPTED])
def test_declaration_that_leaves_nothing_behind_is_accepted(
    Base: type[DeclarativeBase], watches: tuple[Any, ...], key: Any
) -> None:
    assert {signal.operation for signal in Keys(declare(Base, *watches), key).signals} >= {"updated", "deleted"}


def test_of_a_hierarchy_all_tables_carry_what_the_key_asks_for(Base: type[DeclarativeBase]) -> None:
    class Person(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    class Employee(Person):
        __tablename__ = "employees"
        __watch__ = (
            "inserted", Watch("updated", extra_columns=["boss"], old=True), "deleted", "truncated",
        )  # fmt: skip
        id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
        boss: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "employee"}

    assert Keys(Employee, by_id).signals
    with pytest.raises(ConfigurationError, match="'boss', which events do not carry"):
        Keys(Employee, lambda row: row["boss"])


def test_core_table_is_a_model(Base: type[DeclarativeBase]) -> None:
    table = Table("things", Base.metadata, Column("id", Integer, primary_key=True))
    watch(table, *ALL)
    assert [signal.operation for signal in Keys(table, by_id).signals] == [
        "updated",
        "deleted",
        "truncated",
        "inserted",
    ]


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    return declare(Base, *ALL)


def refuse(match: str, cache: Any, model: Any, **options: Any) -> None:
    with pytest.raises(ConfigurationError, match=match):
        invalidate(cache, model, **{"key": by_id, **options})


def test_cache_that_is_none_is_refused(engine: Engine, Order: Any) -> None:
    listener = Listener(engine, Order)
    for cache in ({}, None, "cache", FlaskCache(), Cashews()):
        refuse("such as cache.delete", cache, Order, listener=listener, everything=CACHE.clear)
    refuse("region.configure", make_region(), Order, listener=listener)
    region = make_region().configure("dogpile.cache.memory")
    refuse("a region is cleared without it", region, Order, listener=listener, everything=CACHE.clear)
    refuse("everything= must be a function", CACHE.pop, Order, listener=listener)
    refuse("everything= must be a function", CACHE.pop, Order, listener=listener, everything=True)


def test_model_and_key_that_are_none_are_refused(engine: Engine, Order: Any) -> None:
    async def no_key(row: Any) -> str:
        return "key"

    listener, cache = Listener(engine, Order), {"everything": CACHE.clear}
    refuse("one model", CACHE.pop, [Order], listener=listener, **cache)
    refuse("'orders' is not watched", CACHE.pop, "orders", listener=listener, **cache)
    refuse("int is not watched", CACHE.pop, int, listener=listener, **cache)
    refuse("key must be a plain function", CACHE.pop, Order, listener=listener, key="order", **cache)
    refuse("key must be a plain function", CACHE.pop, Order, listener=listener, key=no_key, **cache)
    refuse("'serve' or 'bypass', not 'wait'", CACHE.pop, Order, listener=listener, while_disconnected="wait", **cache)


def test_listener_that_is_not_enough_is_refused(engine: Engine, Base: type[DeclarativeBase], Order: Any) -> None:
    class Other(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "others"
        __watch__ = ALL
        id: Mapped[int] = mapped_column(primary_key=True)

    def refuse_listener(match: str, listener: Any) -> None:
        refuse(match, CACHE.pop, Order, listener=listener, everything=CACHE.clear)

    refuse_listener("listener must be a Listener", engine)
    refuse_listener("does not hear table 'orders'", Listener(engine, Other))
    refuse_listener("one process alone hears", Listener(engine, Base, durable="a_group"))
    refuse_listener("one process alone hears", Listener(engine, Base, exclusive="one"))


def test_loading_without_a_key_is_refused(engine: Engine, Order: Any) -> None:
    listener = Listener(engine, Order)
    with (
        invalidate(CACHE.pop, Order, key=by_id, everything=CACHE.clear, listener=listener) as invalidation,
        pytest.raises(ConfigurationError, match="needs the keys"),
    ):
        invalidation.loading()


def test_dogpile_is_imported_where_a_region_is_given() -> None:
    words = "import sys, sqlalchemy_watch.caching; sys.exit('dogpile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_refusal_leaves_the_region_as_it_was(engine: Engine, Base: type[DeclarativeBase]) -> None:
    region = make_region().configure("dogpile.cache.memory")
    before = region.backend
    Order = declare(Base, "updated")
    with pytest.raises(ConfigurationError):
        invalidate(region, Order, key=by_id, listener=Listener(engine, Base))
    assert region.backend is before


def test_several_models_of_a_region_have_one_guard(engine: Engine, Base: type[DeclarativeBase], Order: Any) -> None:
    region = make_region().configure("dogpile.cache.memory")
    listener = Listener(engine, Base)
    first: Invalidation = invalidate(region, Order, key=by_id, listener=listener)
    guard = region.backend
    second = invalidate(region, Order, key=lambda row: "orders", listener=listener)
    assert region.backend is guard
    first.close()
    second.close()
    second.close()
    region.set("key", 1)  # as without it
    assert region.get("key") == 1
    assert not Order.watch.updated.receivers
    assert not listener.resync.receivers
