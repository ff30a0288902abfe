"""`make_event`: a real event without a database."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from sqlalchemy import Column, Integer, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, Event, Watch, Watched, watch
from sqlalchemy_watch.testing import make_event


class Base(DeclarativeBase):
    pass


class Parcel(Watched, Base):
    __tablename__ = "parcels"
    __watch__ = (
        "inserted", Watch("updated", extra_columns=("status",), old=True), "truncated",
        Watch("updated", label="shipped", when=lambda old, new: new.status == "shipped"),
    )  # fmt: skip
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


def test_it_has_all_that_an_event_has() -> None:
    event = make_event(Parcel.watch.updated, id=1, status="shipped", old={"status": "new"}, context={"user": 7}, txid=5)
    assert (event.model, event.operation, event.label, event.identity) == (Parcel, "updated", "updated", (1,))
    assert dict(event.values) == {"id": 1, "status": "shipped"}
    assert event.old == {"id": 1, "status": "new"}
    assert event.changed == {"status"}
    assert (event.context, event.txid, event.schema, event.partial) == ({"user": 7}, 5, "public", False)
    assert Event.from_json(event.to_json(), Base) == event == pickle.loads(pickle.dumps(event))


def test_of_any_operation_and_of_tables_as_well() -> None:
    assert make_event(Parcel.watch.inserted, id=1).old is None
    assert make_event(Parcel.watch.shipped, id=1).label == "shipped"
    assert make_event(Parcel.watch.truncated).identity == ()
    assert make_event(Parcel.watch.read, id=1, status="x").operation == "read"
    table = Table("crates", Base.metadata, Column("id", Integer, primary_key=True))
    assert make_event(watch(table, "inserted").inserted, id=1).model is table


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"id": 1}, "carries 'status' as well"),
        ({"id": 1, "status": "x", "price": 5}, "does not carry 'price': its values are 'id', 'status'"),
        ({"id": 1, "status": "x", "old": {"price": 5}}, "does not carry 'price': its old are"),
    ],
)
def test_what_it_would_not_carry_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_event(Parcel.watch.updated, **values)
    with pytest.raises(ConfigurationError, match="is no signal of one watch"):
        make_event(Parcel.watch, id=1)  # type: ignore[arg-type]


def test_attributes_with_the_name_of_a_parameter_and_ids() -> None:
    class Base(DeclarativeBase):
        pass

    class Note(Watched, Base):
        __tablename__ = "notes"
        __watch__ = (Watch("inserted", extra_columns=("context", "schema")),)
        id: Mapped[int] = mapped_column(primary_key=True)
        context: Mapped[str]
        schema: Mapped[str]

    made = [make_event(Note.watch.inserted, {"context": "x", "schema": "y"}, id=number) for number in (1, 2)]
    assert dict(made[0].values) == {"id": 1, "context": "x", "schema": "y"}
    assert made[0].id != made[1].id
    with pytest.raises(ConfigurationError, match="'Note.inserted' has no old values: leave old= out"):
        make_event(Note.watch.inserted, {"context": "x", "schema": "y"}, id=1, old={"id": 2})
