"""A function of each kind, as the golden files in `golden/` have them: together they show every branch of the text.

    python -m tests.functions.kinds --record

records the files anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched, watch
from sqlalchemy_watch.declaring.filing import watches_in
from sqlalchemy_watch.declaring.spec import TableWatch
from sqlalchemy_watch.triggers import ddl

FOLDER = Path(__file__).parent / "golden"


def _orders(spec: Any, schema: str | None = None, application: str = "") -> TableWatch:
    metadata = sa.MetaData(schema=schema, info={"sqlalchemy_watch_application": application} if application else {})
    table = sa.Table(
        "orders", metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer_id", sa.BigInteger),
        sa.Column("status", sa.Text),
        sa.Column("total", sa.Numeric),
        sa.Column("placed_at", sa.DateTime(timezone=True)),
    )  # fmt: skip
    watch(table, spec)
    return _only(metadata)


def _lines(spec: Any) -> TableWatch:
    table = sa.Table(
        "lines", sa.MetaData(),
        sa.Column("order", sa.Integer, primary_key=True),
        sa.Column("number", sa.SmallInteger, primary_key=True),
        sa.Column("note", sa.Text),
    )  # fmt: skip
    watch(table, spec)
    return _only(table.metadata)


def _wide() -> TableWatch:
    """The watch of a table of more columns than one call has arguments."""
    columns = [sa.Column(f"column_{number}", sa.Text) for number in range(50)]
    table = sa.Table("wide", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)
    watch(table, Watch("inserted", extra_columns=[column.name for column in columns], level="row"))
    return _only(table.metadata)


def _hostile_names() -> TableWatch:
    names = ('quo"ted', "per%cent", "two\nlines")
    columns = [sa.Column(name, sa.Text) for name in names]
    table = sa.Table("Order's \\ lines", sa.MetaData(), sa.Column("begin", sa.Integer, primary_key=True), *columns)
    watch(table, Watch("deleted", extra_columns=names, delivery="durable", level="row"))
    return _only(table.metadata)


def _every_type() -> TableWatch:
    types: dict[str, Any] = {
        "small": sa.SmallInteger(), "flag": sa.Boolean(), "amount": sa.Numeric(10, 2), "ratio": sa.Double(),
        "words": sa.Text(), "padded": sa.CHAR(5), "token": sa.Uuid(), "day": sa.Date(), "moment": sa.DateTime(),
        "instant": sa.DateTime(timezone=True), "span": sa.Interval(), "data": sa.LargeBinary(), "document": sa.JSON(),
        "tree": pg.JSONB(), "numbers": pg.ARRAY(sa.Integer), "color": sa.Enum("red", name="color"),
        "address": pg.INET(),
    }  # fmt: skip
    columns = [sa.Column(name, kind) for name, kind in types.items()]
    table = sa.Table("specimens", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)
    watch(table, Watch("inserted", extra_columns=tuple(types)))
    return _only(table.metadata)


def _joined(level: Any, schema: str | None) -> TableWatch:
    """The watch of the lowest table of three."""

    class Base(DeclarativeBase):
        metadata = sa.MetaData(schema=schema)

    class Animal(Base):
        __tablename__ = "animals"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Dog(Animal):
        __tablename__ = "dogs"
        __mapper_args__ = {"polymorphic_identity": "dog"}
        id: Mapped[int] = mapped_column(sa.ForeignKey(Animal.id), primary_key=True)

    class Puppy(Watched, Dog):
        __tablename__ = "puppies"
        __watch__ = [Watch("updated", label="played", trigger_columns=("toy",), old=True, level=level)]
        __mapper_args__ = {"polymorphic_identity": "puppy"}
        puppy_id: Mapped[int] = mapped_column(sa.ForeignKey(Dog.id), primary_key=True)
        toy: Mapped[str | None]

    return _only(Base.metadata)


def _single_table() -> TableWatch:
    class Base(DeclarativeBase):
        pass

    class Employee(Watched, Base):
        __tablename__ = "employees"
        __watch__ = [Watch("deleted", old=True, extra_columns=("name",), delivery="both")]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        name: Mapped[str]

    return _only(Base.metadata)


def _only(metadata: sa.MetaData) -> TableWatch:
    [found] = [filed for table in watches_in(metadata).values() for filed in table.values()]
    return found


def _large(old: Any, new: Any) -> Any:
    return (new.total + 1) * 2 > 100


def _grown(old: Any, new: Any) -> Any:
    return new.total.between(old.total, 100) & new.status.in_(["new", "paid"]) | (new.status != old.status)


def kinds() -> dict[str, TableWatch]:
    """Return a watch of each kind, by the name of its file."""
    extra = ("customer_id", "status")
    everything = partial(
        Watch, "updated", label="grown", extra_columns=extra, trigger_columns=("total",), when=_grown, old=True,
        delivery="both",
    )  # fmt: skip
    return {
        "inserted": _orders(Watch("inserted", extra_columns=extra)),
        "inserted_bounded_types": _orders(Watch("inserted", extra_columns=("customer_id", "placed_at"))),
        "inserted_every_type": _every_type(),
        "inserted_durable_in_a_schema": _orders(
            Watch("inserted", extra_columns=extra, delivery="durable"), "shop", "billing"
        ),
        "inserted_both_when": _orders(
            Watch("inserted", label="large", when=_large, extra_columns=extra, delivery="both")
        ),
        "inserted_row_wide": _wide(),
        "inserted_row_when": _orders(Watch("inserted", label="large", when=_large, level="row")),
        "updated_trigger_columns": _orders(Watch("updated", label="moved", trigger_columns=("status", "total"))),
        "updated_old_composite_key": _lines(Watch("updated", extra_columns=("note",), old=True)),
        "updated_old_bounded_types": _orders(Watch("updated", extra_columns=("customer_id",), old=True)),
        "updated_durable_when_old": _orders(Watch("updated", label="grown", when=_grown, delivery="durable")),
        "updated_both_everything": _orders(everything()),
        "updated_joined": _joined("statement", None),
        "updated_row_old_composite_key": _lines(
            Watch("updated", label="noted", trigger_columns=("note",), old=True, level="row")
        ),
        "updated_row_both_everything": _orders(everything(level="row"), "shop"),
        "updated_row_joined_in_a_schema": _joined("row", "shop"),
        "deleted_single_table": _single_table(),
        "deleted_row_durable_hostile_names": _hostile_names(),
        "truncated": _orders(Watch("truncated")),
        "truncated_both_in_a_schema": _orders(Watch("truncated", delivery="both"), "shop"),
    }


def path_of(kind: str) -> Path:
    return FOLDER / f"{kind}.sql"


def text_of(filed: TableWatch) -> str:
    """Return the statements that make function and trigger."""
    return f"{ddl.create_function(filed)};\n\n{ddl.create_trigger(filed)};\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.functions.kinds", description="Record the golden files.")
    parser.add_argument("--record", action="store_true", required=True, help="write them anew")
    parser.parse_args(arguments)
    for path in FOLDER.glob("*.sql"):
        path.unlink()
    for kind, filed in kinds().items():
        path_of(kind).write_text(text_of(filed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
